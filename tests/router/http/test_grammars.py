"""Grammars over the wire: every spelling becomes one, every refusal names its field."""

import json
from typing import Any

import pytest
from text_generation_router.grammar.compiler import GrammarCompiler

from tests.fakes.engine import END, FakeEngine
from tests.fakes.router_app import RunningApp, running_app

CHAT = "/v1/chat/completions"
SCHEMA: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "integer"}}}
BAD_SCHEMA: dict[str, Any] = {"type": "array", "uniqueItems": True}
CHAT_BODY: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
CALL = ['<tool_call>{"name": "f", ', '"arguments": {"a": 1}}', "</tool_call>", END]


def tool(name: str = "f", **changes: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": SCHEMA, **changes}}


async def post(app: RunningApp, path: str, body: dict[str, Any]) -> tuple[int, Any]:
    async with app.session.post(path, json=body) as response:
        return response.status, await response.json()


async def grammar_of(app: RunningApp, path: str, body: dict[str, Any]) -> str:
    """What the engine was asked to enforce."""
    status, answer = await post(app, path, body)
    assert status == 200, answer
    return str(app.engine.generations[-1].request.grammar)


@pytest.mark.parametrize(
    ("wanted", "part"),
    [
        ({"type": "json", "value": SCHEMA}, '"integer"'),
        ({"type": "json", "value": json.dumps(SCHEMA)}, '"integer"'),
        ({"type": "json_object", "value": SCHEMA}, '"integer"'),
        ({"type": "json_object"}, '"object"'),
        ({"type": "json_schema", "value": {"schema": SCHEMA, "name": "n"}}, '"integer"'),
        ({"type": "json_schema", "json_schema": {"schema": SCHEMA, "strict": True}}, '"integer"'),
        ({"type": "json", "value": {"type": "array"}}, '"array"'),
        ({"type": "regex", "value": "[a-c]+"}, "[a-c]+"),
        ({"type": "choice", "value": ["yes", "no"]}, "yes"),
    ],
)
async def test_every_spelling_becomes_a_grammar(wanted: dict[str, Any], part: str) -> None:
    async with running_app() as app:
        native = {"inputs": "hi", "parameters": {"grammar": wanted}}
        for path, body in (
            ("/generate", native),
            (CHAT, {**CHAT_BODY, "response_format": wanted}),
            ("/v1/completions", {"prompt": "hi", "response_format": wanted}),
        ):
            assert part in await grammar_of(app, path, body)


async def test_text_is_no_grammar() -> None:
    async with running_app() as app:
        assert await grammar_of(app, CHAT, {**CHAT_BODY, "response_format": {"type": "text"}}) == ""
        assert await grammar_of(app, "/generate", {"inputs": "hi"}) == ""


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ({"type": "json", "value": BAD_SCHEMA}, "uniqueItems"),
        ({"type": "json", "value": "{"}, "no JSON"),
        ({"type": "json", "value": 5}, "JSON Schema"),
        ({"type": "json"}, "JSON Schema"),
        ({"type": "json_schema", "json_schema": {"name": "n"}}, "schema` is missing"),
        ({"type": "json_schema", "value": SCHEMA}, "schema` is missing"),
        ({"type": "regex", "value": "(a"}, "unclosed group"),
        ({"type": "regex"}, "must be a string"),
        ({"type": "choice", "value": ["a", 5]}, "must be a list of strings"),
        ({"type": "xml"}, "must be one of"),
        ({}, "must be one of"),
    ],
)
async def test_refusals_name_the_field(wanted: dict[str, Any], reason: str) -> None:
    async with running_app() as app:
        native = {"inputs": "hi", "parameters": {"grammar": wanted}}
        status, answer = await post(app, "/generate", native)
        assert (status, answer["error_type"]) == (422, "validation")
        assert answer["error"].startswith("Input validation error: `grammar`: ")
        assert reason in answer["error"]
        for path, body in ((CHAT, CHAT_BODY), ("/v1/completions", {"prompt": "hi"})):
            status, answer = await post(app, path, {**body, "response_format": wanted})
            assert (status, answer["error"]["param"]) == (422, "response_format")
            assert reason in answer["error"]["message"]
        assert app.engine.generations == []


