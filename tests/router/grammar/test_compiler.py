"""Which grammars are enforced, and which are refused by name."""

from collections.abc import Iterator
from functools import reduce
from typing import Any

import pytest
from llguidance import LLMatcher
from text_generation_router.grammar.checker import _byte_tokenizer
from text_generation_router.grammar.compiler import GrammarCompiler
from text_generation_router.grammar.errors import GrammarError
from text_generation_router.grammar.marks import PLAIN_MARKS, MarkSpelling
from text_generation_router.grammar.source import (
    JSON_OBJECT,
    ChoiceGrammar,
    GrammarSource,
    JsonSchemaGrammar,
    LarkGrammar,
    RegexGrammar,
    serialised,
)
from text_generation_router.grammar.tool_calls import ToolCallGrammar
from text_generation_router.prompt.tool_formats import HERMES


@pytest.fixture(scope="module")
def compiler() -> Iterator[GrammarCompiler]:
    compiler = GrammarCompiler(marks=MarkSpelling({"<tool_call>": 300, "  ": 301}, (), 400))
    yield compiler
    compiler.close()


async def accepts(compiler: GrammarCompiler, source: GrammarSource, text: str) -> bool:
    """Whether the text is one that the grammar describes."""
    await compiler.compile(source)
    matcher = LLMatcher(_byte_tokenizer(), serialised(source.grammars(PLAIN_MARKS)), log_level=0)
    data = list(text.encode())
    if matcher.validate_tokens(data) < len(data):
        return False
    matcher.consume_tokens(data)
    return matcher.is_accepting()


def closed(**members: Any) -> dict[str, Any]:
    return {"type": "object", "properties": members}


INTEGER = {"type": "integer"}
STRING = {"type": "string"}


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        (
            closed(a=INTEGER),
            ['{"a": 1}', '{"a":1}', "{}", '{ "a" : 1 }'],
            ['{"a":  1}', '{"b": 1}'],
        ),
        (closed(a=INTEGER), [], ['{"a": "x"}', '{"\\u0061": 1}', ' {"a": 1}', '{"a": 1} ']),
        ({**closed(a=INTEGER), "additionalProperties": STRING}, ['{"b": "x"}'], ['{"b": 1}']),
        ({**closed(a=INTEGER), "additionalProperties": True}, [], ['{"\\u0061": "x"}']),
        ({**closed(a=INTEGER), "required": ["a", "b"]}, ['{"a": 1, "b": [2]}'], ['{"a": 1}']),
        ({"type": "array", "items": INTEGER, "maxItems": 2}, ["[]", "[1, 2]"], ["[1,2,3]"]),
        ({"anyOf": [STRING, {"type": "null"}]}, ['"x"', "null"], ["1"]),
        (
            {"$ref": "#/$defs/n", "$defs": {"n": closed(next={"$ref": "#/$defs/n"})}},
            ['{"next": {"next": {}}}'],
            ['{"next": 1}', '{"other": {}}'],
        ),
        (
            {"allOf": [closed(a=INTEGER), closed(b=INTEGER)]},
            ['{"a": 1, "b": 2}'],
            ['{"a": "1"}'],
        ),
        ({"enum": ["é", 5, None]}, ['"é"', "5", "null"], ['"e"']),
        ({"type": "string", "pattern": "^a+$", "maxLength": 3}, ['"aa"'], ['"aaaa"', '"b"']),
        ({"type": "integer", "minimum": 3, "maximum": 17}, ["3", "17"], ["2", "18", "3.5"]),
        ({"type": "string", "format": "date"}, ['"2024-02-29"'], ['"2024-13-01"']),
        ({"prefixItems": [INTEGER], "items": False, "type": "array"}, ["[1]"], ["[1, 2]"]),
        (True, ['{"x": [1, "a", null]}', "5"], ["x"]),
    ],
)
async def test_json_schemas(
    compiler: GrammarCompiler, schema: Any, good: list[str], bad: list[str]
) -> None:
    source = JsonSchemaGrammar(schema)
    assert [text for text in good if not await accepts(compiler, source, text)] == []
    assert [text for text in bad if await accepts(compiler, source, text)] == []


