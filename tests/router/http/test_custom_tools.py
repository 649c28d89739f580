"""OpenAI's custom tools, whose input is a text, and the choice among tools."""

import json
from typing import Any

import openai
import pytest
from text_generation_router.engine.request import FinishReason
from text_generation_router.prompt.tool_formats import HERMES, QWEN_CODER, ToolFormat

from tests.fakes.engine import END, FakeEngine
from tests.fakes.router_app import RunningApp, running_app
from tests.router.prompt.templates import TEMPLATES

MESSAGES: Any = [{"role": "user", "content": "hi"}]
TEXT = 'print("é")\n'
RUN: Any = {"type": "custom", "custom": {"name": "run", "description": "Runs it"}}
CLOCK: Any = {"type": "function", "function": {"name": "clock"}}
_ARGUMENTS = json.dumps({"input": TEXT}, ensure_ascii=False)
SCRIPTS: dict[ToolFormat, str] = {
    HERMES: f'<tool_call>\n{{"name": "run", "arguments": {_ARGUMENTS}}}\n</tool_call>',
    QWEN_CODER: "<tool_call>\n<function=run>\n<parameter=input>\n"
    f"{TEXT}\n</parameter>\n</function>\n</tool_call>",
}
LIMITS = {"max_input_tokens": 3000, "max_total_tokens": 4000}
every_format = pytest.mark.parametrize("known", SCRIPTS, ids=lambda known: known.name)


def app_of(known: ToolFormat, *, cut: int | None = None) -> Any:
    text = SCRIPTS[known][:cut]
    pieces = [text[i : i + 3] for i in range(0, len(text), 3)]
    engine = FakeEngine(pieces if cut else [*pieces, END])
    engine.reason = FinishReason.LENGTH if cut else FinishReason.EOS_TOKEN
    return running_app(engine, template=TEMPLATES[known], **LIMITS)


def client_of(app: RunningApp) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{app.port}/v1", api_key="-")


@every_format
async def test_chat(known: ToolFormat) -> None:
    options: Any = {"model": "tgi", "messages": MESSAGES, "tools": [RUN, CLOCK]}
    async with app_of(known) as app, client_of(app) as client:
        whole = (await client.chat.completions.create(**options)).choices[0]
        stream = await client.chat.completions.create(**options, stream=True)
        chunks = [chunk.choices[0] async for chunk in stream]
        prompt = app.engine.generations[0].request.prompt_ids
    assert (whole.message.content, whole.finish_reason) == (None, "tool_calls")
    (call,) = whole.message.tool_calls or []
    assert call.type == "custom"
    assert (call.custom.name, call.custom.input) == ("run", TEXT)
    deltas = [part.to_dict() for chunk in chunks for part in chunk.delta.tool_calls or []]
    first, *others = deltas
    assert first["custom"]["name"] == "run"
    assert first["id"]
    assert {(each["index"], each["type"]) for each in deltas} == {(0, "custom")}
    assert {(each["custom"]["name"], each["id"]) for each in others} <= {(None, "")}
    assert "".join(each["custom"]["input"] for each in deltas) == TEXT
    # Arguments that are tagged have to be converted as a whole.
    assert len(deltas) > 3 or known is QWEN_CODER
    assert chunks[-1].finish_reason == "tool_calls"
    assert len(prompt) > 100


@every_format
async def test_responses(known: ToolFormat) -> None:
    tools: Any = [{"type": "custom", "name": "run"}]
    async with app_of(known) as app, client_of(app) as client:
        whole = await client.responses.create(model="tgi", input="hi", tools=tools)
        stream = await client.responses.create(model="tgi", input="hi", tools=tools, stream=True)
        events: list[Any] = [event async for event in stream]
    (call,), (streamed,) = whole.output, events[-1].response.output
    for found in (call, streamed):
        assert (found.type, found.name, found.input) == ("custom_tool_call", "run", TEXT)
    of_call = [event for event in events if getattr(event, "item_id", "") == streamed.id]
    *deltas, done = of_call
    assert {event.type for event in deltas} == {"response.custom_tool_call_input.delta"}
    assert done.type == "response.custom_tool_call_input.done"
    assert "".join(event.delta for event in deltas) == done.input == TEXT


async def test_a_call_that_the_limit_cut_has_its_text_so_far() -> None:
    async with app_of(HERMES, cut=SCRIPTS[HERMES].index('\\n"}')) as app, client_of(app) as client:
        answer = await client.chat.completions.create(
            model="tgi", messages=MESSAGES, tools=[RUN], max_tokens=22
        )
        response = await client.responses.create(
            model="tgi", input="hi", tools=[{"type": "custom", "name": "run"}], max_output_tokens=22
        )
    (call,) = answer.choices[0].message.tool_calls or []
    assert call.type == "custom"
    assert call.custom.input == TEXT[:-1]
    assert answer.choices[0].finish_reason == "length"
    assert (response.status, response.output[0].to_dict()["input"]) == ("incomplete", TEXT[:-1])


