"""gpt-oss's channels in every dialect, streamed and not."""

import json
from typing import Any

import pytest
from text_generation_router.prompt.tool_formats import HARMONY

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
    require_chat,
)
from tests.router.prompt.templates import TEMPLATES

THOUGHTS = ["<|channel|>", "analysis", "<|message|>", "Let", " me", "<|end|>", "<|start|>"]
FINAL = ["assistant", "<|channel|>", "final", "<|message|>", "So", ".", END]
CALL = [
    *("assistant", "<|channel|>", "comment", "ary to=functions", ".clock ", "<|constrain|>"),
    *("json", "<|message|>", '{"a"', ": 1", "}", END),
]
ANSWERS = [(FINAL, "So.", None), (CALL, None, '{"a": 1}')]
every_answer = pytest.mark.parametrize(("script", "text", "arguments"), ANSWERS)


def app_of(script: list[Any]) -> Any:
    return running_app(FakeEngine([*THOUGHTS, *script]), template=TEMPLATES[HARMONY], **LIMITS)


@every_answer
async def test_chat(script: list[Any], text: str | None, arguments: str | None) -> None:
    async with app_of(script) as app, openai_client(app) as client:
        answer, deltas = await require_chat(client, text, arguments)
    assert answer.choices[0].message.reasoning_content == "Let me"
    assert "".join(getattr(d, "reasoning_content", None) or "" for d in deltas) == "Let me"
    assert answer.usage is not None and answer.usage.completion_tokens_details is not None
    assert answer.usage.completion_tokens_details.reasoning_tokens == 6


@every_answer
async def test_the_other_dialects(
    script: list[Any], text: str | None, arguments: str | None
) -> None:
    async with (
        app_of(script) as app,
        openai_client(app) as client,
        anthropic_client(app) as messages,
    ):
        response = await client.responses.create(model="tgi", input="hi", tools=RESPONSES_TOOLS)
        both = await both_messages(messages)
    reasoning, item = (found.to_dict() for found in response.output)
    assert reasoning["type"] == "reasoning"
    assert (response.output_text or None, item.get("arguments")) == (text, arguments)
    for message in both:
        thinking, block = (found.to_dict() for found in message.content)
        assert thinking["thinking"] == "Let me"
        expected = None if arguments is None else json.loads(arguments)
        assert (block.get("text"), block.get("input")) == (text, expected)


async def test_without_tools() -> None:
    async with app_of(FINAL) as app, openai_client(app) as client:
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
    async with app_of(FINAL) as app, openai_client(app) as client:
        await client.chat.completions.create(model="tgi", messages=MESSAGES, **options)
        grammar = app.engine.generations[-1].request.grammar
    if rules is None:
        assert grammar == ""
        return
    first = json.loads(grammar)["grammars"][0]["lark_grammar"]
    assert f"* {rules}" in first.splitlines()[0]
    assert ('<|message|>" @answer' in first) is ("response_format" in options)