async def test_other_grammars(compiler: GrammarCompiler) -> None:
    assert await accepts(compiler, JSON_OBJECT, '{"a": {"b": [1]}}')
    assert not await accepts(compiler, JSON_OBJECT, "[]")
    assert await accepts(compiler, RegexGrammar('a/"\\n|[0-9]{2}'), "42")
    assert not await accepts(compiler, RegexGrammar("[0-9]{2}"), "x42")
    choices = ChoiceGrammar(("yes", 'n"o\n', "über"))
    for text in choices.choices:
        assert await accepts(compiler, choices, text)
    assert not await accepts(compiler, choices, "ye")


async def test_context_free_grammars(compiler: GrammarCompiler) -> None:
    sums = LarkGrammar(
        """
        start: sum  // comments, %json and <[5]> among them
        sum: product ("+" product)*
        product: atom ("*" atom)*
        atom: NUMBER | "(" sum ")" | "<" NUMBER /[@%]/ ">"
        NUMBER: /[0-9]+/
        %ignore / /
        """
    )
    assert await accepts(compiler, sums, "1 + 2*(3+(4)) * <5@>")
    for text in ("1+", "(1", "1)", ""):
        assert not await accepts(compiler, sums, text)


def nested(depth: int) -> dict[str, Any]:
    return reduce(lambda inner, _: {"type": "array", "items": inner}, range(depth), STRING)


REFUSED: list[tuple[str, GrammarSource]] = [
    (keyword, JsonSchemaGrammar({keyword: value}))
    for keyword, value in {
        "not": {},
        "if": {},
        "uniqueItems": True,
        "contains": {},
        "propertyNames": {},
        "dependentRequired": {"a": ["b"]},
        "dependentSchemas": {"a": {}},
        "unevaluatedProperties": False,
        "$dynamicRef": "#/a",
        "additionalItems": False,
        "x-guidance": {"lenient": True},
        "exclusiveMinimum": True,
        "minProperties": 2,
    }.items()
] + [
    ("Unknown format", JsonSchemaGrammar({"type": "string", "format": "binary"})),
    ("Invalid type", JsonSchemaGrammar({"type": "text"})),
    ("minimum", JsonSchemaGrammar({"type": "integer", "minimum": 5, "maximum": 2})),
    ("Unsatisfiable", JsonSchemaGrammar(False)),
    ("must be an object", JsonSchemaGrammar([])),
    ("control character", JsonSchemaGrammar({"const": ["\x01"]})),
    ("does not exist", JsonSchemaGrammar({"$ref": "#/$defs/x"})),
    ("http://example.com", JsonSchemaGrammar({"$ref": "http://example.com/x"})),
    ("at most 65536", JsonSchemaGrammar({"enum": ["x" * 70_000]})),
    ("64 levels", JsonSchemaGrammar(nested(80))),
    ("64 levels", JsonSchemaGrammar(nested(900))),
    ("`$ref`", JsonSchemaGrammar({"anyOf": [{"$ref": "#/$defs/x"}] * 300, "$defs": {"x": {}}})),
    ("patterns", JsonSchemaGrammar({"pattern": "a" * 9000})),
    (
        "at most 4 values of `pattern`",
        JsonSchemaGrammar({"allOf": [{"pattern": f".*a.{{{i}}}"} for i in range(60)]}),
    ),
    ("at most 4096", RegexGrammar("a?" * 3000)),
    ("unclosed group", RegexGrammar("(a")),
    ("look-around", RegexGrammar("(?=a)b")),
    ("1 to 1024 choices", ChoiceGrammar(())),
    ("token of the model's own", RegexGrammar("<tool_call>x")),
    ("token of the model's own", LarkGrammar('start: "<tool_call>"')),
    ("no start rule", LarkGrammar("")),
    ("at most 32768", LarkGrammar("start: " + '"a" ' * 10_000)),
    ("'%json' is not supported", LarkGrammar('start: %json {"type": "object"}')),
    ("'%llguidance' is not supported", LarkGrammar('%llguidance {}\nstart: "a"')),
    ("'@' is not supported", LarkGrammar("start: @answer")),
    ("'<' is not supported", LarkGrammar("start: <|im_end|>")),
]


