"""gpt-oss's channels in every dialect, streamed and not."""

import json
from typing import Any

import anthropic
import openai
import pytest
from text_generation_router.prompt.tool_formats import HARMONY

from tests.fakes.engine import END, FakeEngine
from tests.fakes.router_app import RunningApp, running_app
from tests.router.prompt.answers import FUNCTIONS
from tests.router.prompt.templates import TEMPLATES

MESSAGES: Any = [{"role": "user", "content": "hi"}]
TOOLS: Any = [
    {"type": "function", "function": {"name": name, "parameters": schema}}
    for name, schema in FUNCTIONS.items()
]
THOUGHTS = ["<|channel|>", "analysis", "<|message|>", "Let", " me", "<|end|>", "<|start|>"]
FINAL = ["assistant", "<|channel|>", "final", "<|message|>", "So", ".", END]
CALL = [
    *("assistant", "<|channel|>", "comment", "ary to=functions", ".clock ", "<|constrain|>"),
    *("json", "<|message|>", '{"a"', ": 1", "}", END),
]
ANSWERS = [(FINAL, "So.", None), (CALL, None, '{"a": 1}')]
every_answer = pytest.mark.parametrize(("script", "text", "arguments"), ANSWERS)
LIMITS = {"max_input_tokens": 3000, "max_total_tokens": 4000}


def app_of(script: list[Any]) -> Any:
    return running_app(FakeEngine([*THOUGHTS, *script]), template=TEMPLATES[HARMONY], **LIMITS)


def client_of(app: RunningApp) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{app.port}/v1", api_key="-")


@every_answer
async def test_chat(script: list[Any], text: str | None, arguments: str | None) -> None:
    options: Any = {"model": "tgi", "messages": MESSAGES, "tools": TOOLS}
    async with app_of(script) as app, client_of(app) as client:
        answer = await client.chat.completions.create(**options)
        stream = await client.chat.completions.create(**options, stream=True)
        deltas = [chunk.choices[0].delta async for chunk in stream]
    message: Any = answer.choices[0].message
    assert (message.content, message.reasoning_content) == (text, "Let me")
    assert "".join(getattr(d, "reasoning_content", None) or "" for d in deltas) == "Let me"
    assert "".join(delta.content or "" for delta in deltas) == (text or "")
    assert answer.choices[0].finish_reason == ("stop" if arguments is None else "tool_calls")
    found = [call.function.arguments for call in message.tool_calls or []]
    assert found == ([] if arguments is None else [arguments])
    pieces = [call.function.arguments for d in deltas for call in d.tool_calls or []]
    assert pieces == ([] if arguments is None else ['{"a"', ": 1", "}"])
    assert answer.usage is not None and answer.usage.completion_tokens_details is not None
    assert answer.usage.completion_tokens_details.reasoning_tokens == 6


@every_answer
async def test_the_other_dialects(
    script: list[Any], text: str | None, arguments: str | None
) -> None:
    tools: Any = [{"type": "function", **tool["function"], "strict": False} for tool in TOOLS]
    options: Any = {
        "model": "m",
        "max_tokens": 900,
        "messages": MESSAGES,
        "tools": [{"name": n, "input_schema": s} for n, s in FUNCTIONS.items()],
    }
    async with (
        app_of(script) as app,
        client_of(app) as client,
        anthropic.AsyncAnthropic(base_url=f"http://127.0.0.1:{app.port}", api_key="-") as messages,
    ):
        response = await client.responses.create(model="tgi", input="hi", tools=tools)
        whole = await messages.messages.create(**options)
        async with messages.messages.stream(**options) as stream:
            final = await stream.get_final_message()
    reasoning, item = (found.to_dict() for found in response.output)
    assert reasoning["type"] == "reasoning"
    assert (response.output_text or None, item.get("arguments")) == (text, arguments)
    for message in (whole, final):
        thinking, block = (found.to_dict() for found in message.content)
        assert thinking["thinking"] == "Let me"
        expected = None if arguments is None else json.loads(arguments)
        assert (block.get("text"), block.get("input")) == (text, expected)


async def test_without_tools() -> None:
    async with app_of(FINAL) as app, client_of(app) as client:
        answer = await client.chat.completions.create(model="tgi", messages=MESSAGES)
    message: Any = answer.choices[0].message
    assert (message.content, message.reasoning_content) == ("So.", "Let me")


@pytest.mark.parametrize(
    ("options", "rules"),
    [
        ({}, None),
        ({"tools": TOOLS}, "(final | @calls)"),
        ({"tools": TOOLS, "tool_choice": "required"}, "(@calls)"),
        ({"response_format": {"type": "json_object"}}, "(final)"),
        ({"tools": TOOLS, "response_format": {"type": "json_object"}}, "(final | @calls)"),
    ],
)
async def test_grammars_are_about_channels(options: Any, rules: str | None) -> None:
    async with app_of(FINAL) as app, client_of(app) as client:
        await client.chat.completions.create(model="tgi", messages=MESSAGES, **options)
        grammar = app.engine.generations[-1].request.grammar
    if rules is None:
        assert grammar == ""
        return
    first = json.loads(grammar)["grammars"][0]["lark_grammar"]
    assert f"* {rules}" in first.splitlines()[0]
    assert ('<|message|>" @answer' in first) is ("response_format" in options)
