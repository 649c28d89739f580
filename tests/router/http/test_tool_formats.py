"""Calls in every format, from raw answers of the model to every dialect, streamed and not."""

import json
from typing import Any

import pytest
from text_generation_router.engine.request import FinishReason
from text_generation_router.prompt.tool_formats import HERMES, LLAMA, TaggedBody

from tests.fakes.engine import END, FakeEngine
from tests.fakes.router_app import running_app
from tests.router.http.tool_clients import (
    LIMITS,
    MESSAGES,
    RESPONSES_TOOLS,
    TOOLS,
    anthropic_client,
    both_messages,
    openai_client,
)
from tests.router.prompt.answers import ARGUMENTS, WRITTEN, Written
from tests.router.prompt.templates import TEMPLATES

CALLS = [("get_weather", json.loads(ARGUMENTS)), ("clock", {})]
every_answer = pytest.mark.parametrize("written", WRITTEN, ids=lambda w: w.format.name)


def app_of(written: Written) -> Any:
    pieces = [written.text[i : i + 3] for i in range(0, len(written.text), 3)]
    return running_app(FakeEngine([*pieces, END]), template=TEMPLATES[written.format], **LIMITS)


@every_answer
async def test_chat(written: Written) -> None:
    async with app_of(written) as app, openai_client(app) as client:
        options: Any = {"model": "tgi", "messages": MESSAGES, "tools": TOOLS}
        whole = (await client.chat.completions.create(**options)).choices[0]
        stream = await client.chat.completions.create(**options, stream=True)
        chunks = [chunk.choices[0] async for chunk in stream]
        grammar = app.engine.generations[-1].request.grammar
    calls = whole.message.tool_calls
    assert [(c.function.name, json.loads(c.function.arguments)) for c in calls] == CALLS
    assert (whole.message.content, whole.finish_reason) == (None, "tool_calls")
    deltas = [part for chunk in chunks for part in chunk.delta.tool_calls or []]
    begun = [part for part in deltas if part.id]
    assert [part.index for part in begun] == [0, 1]
    for part, call in zip(begun, calls, strict=True):
        pieces = [p.function for p in deltas if p.index == part.index]
        assert [piece.name for piece in pieces if piece.name] == [call.function.name]
        assert "".join(piece.arguments for piece in pieces) == call.function.arguments
        # An XML argument is converted with all others; any other format's are sent as written.
        is_whole = isinstance(written.format.body, TaggedBody) or call.function.name == "clock"
        assert is_whole or len(pieces) > len(ARGUMENTS) // 6
    assert len({part.id for part in begun} | {call.id for call in calls}) == 4
    assert chunks[-1].finish_reason == "tool_calls"
    assert "".join(chunk.delta.content or "" for chunk in chunks) == ""
    # Arguments are enforced once the model has begun a call.
    assert '"integer"' in grammar


@every_answer
async def test_the_other_dialects(written: Written) -> None:
    async with app_of(written) as app, openai_client(app) as client:
        response = await client.responses.create(model="tgi", input="hi", tools=RESPONSES_TOOLS)
        stream = await client.responses.create(
            model="tgi", input="hi", tools=RESPONSES_TOOLS, stream=True
        )
        events: list[Any] = [event async for event in stream]
    for found in (response.output, events[-1].response.output):
        assert [(call.name, json.loads(call.arguments)) for call in found] == CALLS
        assert [call.status for call in found] == ["completed", "completed"]
    for i, call in enumerate(events[-1].response.output):
        of_call = [e for e in events if getattr(e, "item_id", "") == call.id]
        *deltas, done = of_call
        assert {event.type for event in deltas} == {"response.function_call_arguments.delta"}
        assert "".join(event.delta for event in deltas) == done.arguments == call.arguments
        assert {event.output_index for event in of_call} == {i}
    async with app_of(written) as app, anthropic_client(app) as messages:
        for message in await both_messages(messages):
            blocks: Any = message.content
            assert [(block.name, block.input) for block in blocks] == CALLS
            assert message.stop_reason == "tool_use"


CUT = ["<tool_call>", '{"name": "clock", "arguments": {"a', '": "b']