@pytest.mark.parametrize(("reason", "source"), REFUSED)
async def test_refusals_say_why(
    compiler: GrammarCompiler, reason: str, source: GrammarSource
) -> None:
    with pytest.raises(GrammarError) as caught:
        await compiler.compile(source)
    assert reason in str(caught.value)
    assert len(str(caught.value)) < 600


async def test_a_property_may_have_the_name_of_a_keyword(compiler: GrammarCompiler) -> None:
    members = dict.fromkeys(("not", "pattern", "enum", "extends", "minProperties"), STRING)
    assert await accepts(compiler, JsonSchemaGrammar(closed(**members)), '{"extends": "x"}')


async def test_annotations_are_no_part_of_a_grammar(compiler: GrammarCompiler) -> None:
    """They may have any text in them, also one that is a token of the model's own."""
    notes = {"title": "t", "description": "<tool_call>", "default": "<tool_call>"}
    members = {"description": {**STRING, **notes}, "title": {"anyOf": [{**INTEGER, **notes}]}}
    source = JsonSchemaGrammar({**closed(**members), **notes})
    assert "<tool_call>" not in await compiler.compile(source)
    assert await accepts(compiler, source, '{"description": "x", "title": 1}')
    assert not await accepts(compiler, source, '{"description": 1}')


async def test_nothing_is_compiled_where_nothing_can_be_enforced() -> None:
    compiler = GrammarCompiler("grammar support is disabled on this server")
    with pytest.raises(GrammarError, match="disabled"):
        await compiler.compile(JSON_OBJECT)
    compiler.close()


CALL_F = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'
CALL_G = '<tool_call>\n{"name": "g", "arguments": {}}\n</tool_call>'


def tool_calls(**options: Any) -> ToolCallGrammar:
    values: dict[str, Any] = {
        "functions": [
            ("f", {**closed(a=INTEGER), "required": ["a"]}),
            ("g", {"type": "object", "properties": {}}),
        ],
        "format": HERMES,
        "allows_several": True,
        **options,
    }
    return ToolCallGrammar(**values)


@pytest.mark.parametrize(
    ("options", "good", "bad"),
    [
        ({}, [CALL_F, CALL_G, f"{CALL_F}\n{CALL_G}"], ["", "text", CALL_F.replace("1", '"x"')]),
        ({"allows_several": False}, [CALL_F], [f"{CALL_F}\n{CALL_G}"]),
        (
            {"is_optional": True},
            ["", "text", f"text {CALL_F}", f"{CALL_F}\n{CALL_G} more"],
            [CALL_F.replace("1", '"x"'), CALL_F.replace('"f"', '"h"')],
        ),
    ],
)
async def test_tool_calls(
    compiler: GrammarCompiler, options: dict[str, Any], good: list[str], bad: list[str]
) -> None:
    source = tool_calls(**options)
    assert "<[300]>" in await compiler.compile(source)
    assert [text for text in good if not await accepts(compiler, source, text)] == []
    assert [text for text in bad if await accepts(compiler, source, text)] == []


async def test_tools_are_refused_by_name(compiler: GrammarCompiler) -> None:
    with pytest.raises(GrammarError, match="'f' must be of type object"):
        await compiler.compile(tool_calls(functions=[("f", {"type": "array"})]))
    with pytest.raises(GrammarError, match="function 'f': `extends`"):
        await compiler.compile(tool_calls(functions=[("f", {"extends": "x"})]))
