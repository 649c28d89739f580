"""functionary's messages to recipients in every dialect, streamed and not."""

import json
from typing import Any

import pytest
from text_generation_router.prompt.tool_formats import FUNCTIONARY

from tests.fakes.engine import END, FakeEngine
from tests.fakes.router_app import running_app
from tests.router.http.tool_clients import (
    LIMITS,
    MESSAGES,
    TOOLS,
    anthropic_client,
    both_messages,
    openai_client,
    require_chat,
)
from tests.router.prompt.templates import TEMPLATES

# The prompt ends with the first mark.
TEXT = ["al", "l\n", "Let", " me see.", END]
CALL = ["clock", "\n", '{"a"', ": 1", "}", END]
BOTH = [*TEXT[:-1], ">>", ">", *CALL]
ANSWERS = [(TEXT, "Let me see.", None), (CALL, None, '{"a": 1}'), (BOTH, "Let me see.", '{"a": 1}')]
every_answer = pytest.mark.parametrize(("script", "text", "arguments"), ANSWERS)


def app_of(script: list[Any]) -> Any:
    return running_app(FakeEngine(script), template=TEMPLATES[FUNCTIONARY], **LIMITS)


@every_answer
async def test_chat(script: list[Any], text: str | None, arguments: str | None) -> None:
    async with app_of(script) as app, openai_client(app) as client:
        await require_chat(client, text, arguments)


@every_answer
async def test_messages(script: list[Any], text: str | None, arguments: str | None) -> None:
    async with app_of(script) as app, anthropic_client(app) as client:
        both = await both_messages(client)
    expected = [text] if text else []
    expected += [json.loads(arguments)] if arguments else []
    for message in both:
        blocks = [block.to_dict() for block in message.content]
        assert [block.get("text", block.get("input")) for block in blocks] == expected


async def test_without_tools_a_header_is_no_text() -> None:
    async with app_of(TEXT) as app, openai_client(app) as client:
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
    async with app_of(TEXT) as app, openai_client(app) as client:
        await client.chat.completions.create(model="tgi", messages=MESSAGES, **options)
        grammar = app.engine.generations[-1].request.grammar
    if start is None:
        assert grammar == ""
    else:
        assert start in json.loads(grammar)["grammars"][0]["lark_grammar"].splitlines()
