"""A running server, asked through `/generate_stream`.

Lengths are exact: a prompt of more words than tokens is truncated to its last `sequence_length`
tokens, and the end-of-sequence token does not end the output (`ignore_eos`). Every prompt is new,
so that a prefix cache saves nothing.
"""

import asyncio
import json
import random
import time
from typing import Any

import aiohttp

from text_generation_benchmark.config import BenchmarkConfig
from text_generation_benchmark.errors import BenchmarkError
from text_generation_benchmark.prompts import random_words
from text_generation_benchmark.timing import RunTime

_CONNECT_TIMEOUT_S = 10.0
# Of an answer that is an error, in a message.
_MAX_QUOTE = 300


class HttpTarget:
    """Owns the connections. Use it inside an event loop."""

    def __init__(self, config: BenchmarkConfig) -> None:
        assert config.url is not None
        self._config = config
        self._url = config.url.rstrip("/")
        self._source = random.Random()
        headers = {"authorization": f"Bearer {config.api_key}"} if config.api_key else {}
        self._session = aiohttp.ClientSession(
            headers=headers,
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_TIMEOUT_S),
        )

    async def describe(self) -> dict[str, str]:
        """What `/info` says, after checking the options against it."""
        try:
            async with self._session.get(f"{self._url}/info") as response:
                text = await response.text()
                if response.status != 200:
                    raise self._refused(response.status, text)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise BenchmarkError(f"no server answers at {self._url}: {error}") from error
        try:
            info = json.loads(text)
            self._check_limits(info)
        except (ValueError, AttributeError, TypeError) as error:
            raise BenchmarkError(f"{self._url}/info is not a text generation server's") from error
        return {"Model": str(info.get("model_id")), "Server": self._url}

    def _check_limits(self, info: dict[str, Any]) -> None:
        config = self._config
        length, largest = config.sequence_length, max(config.batch_sizes)
        for flags, value, name in (
            (f"--sequence-length {length}", length, "max_input_tokens"),
            (
                f"--sequence-length {length} with --decode-length {config.decode_length}",
                length + config.decode_length,
                "max_total_tokens",
            ),
            (f"--batch-size {largest}", largest, "max_concurrent_requests"),
        ):
            limit = info.get(name)
            if limit is not None and value > limit:
                raise BenchmarkError(f"{flags}: the server at {self._url} has {name} {limit}")

    async def run(self, batch_size: int) -> RunTime:
        """All requests at the same time, each on a connection of its own."""
        bodies = [self._body() for _ in range(batch_size)]
        begin = time.perf_counter()
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._stream(body)) for body in bodies]
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        times = [task.result() for task in tasks]
        begun = max(stream[0] for stream in times)
        end = max(stream[-1] for stream in times)
        if end == begun:
            raise BenchmarkError(
                "all tokens arrived at the same time: this client had no processor meanwhile, or "
                "something between here and the server collects events"
            )
        return RunTime(
            prefill_s=begun - begin,
            decode_s=end - begun,
            num_decoded_tokens=sum(moment > begun for stream in times for moment in stream[1:]),
        )

    async def close(self) -> None:
        await self._session.close()

    def _body(self) -> bytes:
        config = self._config
        parameters = config.sampling() | {
            "max_new_tokens": config.decode_length,
            "truncate": config.sequence_length,
            "ignore_eos": True,
            "details": True,
        }
        inputs = random_words(self._source, config.sequence_length)
        return json.dumps({"inputs": inputs, "parameters": parameters}).encode()

    async def _stream(self, body: bytes) -> list[float]:
        """One request to its end; when each token arrived (`time.perf_counter`)."""
        token_times: list[float] = []
        rest = b""
        last: dict[str, Any] = {}
        try:
            async with self._session.post(
                f"{self._url}/generate_stream",
                data=body,
                headers={"content-type": "application/json"},
            ) as response:
                if response.status != 200:
                    raise self._refused(response.status, await response.text())
                async for chunk in response.content.iter_any():
                    now = time.perf_counter()
                    *events, rest = (rest + chunk).split(b"\n\n")
                    data = [event for event in events if event.startswith(b"data:")]
                    token_times += [now] * len(data)
                    if data:
                        last = json.loads(data[-1][5:])
        except (aiohttp.ClientError, TimeoutError) as error:
            raise BenchmarkError(f"the server at {self._url} broke a stream: {error}") from error
        except ValueError as error:
            raise BenchmarkError(f"{self._url} sent an event that is not JSON: {error}") from error
        self._check_lengths(token_times, last)
        return token_times

    def _check_lengths(self, token_times: list[float], last: dict[str, Any]) -> None:
        """That the request had the lengths asked for, as the server counts."""
        if "error" in last:
            raise BenchmarkError(f"the server at {self._url} failed: {last['error']}")
        details = last.get("details") or {}
        config = self._config
        for what, expected, found in (
            ("prompt tokens", config.sequence_length, details.get("input_length")),
            ("tokens", config.decode_length, details.get("generated_tokens")),
            ("events", config.decode_length, len(token_times)),
        ):
            if found not in (expected, None):
                raise BenchmarkError(f"{self._url} has {found} {what} where {expected} were asked")

    def _refused(self, status: int, text: str) -> BenchmarkError:
        quote = " ".join(text.split())[:_MAX_QUOTE]
        hint = " (--api-key)" if status in (401, 403) else ""
        return BenchmarkError(f"the server at {self._url} answers {status}{hint}: {quote}")