async def test_a_grammar_needs_an_end() -> None:
    async with running_app() as app:
        wanted = {"grammar": {"type": "json_object"}, "ignore_eos": True}
        status, answer = await post(app, "/generate", {"inputs": "hi", "parameters": wanted})
        assert status == 422 and "`ignore_eos`" in answer["error"]


async def test_a_server_without_grammars_says_so() -> None:
    compiler = GrammarCompiler("grammar support is disabled on this server")
    async with running_app(grammars=compiler) as app:
        wanted = {**CHAT_BODY, "response_format": {"type": "json_object"}}
        status, answer = await post(app, CHAT, wanted)
        assert status == 422 and "disabled" in answer["error"]["message"]
        forced = {**CHAT_BODY, "tools": [tool()], "tool_choice": "required"}
        status, answer = await post(app, CHAT, forced)
        assert (status, answer["error_type"]) == (422, "tool_error")
        assert await grammar_of(app, CHAT, {**CHAT_BODY, "tools": [tool()]}) == ""


async def test_a_stream_is_refused_before_it_begins() -> None:
    async with running_app() as app:
        wanted = {"type": "json", "value": BAD_SCHEMA}
        body = {**CHAT_BODY, "stream": True, "response_format": wanted}
        assert (await post(app, CHAT, body))[0] == 422


@pytest.mark.parametrize("tools", [[], [tool()]])
async def test_grammar_and_tools_exclude_each_other(tools: list[Any]) -> None:
    async with running_app() as app:
        body = {**CHAT_BODY, "tools": tools, "response_format": {"type": "json_object"}}
        status, answer = await post(app, CHAT, body)
    assert status == 422
    assert answer["error"]["message"] == "Tool error: Grammar and tools are mutually exclusive"


@pytest.mark.parametrize(
    ("options", "names", "several"),
    [
        ({"tool_choice": "required"}, ["f", "g"], True),
        ({"tool_choice": "required", "parallel_tool_calls": False}, ["f", "g"], False),
        ({"tool_choice": "g"}, ["g"], False),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, ["f"], False),
    ],
)
async def test_forced_tools_are_enforced(
    options: dict[str, Any], names: list[str], several: bool
) -> None:
    async with running_app(FakeEngine(CALL)) as app:
        body = {**CHAT_BODY, "tools": [tool("f"), tool("g")], **options}
        rules = json.loads(await grammar_of(app, CHAT, body))["grammars"][0]["lark_grammar"]
        for name in ("f", "g"):
            assert (f'\\"name\\": \\"{name}\\"' in rules) == (name in names)
        assert ("{0,31}" in rules) == several
        prompt = app.service.tokenizer.text(app.engine.generations[-1].request.prompt_ids)
        assert ('"name": "g"' in prompt) == ("g" in names)


async def test_auto_enforces_strict_functions_only() -> None:
    async with running_app(FakeEngine(CALL)) as app:
        free = {**CHAT_BODY, "tools": [tool("f"), tool("g", strict=False)]}
        assert await grammar_of(app, CHAT, free) == ""
        mixed = {**CHAT_BODY, "tools": [tool("f", strict=True), tool("g", parameters=BAD_SCHEMA)]}
        grammar = await grammar_of(app, CHAT, mixed)
        assert "TEXT" in grammar and "uniqueItems" not in grammar


async def test_refused_tools() -> None:
    async with running_app() as app:
        bad = {"type": "object", "properties": {"a": BAD_SCHEMA}}
        for options, reason in (
            ({"tools": [tool()], "tool_choice": "h"}, "Tool with name h not found"),
            ({"tools": [tool(parameters=bad)], "tool_choice": "required"}, "uniqueItems"),
            ({"tools": [], "tool_choice": "required"}, "needs `tools`"),
        ):
            status, answer = await post(app, CHAT, {**CHAT_BODY, **options})
            assert (status, answer["error_type"]) == (422, "tool_error")
            assert reason in answer["error"]["message"]