async def test_an_earlier_call_is_shown_as_the_model_wrote_it() -> None:
    call = {"id": "1", "type": "custom", "custom": {"name": "run", "input": TEXT}}
    said = [{"role": "assistant", "tool_calls": [call]}]
    result = [{"role": "tool", "tool_call_id": "1", "content": "done"}]
    items = [
        {"type": "custom_tool_call", "call_id": "1", "name": "run", "input": TEXT},
        {"type": "custom_tool_call_output", "call_id": "1", "output": "done"},
    ]
    async with app_of(HERMES) as app:
        chat = {"messages": [*MESSAGES, *said, *result], "tools": [RUN]}
        async with app.session.post("/chat_tokenize", json=chat) as response:
            shown = (await response.json())["templated_text"]
        for path, body in (
            ("/v1/chat/completions", {"messages": chat["messages"]}),
            ("/v1/responses", {"input": [{"role": "user", "content": "hi"}, *items]}),
        ):
            async with app.session.post(path, json=body) as response:
                assert response.status == 200
        first, second = (each.request.prompt_ids for each in app.engine.generations)
    assert SCRIPTS[HERMES] in shown.replace("\\u00e9", "é")
    assert first == second


@pytest.mark.parametrize(
    ("definition", "syntax", "status", "found"),
    [("[a-z]+", "regex", 200, "^(?:[a-z]+)$"), ("start: X", "lark", 422, "`tools[0].custom")],
)
async def test_formats(definition: str, syntax: str, status: int, found: str) -> None:
    grammar = {"syntax": syntax, "definition": definition}
    custom = {"name": "run", "format": {"type": "grammar", "grammar": grammar}}
    flat = {"type": "custom", "name": "run", "format": {"type": "grammar", **grammar}}
    async with app_of(HERMES) as app:
        for path, body in (
            ("/v1/chat/completions", {"messages": MESSAGES, "tools": [{**RUN, "custom": custom}]}),
            ("/v1/responses", {"input": "hi", "tools": [flat]}),
        ):
            async with app.session.post(path, json=body) as response:
                text = await response.text()
                assert response.status == status, text
            if status == 200:
                text = app.engine.generations[-1].request.grammar
            assert found in text


@pytest.mark.parametrize("mode", ["auto", "required"])
async def test_allowed_tools(mode: str) -> None:
    allowed = {"mode": mode, "tools": [{"type": "function", "function": {"name": "clock"}}]}
    choice = {"type": "allowed_tools", "allowed_tools": allowed}
    flat = {"type": "allowed_tools", "mode": mode, "tools": [{"type": "function", "name": "clock"}]}
    tools = [{"type": "custom", "name": "run"}, {"type": "function", "name": "clock"}]
    async with app_of(HERMES) as app:
        for path, body in (
            (
                "/v1/chat/completions",
                {"messages": MESSAGES, "tools": [RUN, CLOCK], "tool_choice": choice},
            ),
            ("/v1/responses", {"input": "hi", "tools": tools, "tool_choice": flat}),
        ):
            async with app.session.post(path, json=body) as response:
                assert response.status == 200, await response.text()
            grammar = app.engine.generations[-1].request.grammar
            assert "clock" in grammar and "run" not in grammar
            assert ("start: section" in grammar) is (mode == "required")


@pytest.mark.parametrize(
    "allowed",
    [
        {},
        {"mode": "any", "tools": [RUN]},
        {"mode": "auto", "tools": []},
        {"mode": "auto", "tools": [1]},
        {"mode": "auto", "tools": [{"type": "function", "function": {"name": "other"}}]},
    ],
)
async def test_what_cannot_be_allowed_is_refused(allowed: Any) -> None:
    choice = {"type": "allowed_tools", "allowed_tools": allowed}
    body = {"messages": MESSAGES, "tools": [RUN, CLOCK], "tool_choice": choice}
    async with (
        app_of(HERMES) as app,
        app.session.post("/v1/chat/completions", json=body) as response,
    ):
        answer = await response.json()
    assert (response.status, answer["error"]["param"]) == (422, "tool_choice")


@pytest.mark.parametrize("tool", [{"type": "custom"}, {"type": "function"}, {"type": "other"}, {}])
async def test_a_tool_without_its_kind_is_named(tool: Any) -> None:
    body = {"messages": MESSAGES, "tools": [CLOCK, tool]}
    async with (
        app_of(HERMES) as app,
        app.session.post("/v1/chat/completions", json=body) as response,
    ):
        assert response.status == 422
        assert "`tools[1]." in await response.text()
