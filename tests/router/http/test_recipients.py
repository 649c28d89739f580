"""functionary's messages to recipients in every dialect, streamed and not."""

import json
from typing import Any

import anthropic
import openai
import pytest
from text_generation_router.prompt.tool_formats import FUNCTIONARY

from tests.fakes.engine import END, FakeEngine
from tests.fakes.router_app import RunningApp, running_app
from tests.router.prompt.answers import FUNCTIONS
from tests.router.prompt.templates import TEMPLATES

MESSAGES: Any = [{"role": "user", "content": "hi"}]
TOOLS: Any = [
    {"type": "function", "function": {"name": name, "parameters": schema}}
    for name, schema in FUNCTIONS.items()
]
# The prompt ends with the first mark.
TEXT = ["al", "l\n", "Let", " me see.", END]
CALL = ["clock", "\n", '{"a"', ": 1", "}", END]
BOTH = [*TEXT[:-1], ">>", ">", *CALL]
ANSWERS = [(TEXT, "Let me see.", None), (CALL, None, '{"a": 1}'), (BOTH, "Let me see.", '{"a": 1}')]
every_answer = pytest.mark.parametrize(("script", "text", "arguments"), ANSWERS)
LIMITS = {"max_input_tokens": 3000, "max_total_tokens": 4000}


def app_of(script: list[Any]) -> Any:
    return running_app(FakeEngine(script), template=TEMPLATES[FUNCTIONARY], **LIMITS)


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
    assert message.content == text
    assert "".join(delta.content or "" for delta in deltas) == (text or "")
    assert answer.choices[0].finish_reason == ("stop" if arguments is None else "tool_calls")
    found = [call.function.arguments for call in message.tool_calls or []]
    assert found == ([] if arguments is None else [arguments])
    pieces = [call.function.arguments for d in deltas for call in d.tool_calls or []]
    assert pieces == ([] if arguments is None else ['{"a"', ": 1", "}"])


@every_answer
async def test_messages(script: list[Any], text: str | None, arguments: str | None) -> None:
    options: Any = {
        "model": "m",
        "max_tokens": 900,
        "messages": MESSAGES,
        "tools": [{"name": n, "input_schema": s} for n, s in FUNCTIONS.items()],
    }
    async with (
        app_of(script) as app,
        anthropic.AsyncAnthropic(base_url=f"http://127.0.0.1:{app.port}", api_key="-") as messages,
    ):
        whole = await messages.messages.create(**options)
        async with messages.messages.stream(**options) as stream:
            final = await stream.get_final_message()
    expected = [text] if text else []
    expected += [json.loads(arguments)] if arguments else []
    for message in (whole, final):
        blocks = [block.to_dict() for block in message.content]
        assert [block.get("text", block.get("input")) for block in blocks] == expected


async def test_without_tools_a_header_is_no_text() -> None:
    async with app_of(TEXT) as app, client_of(app) as client:
        answer = await client.chat.completions.create(model="tgi", messages=MESSAGES)
        stream = await client.chat.completions.create(model="tgi", messages=MESSAGES, stream=True)
        streamed = [chunk.choices[0].delta.content or "" async for chunk in stream]
    assert answer.choices[0].message.content == "".join(streamed) == "Let me see."


@pytest.mark.parametrize(
    ("options", "start"),
    [
        ({}, None),
        ({"tools": TOOLS}, 'start: calls told | "all\\n" told'),
        ({"tools": TOOLS, "tool_choice": "required"}, "start: (calls)"),
        ({"response_format": {"type": "json_object"}}, 'start: ("all\\n" @answer)'),
        (
            {"tools": TOOLS, "response_format": {"type": "json_object"}},
            'start: (calls | "all\\n" @answer)',
        ),
    ],
)
async def test_grammars_are_about_recipients(options: Any, start: str | None) -> None:
    async with app_of(TEXT) as app, client_of(app) as client:
        await client.chat.completions.create(model="tgi", messages=MESSAGES, **options)
        grammar = app.engine.generations[-1].request.grammar
    if start is None:
        assert grammar == ""
    else:
        assert start in json.loads(grammar)["grammars"][0]["lark_grammar"].splitlines()
