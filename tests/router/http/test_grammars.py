"""Grammars over the wire: every spelling becomes one, every refusal names its field."""

import json
from typing import Any

import pytest
from text_generation_router.grammar.compiler import GrammarCompiler

from tests.fakes.engine import END, FakeEngine
from tests.fakes.router_app import CHATML, RunningApp, running_app

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
        ({"type": "lark", "value": 'start: "a" | "(" start ")"'}, "start: "),
        ({"type": "grammar", "grammar": 'start: "a"'}, "start: "),
        ({"type": "grammar", "grammar": {"syntax": "regex", "definition": "[a-c]+"}}, "[a-c]+"),
        ({"type": "grammar", "syntax": "lark", "definition": 'start: "a"'}, "start: "),
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


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({"guided_json": SCHEMA}, '"integer"'),
        ({"guided_json": json.dumps(SCHEMA)}, '"integer"'),
        ({"guided_regex": "[a-c]+", "guided_json": None}, "[a-c]+"),
        ({"guided_choice": ["yes", "no"]}, "yes"),
        ({"guided_grammar": 'start: "a"'}, "start: "),
        ({"structured_outputs": {"json": SCHEMA, "regex": None}}, '"integer"'),
        ({"structured_outputs": {"regex": "[a-c]+"}}, "[a-c]+"),
        ({"structured_outputs": {"choice": ["yes", "no"]}}, "yes"),
        ({"structured_outputs": {"grammar": 'start: "a"'}}, "start: "),
        ({"structured_outputs": {"json_object": True}}, '"object"'),
    ],
)
async def test_the_fields_of_other_servers(fields: dict[str, Any], part: str) -> None:
    async with running_app() as app:
        for path, body in ((CHAT, CHAT_BODY), ("/v1/completions", {"prompt": "hi"})):
            assert part in await grammar_of(app, path, {**body, **fields})


@pytest.mark.parametrize(
    ("fields", "param", "reason"),
    [
        ({"guided_json": 5}, "guided_json", "JSON Schema"),
        ({"guided_choice": "a"}, "guided_choice", "list of strings"),
        ({"guided_grammar": "root ::= x"}, "guided_grammar", "Expected"),
        ({"structured_outputs": {"regex": 5}}, "structured_outputs", "`regex` must be a string"),
        ({"structured_outputs": {"structural_tag": "x"}}, "structured_outputs", "not supported"),
        (
            {"guided_regex": "a", "response_format": {"type": "json_object"}},
            "guided_regex",
            "exclude each other",
        ),
        ({"structured_outputs": {"regex": "a", "json": {}}}, "structured_outputs", "exclude"),
    ],
)
async def test_refused_fields_of_other_servers(
    fields: dict[str, Any], param: str, reason: str
) -> None:
    async with running_app() as app:
        for path, body in ((CHAT, CHAT_BODY), ("/v1/completions", {"prompt": "hi"})):
            status, answer = await post(app, path, {**body, **fields})
            assert (status, answer["error"]["param"]) == (422, param)
            assert reason in answer["error"]["message"]


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
        ({"type": "lark"}, "must be a string"),
        ({"type": "lark", "value": "start: other"}, "other"),
        ({"type": "lark", "value": "start: <[5]>"}, "'<' is not supported"),
        ({"type": "grammar", "grammar": {"syntax": "gbnf", "definition": "x"}}, "must be one of"),
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


async def test_tools_and_a_format_give_calls_or_the_format() -> None:
    async with running_app(FakeEngine(CALL)) as app:
        wanted = {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}}
        body = {**CHAT_BODY, "tools": [tool()], **wanted}
        grammars = json.loads(await grammar_of(app, CHAT, body))["grammars"]
        assert grammars[0]["lark_grammar"] == "start: @calls | @text"
        assert [g["name"] for g in grammars[1:]] == ["calls", "text", "arguments_0"]
        # Who must call a tool does not answer in the format.
        forced = await grammar_of(app, CHAT, {**body, "tool_choice": "required"})
        assert "@text" not in forced and "@arguments_0" in forced
        assert "tool_call" not in await grammar_of(app, CHAT, {**body, "tool_choice": "none"})
        assert "tool_call" not in await grammar_of(app, CHAT, {**CHAT_BODY, "tools": [], **wanted})


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


async def test_auto_enforces_what_can_be_enforced() -> None:
    async with running_app(FakeEngine(CALL)) as app:
        free = {**CHAT_BODY, "tools": [tool("f"), tool("g", strict=False)]}
        assert (await grammar_of(app, CHAT, free)).count('"integer"') == 2
        bad = {"type": "object", "properties": {"a": BAD_SCHEMA}}
        mixed = {**CHAT_BODY, "tools": [tool("f", strict=True), tool("g", parameters=bad)]}
        grammar = await grammar_of(app, CHAT, mixed)
        assert grammar.count('"integer"') == 1 and "uniqueItems" not in grammar
        # Without an end there is nothing to enforce up to it.
        assert await grammar_of(app, CHAT, {**free, "ignore_eos": True}) == ""
        status, answer = await post(app, CHAT, {**mixed, "ignore_eos": True})
        assert (status, answer["error_type"]) == (422, "tool_error")
        strict = {**CHAT_BODY, "tools": [tool("g", parameters=bad, strict=True)]}
        status, answer = await post(app, CHAT, strict)
        assert (status, answer["error_type"]) == (422, "tool_error")
        assert "uniqueItems" in answer["error"]["message"]


@pytest.mark.parametrize(
    ("ending", "start"),
    [
        ("", '("<think>" thoughts SPACE?)? @answer'),
        ("<think>\\n", "thoughts SPACE? @answer"),
        ("<think>\\n</think>\\n", None),
    ],
)
async def test_a_grammar_applies_after_the_reasoning(ending: str, start: str | None) -> None:
    template = CHATML + "{% set marks = '<think> </think>' %}{{ '" + ending + "' }}"
    async with running_app(FakeEngine(CALL), template=template) as app:
        wanted = {"type": "json_schema", "json_schema": {"schema": SCHEMA}}
        for options in ({"response_format": wanted}, {"tools": [tool()]}):
            grammar = await grammar_of(app, CHAT, {**CHAT_BODY, **options})
            assert '"integer"' in grammar
            first = json.loads(grammar)["grammars"][0].get("lark_grammar", "")
            assert (f"start: {start}" in first) if start else ("thoughts" not in first)


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
