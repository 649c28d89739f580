"""A hostile grammar costs its sender an error, and nobody else anything."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from text_generation_router.grammar.checker_process import CheckerPool
from text_generation_router.grammar.compiler import GrammarCompiler
from text_generation_router.grammar.errors import GrammarError
from text_generation_router.grammar.source import (
    JSON_OBJECT,
    GrammarSource,
    JsonSchemaGrammar,
    LarkGrammar,
    RegexGrammar,
)

STRING: dict[str, Any] = {"type": "string"}
TOO_MUCH = "takes too much time or memory"
# Every letter is an expression to intersect; each of them has states without number.
INTERSECTION = LarkGrammar(
    "start: A\nA: " + " & ".join(f"/(?s:.*a.{{{count}}})/" for count in range(30))
)


def chain(length: int, **link: Any) -> JsonSchemaGrammar:
    """Definitions of which each leads to the next; link: how, in place of a plain reference."""
    definitions: dict[str, Any] = {f"a{length}": STRING}
    for i in range(length):
        reference = {"$ref": f"#/$defs/a{i + 1}"}
        definitions[f"a{i}"] = {key: value(reference) for key, value in link.items()} or reference
    return JsonSchemaGrammar({"$ref": "#/$defs/a0", "$defs": definitions})


# Named after what they try to exhaust. All are answered, one way or the other.
HOSTILE: dict[str, GrammarSource] = {
    "long repeat": RegexGrammar("a{1,100000}"),
    "nested repeats": RegexGrammar("((a{1,1000}){1,1000}){1,1000}"),
    "nested quantifiers": RegexGrammar("(((a+)+)*)+b"),
    "exponential automaton": RegexGrammar("(.*a.{30}|.*b.{30})"),
    "unicode classes": RegexGrammar(r"(\p{L}|\p{N}|\p{S}){1,5000}"),
    "many options": RegexGrammar("a?" * 1300 + "a" * 1300),
    "deep groups": RegexGrammar("(" * 2000 + "a" + ")" * 2000),
    "many values": JsonSchemaGrammar({"enum": list(range(10_000))}),
    "product of schemas": JsonSchemaGrammar(
        {
            "allOf": [
                {"anyOf": [{"properties": {f"p{i}{j}": STRING}} for j in range(10)]}
                for i in range(20)
            ]
        }
    ),
    "long references": chain(250),
    "doubling references": chain(60, prefixItems=lambda reference: [reference, reference]),
    "doubling intersections": chain(30, allOf=lambda reference: [reference, reference]),
    "circle": JsonSchemaGrammar({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}),
    "many items": JsonSchemaGrammar({"items": STRING, "minItems": 10**6, "type": "array"}),
    "divisors": JsonSchemaGrammar({"type": "integer", "multipleOf": 987654321}),
    "ambiguous rules": LarkGrammar('start: e\ne: e e e | "a" | ""'),
    "empty rules": LarkGrammar(
        "\n".join(f"r{i}: r{i + 1}? r{i + 1}?" for i in range(200)) + '\nr200: "a"?\nstart: r0'
    ),
    "nested rules": LarkGrammar("start: " + "(" * 3000 + '"a"' + ")" * 3000),
    "left recursion": LarkGrammar("start: start"),
    "complements": LarkGrammar("start: A\nA: ~(~(~/.*a.{25}/ & /.*b.{25}/) & ~/.*c.{25}/)"),
}


@pytest.fixture(scope="module")
def compiler() -> Iterator[GrammarCompiler]:
    compiler = GrammarCompiler()
    yield compiler
    compiler.close()


@pytest.mark.parametrize("source", HOSTILE.values(), ids=HOSTILE)
async def test_hostile_grammars_are_answered(
    compiler: GrammarCompiler, source: GrammarSource
) -> None:
    try:
        await compiler.compile(source)
    except GrammarError as error:
        assert TOO_MUCH not in str(error)


async def test_what_takes_too_much_is_refused_and_others_go_on(compiler: GrammarCompiler) -> None:
    refused = asyncio.create_task(compiler.compile(INTERSECTION))
    answered = 0
    while not refused.done():
        await compiler.compile(RegexGrammar("a" * (1 + answered % 50)))
        answered += 1
        await asyncio.sleep(0.05)
    with pytest.raises(GrammarError, match=TOO_MUCH):
        await refused
    assert answered > 5
    await compiler.compile(JSON_OBJECT)


def test_a_checker_that_dies_is_replaced() -> None:
    pool = CheckerPool(1)
    assert "missing field" in pool.find_fault("{}")
    (checker,) = pool._all
    assert checker._process is not None
    first = checker._process
    first.kill()
    first.wait()
    assert "missing field" in pool.find_fault("{}")
    assert checker._process is not first
    pool.close()
    pool.close()
    assert checker._process is None
