"""Answers and events of the clients' dialects, against the clients' own types: every field that
these require is there, and of the right type. The clients themselves do not look.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from anthropic.types import Message, RawMessageStreamEvent
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter
from text_generation_router.engine.request import FinishReason, GenerationError

from tests.fakes.engine import END, FakeEngine
from tests.fakes.router_app import CHATML, running_app

TEMPLATE = CHATML + "{# <think> and </think> #}"
THINK = ["<think>", "\nLet", " me", "\n</think>\n\n"]
CALL = ['<tool_call>{"name": "f", ', '"arguments": {"a"', ": 1}}", "</tool_call>"]
RUN = ['<tool_call>{"name": "run", "arguments": {"input": "x"}}</tool_call>']
SCRIPTS: dict[str, list[Any]] = {
    "text": ["So", ".", END],
    "nothing": [END],
    "thoughts and text": [*THINK, "So", ".", END],
    "thoughts, text and calls": [*THINK, "So", ": ", *CALL, "\n", *CALL, END],
    "a custom call": [*RUN, END],
    "cut in text": ["So"],
    "cut in thoughts": THINK[:2],
    "cut in a call": CALL[:2],
}
FUNCTION: Any = {"name": "f", "parameters": {"type": "object"}}
MESSAGES = [{"role": "user", "content": "hi"}]
CHAT_TOOLS = [
    {"type": "function", "function": FUNCTION},
    {"type": "custom", "custom": {"name": "run"}},
]
# Path, request, type of the answer and of an event, and fields that are no client's.
DIALECTS: dict[str, tuple[str, Any, Any, Any, set[str]]] = {
    "chat": (
        "/v1/chat/completions",
        {"messages": MESSAGES, "logprobs": True, "top_logprobs": 1, "tools": CHAT_TOOLS},
        ChatCompletion,
        ChatCompletionChunk,
        {"reasoning_content", "reasoning", "custom"},
    ),
    "completions": (
        "/v1/completions",
        {"prompt": "hi", "logprobs": 1},
        Completion,
        Completion,
        set(),
    ),
    "responses": (
        "/v1/responses",
        {
            "input": "hi",
            "include": ["message.output_text.logprobs", "reasoning.encrypted_content"],
            "top_logprobs": 1,
            "tools": [
                {"type": "function", "strict": None, **FUNCTION},
                {"type": "custom", "name": "run"},
            ],
        },
        Response,
        ResponseStreamEvent,
        # OpenAI's API has these, its client no longer has, or not in events.
        {"store", "name", "bytes"},
    ),
    "messages": (
        "/v1/messages",
        {
            "model": "m",
            "max_tokens": 50,
            "messages": MESSAGES,
            "tools": [{"name": name, "input_schema": {"type": "object"}} for name in ("f", "run")],
        },
        Message,
        RawMessageStreamEvent,
        set(),
    ),
}


def unknown(found: Any) -> Iterator[str]:
    """Fields that a type does not have."""
    if isinstance(found, BaseModel):
        yield from found.model_extra or ()
        for name in type(found).model_fields:
            yield from unknown(getattr(found, name))
    elif isinstance(found, list):
        for item in found:
            yield from unknown(item)


def check(kind: Any, text: str, own: set[str]) -> Any:
    found = TypeAdapter(kind).validate_json(text)
    assert set(unknown(found)) <= own, text
    return found


def as_typed(text: str, dialect: str) -> str:
    """An event without what OpenAI's API sends and its client has no types for."""
    if dialect == "completions":
        return text.replace('"finish_reason":null', '"finish_reason":"stop"')
    if dialect == "chat":
        return text.replace('"type":"custom","custom"', '"type":"function","custom"')
    return text


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("dialect", DIALECTS)
async def test_what_clients_expect(dialect: str, script: str) -> None:
    path, body, answer_type, event_type, own = DIALECTS[dialect]
    engine = FakeEngine(SCRIPTS[script])
    engine.reason = FinishReason.LENGTH if "cut" in script else FinishReason.EOS_TOKEN
    async with running_app(engine, template=TEMPLATE) as app:
        async with app.session.post(path, json=body) as response:
            assert response.status == 200
            check(answer_type, await response.text(), own)
        options = {} if dialect in ("messages", "responses") else {"include_usage": True}
        streamed = {**body, "stream": True} | ({"stream_options": options} if options else {})
        async with app.session.post(path, json=streamed) as response:
            events = (await response.text()).strip().split("\n\n")
    for event in events:
        *name, data = event.split("\n")
        text = data.removeprefix("data: ")
        if text == "[DONE]" or name == ["event: ping"]:
            continue
        check(event_type, as_typed(text, dialect), own)
        assert name in ([], [f"event: {json.loads(text).get('type')}"])


async def test_an_error_in_a_stream() -> None:
    """Anthropic's client knows it by the event's name, OpenAI's by the field."""
    engine = FakeEngine(["So"])
    engine.failure = GenerationError("broken")
    async with running_app(engine) as app:
        for dialect, (path, body, *_) in DIALECTS.items():
            async with app.session.post(path, json={**body, "stream": True}) as response:
                last = (await response.text()).strip().removesuffix("data: [DONE]").strip()
            name, _, data = last.split("\n\n")[-1].rpartition("data: ")
            found = json.loads(data)
            if dialect == "messages":
                assert name == "event: error\n"
                assert found["type"] == "error" and found["error"]["type"] == "api_error"
            elif dialect == "responses":
                assert found["type"] == "response.failed"
                TypeAdapter(ResponseStreamEvent).validate_python(found)
            else:
                assert "broken" in found["error"]["message"]
