"""The clients of `benchmarks.soak`: good, careless and hostile ones."""

import asyncio
import contextlib
import json
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import aiohttp

from benchmarks.workload import WORDS

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 12}},
            "required": ["city"],
        },
    },
}
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer"}},
    "required": ["name", "age"],
}
NONSENSE: tuple[bytes, ...] = (
    b"",
    b"{",
    b"[]",
    b'{"inputs": 5}',
    b'{"inputs": "x", "parameters": {"max_new_tokens": -1}}',
    b'{"inputs": "x", "parameters": {"temperature": NaN}}',
    b'{"inputs": "x", "parameters": {"grammar": {"type": "regex", "value": "(?=a)"}}}',
    b"\xff\xfe" * 100,
    b'{"inputs": "' + b"x" * 3_000_000 + b'"}',
)


class WrongAnswerError(AssertionError):
    """An answer that a client must not get."""


@dataclass(frozen=True)
class Client:
    """One user's session, and the chance it is drawn from."""

    session: aiohttp.ClientSession
    random: random.Random

    def text(self, most: int = 60) -> str:
        """A few words."""
        return " ".join(self.random.choices(WORDS, k=self.random.randint(1, most)))

    def parameters(self, most: int = 40) -> dict[str, Any]:
        """Greedy or sampled."""
        sampled = {"do_sample": True, "temperature": 1.0, "seed": self.random.randrange(1 << 32)}
        chosen = sampled if self.random.random() < 0.5 else {}
        return {"max_new_tokens": self.random.randint(1, most), **chosen}

    async def generate(self) -> None:
        """An unstreamed answer."""
        answer = await self._json("/generate", self._generate_body())
        _expect("generated_text" in answer, answer)

    async def stream(self) -> None:
        """A stream, read to its end."""
        events = [event async for event in self._events(self._generate_body())]
        _expect(bool(events) and "generated_text" in events[-1], events[-1:])

    async def read_slowly(self) -> None:
        """A stream whose reader dawdles."""
        async for _ in self._events(self._generate_body(30)):
            await asyncio.sleep(0.02)

    async def leave(self) -> None:
        """A client that goes after the first token."""
        async for event in self._events(self._generate_body(1000)):
            _expect("token" in event, event)
            return

    async def chat(self) -> None:
        """A chat without a stream."""
        body = {"messages": [{"role": "user", "content": self.text()}], "max_tokens": 30}
        answer = await self._json("/v1/chat/completions", body)
        _expect(answer["choices"][0]["finish_reason"] in ("stop", "length"), answer)

    async def grammar(self) -> None:
        """JSON by a schema, at a temperature that would rather write something else."""
        body = self._generate_body()
        body["parameters"] |= {"grammar": {"type": "json", "value": SCHEMA}, "max_new_tokens": 100}
        text = (await self._json("/generate", body))["generated_text"]
        with contextlib.suppress(ValueError):  # cut short by max_new_tokens
            _expect(set(json.loads(text)) == {"name", "age"}, text)

    async def tool(self) -> None:
        """A call that must come."""
        body = {
            "messages": [{"role": "user", "content": self.text(5)}],
            "tools": [TOOL],
            "tool_choice": "required",
            "parallel_tool_calls": False,
            "max_tokens": 120,
            "temperature": 1.0,
        }
        message = (await self._json("/v1/chat/completions", body))["choices"][0]["message"]
        for call in message.get("tool_calls") or ():
            _expect(call["function"]["name"] == "get_weather", message)

    async def nonsense(self) -> None:
        """What no client should send; an error of the 4xx kind comes back."""
        headers = {"content-type": "application/json"}
        body = self.random.choice(NONSENSE)
        async with self.session.post("/generate", data=body, headers=headers) as response:
            _expect(400 <= response.status < 500, (response.status, body[:80]))

    def _generate_body(self, most: int = 40) -> dict[str, Any]:
        return {"inputs": self.text(), "parameters": self.parameters(most)}

    async def _json(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        async with self.session.post(path, json=body) as response:
            answer: dict[str, Any] = await response.json()
            _expect(response.status == 200, (response.status, answer))
            return answer

    async def _events(self, body: dict[str, Any]) -> Any:
        async with self.session.post("/generate_stream", json=body) as response:
            _expect(response.status == 200, response.status)
            async for line in response.content:
                if line.startswith(b"data:"):
                    event = json.loads(line[5:])
                    _expect("error" not in event, event)
                    yield event


Behaviour = Callable[[Client], Awaitable[None]]
# How often each kind of client comes.
CROWD: dict[Behaviour, int] = {
    Client.generate: 4,
    Client.stream: 6,
    Client.read_slowly: 1,
    Client.leave: 3,
    Client.chat: 3,
    Client.grammar: 2,
    Client.tool: 1,
    Client.nonsense: 3,
}


def _expect(is_right: bool, what: object) -> None:
    if not is_right:
        raise WrongAnswerError(repr(what)[:300])