async def test_arguments_that_the_limit_cut() -> None:
    """The calls are as far as they got, and say so."""
    engine = FakeEngine(CUT)
    engine.reason = FinishReason.LENGTH
    async with (
        running_app(engine, template=TEMPLATES[HERMES], **LIMITS) as app,
        openai_client(app) as client,
    ):
        chat = await client.chat.completions.create(
            model="tgi", messages=MESSAGES, tools=TOOLS, max_tokens=len(CUT)
        )
        (call,) = chat.choices[0].message.tool_calls or []
        assert call.to_dict()["function"] == {"name": "clock", "arguments": '{"a": "b'}
        assert chat.choices[0].finish_reason == "length"
        response = await client.responses.create(
            model="tgi", input="hi", tools=RESPONSES_TOOLS, max_output_tokens=len(CUT)
        )
        (item,) = response.output
        assert (item.to_dict()["arguments"], item.status) == ('{"a": "b', "incomplete")
        async with anthropic_client(app) as messages:
            whole, final = await both_messages(messages, max_tokens=len(CUT))
    assert (whole.stop_reason, final.stop_reason) == ("max_tokens", "max_tokens")
    (block,), (streamed,) = whole.content, final.content
    assert block.to_dict()["input"] == {"INVALID_JSON": '{"a": "b'}
    assert streamed.type == "tool_use"


PERSON: Any = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
}
LIKE_A_CALL: Any = {"type": "object", "properties": {"name": {}, "parameters": {}}}
STRICT: Any = [{**tool, "function": {**tool["function"], "strict": True}} for tool in TOOLS]


def as_format(schema: Any) -> Any:
    return {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}


@pytest.mark.parametrize("name", ["Bob", "get_weather"])
async def test_an_answer_in_a_format_beside_bare_calls(name: str) -> None:
    """Both are objects with a name; what is none of the functions' is written as it comes."""
    text = json.dumps({"name": name, "age": 3})
    written = Written(LLAMA, text)
    async with app_of(written) as app, openai_client(app) as client:
        options: Any = {"model": "tgi", "messages": MESSAGES, "tools": TOOLS}
        options["response_format"] = as_format(PERSON)
        whole = (await client.chat.completions.create(**options)).choices[0]
        stream = await client.chat.completions.create(**options, stream=True)
        pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
        grammar = app.engine.generations[-1].request.grammar
    assert (whole.message.content, whole.message.tool_calls) == (text, None)
    assert whole.finish_reason == "stop"
    assert "".join(pieces) == text
    assert name != "Bob" or sum(map(bool, pieces)) > 3
    assert '"age"' in grammar and "get_weather" in grammar


@pytest.mark.parametrize(
    ("tools", "wanted", "refused"),
    [
        (TOOLS, {"type": "json_object"}, ""),
        (TOOLS, as_format(LIKE_A_CALL), ""),
        (STRICT, as_format(PERSON), ""),
        (STRICT, as_format({"type": "array", "items": LIKE_A_CALL}), ""),
        (STRICT, as_format(LIKE_A_CALL), "begins like a call of a `strict` function"),
        (STRICT, as_format({**PERSON, "additionalProperties": True}), "begins like a call"),
        (STRICT, {"type": "json_object"}, "begins like a call"),
        (TOOLS, {"type": "regex", "value": "[a-c]+"}, "is not JSON"),
    ],
)
async def test_formats_that_bare_calls_cannot_be_told_from(
    tools: Any, wanted: Any, refused: str
) -> None:
    body = {"messages": MESSAGES, "tools": tools, "response_format": wanted}
    async with app_of(Written(LLAMA, "{}")) as app:
        async with app.session.post("/v1/chat/completions", json=body) as response:
            answer = await response.json()
        if not refused:
            assert response.status == 200, answer
            return
        assert (response.status, answer["error"]["param"]) == (422, "response_format")
        assert refused in answer["error"]["message"]
        for choice in ("none", "required"):
            chosen = {**body, "tool_choice": choice}
            async with app.session.post("/v1/chat/completions", json=chosen) as response:
                assert response.status == 200, await response.text()
