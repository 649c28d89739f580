"""Calls in every format, from raw answers of the model to every dialect, streamed and not."""

import json
from typing import Any

import anthropic
import openai
import pytest

from tests.fakes.engine import END, FakeEngine
from tests.fakes.router_app import RunningApp, running_app
from tests.router.prompt.answers import ARGUMENTS, FUNCTIONS, WRITTEN, Written
from tests.router.prompt.templates import TEMPLATES

MESSAGES: Any = [{"role": "user", "content": "hi"}]
TOOLS: Any = [
    {"type": "function", "function": {"name": name, "parameters": schema}}
    for name, schema in FUNCTIONS.items()
]
CALLS = [("get_weather", json.loads(ARGUMENTS)), ("clock", {})]
every_answer = pytest.mark.parametrize("written", WRITTEN, ids=lambda w: w.format.name)


def app_of(written: Written) -> Any:
    pieces = [written.text[i : i + 3] for i in range(0, len(written.text), 3)]
    limits = {"max_input_tokens": 3000, "max_total_tokens": 4000}
    engine = FakeEngine([*pieces, END])
    return running_app(engine, template=TEMPLATES[written.format], **limits)


def client_of(app: RunningApp) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{app.port}/v1", api_key="-")


@every_answer
async def test_chat(written: Written) -> None:
    async with app_of(written) as app, client_of(app) as client:
        options: Any = {"model": "tgi", "messages": MESSAGES, "tools": TOOLS}
        whole = (await client.chat.completions.create(**options)).choices[0]
        stream = await client.chat.completions.create(**options, stream=True)
        chunks = [chunk.choices[0] async for chunk in stream]
        grammar = app.engine.generations[-1].request.grammar
    calls = whole.message.tool_calls
    assert [(c.function.name, json.loads(c.function.arguments)) for c in calls] == CALLS
    assert (whole.message.content, whole.finish_reason) == (None, "tool_calls")
    deltas = [part for chunk in chunks for part in chunk.delta.tool_calls or []]
    assert [part.function for part in deltas] == [
        type(part.function)(**call.function.to_dict())
        for part, call in zip(deltas, calls, strict=True)
    ]
    assert [part.index for part in deltas] == [0, 1]
    assert len({part.id for part in deltas} | {call.id for call in calls}) == 4
    assert chunks[-1].finish_reason == "tool_calls"
    assert "".join(chunk.delta.content or "" for chunk in chunks) == ""
    # Arguments are enforced once the model has begun a call.
    assert '"integer"' in grammar


@every_answer
async def test_responses_and_messages(written: Written) -> None:
    async with app_of(written) as app, client_of(app) as client:
        tools: Any = [{"type": "function", **tool["function"], "strict": False} for tool in TOOLS]
        response = await client.responses.create(model="tgi", input="hi", tools=tools)
        found: Any = response.output
        assert [(call.name, json.loads(call.arguments)) for call in found] == CALLS
    async with (
        app_of(written) as app,
        anthropic.AsyncAnthropic(base_url=f"http://127.0.0.1:{app.port}", api_key="-") as messages,
    ):
        options: Any = {
            "model": "m",
            "max_tokens": 900,
            "messages": MESSAGES,
            "tools": [{"name": n, "input_schema": s} for n, s in FUNCTIONS.items()],
        }
        whole = await messages.messages.create(**options)
        async with messages.messages.stream(**options) as stream:
            final = await stream.get_final_message()
        for message in (whole, final):
            blocks: Any = message.content
            assert [(block.name, block.input) for block in blocks] == CALLS
            assert message.stop_reason == "tool_use"
