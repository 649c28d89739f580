"""The grammar of every tool call format allows what its parser reads, and nothing else."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper
from text_generation_router.grammar.answer import CallsOrAnswer, ReasonedGrammar
from text_generation_router.grammar.compiler import GrammarCompiler
from text_generation_router.grammar.errors import GrammarError
from text_generation_router.grammar.marks import PLAIN_MARKS, MarkSpelling
from text_generation_router.grammar.source import (
    GrammarSource,
    JsonSchemaGrammar,
    RegexGrammar,
    serialised,
)
from text_generation_router.grammar.tool_calls import ToolCallGrammar
from text_generation_router.prompt.reasoning import ReasoningFormat
from text_generation_router.prompt.tool_formats import (
    HERMES,
    KNOWN_FORMATS,
    LLAMA,
    QWEN_CODER,
    ToolFormat,
)

from tests.router.prompt.answers import FUNCTIONS, WRITTEN, Written

# What a model writes of its own accord: without Llama's mark, and without Mistral's own ids.
CANONICAL = [w for w in WRITTEN if "[CALL_ID]" not in w.text and "<|python_tag|>" not in w.text]
every_format = pytest.mark.parametrize("written", CANONICAL, ids=lambda w: w.format.name)
THINK = ReasoningFormat("<think>", "</think>")
END, OTHER = "<|eot|>", "<|other|>"
ANSWER = JsonSchemaGrammar({"type": "object", "properties": {"a": {"type": "integer"}}})


ALL_MARKS = dict.fromkeys(mark for known in KNOWN_FORMATS for mark in known.marks())


class Vocabulary:
    """All bytes, and tokens of their own: the marks of all formats, an end, and another."""

    marks = tuple(
        mark
        for mark in ALL_MARKS
        if len(mark) > 3 and not mark.isalpha() and mark != "to=functions."
    )
    added = (*marks, "<think>", "</think>", "<|start|>", "<|end|>", OTHER, END)
    ids = {text: 256 + i for i, text in enumerate(added)}  # noqa: RUF012
    eos_token_id = ids[END]
    bos_token_id = None
    special_token_ids = tuple(ids.values())
    tokens = (*(bytes([i]) for i in range(256)), *(text.encode() for text in added))

    def __call__(self, text: bytes | str) -> list[int]:
        return list(text.encode() if isinstance(text, str) else text)


MARKS = MarkSpelling(
    Vocabulary.ids, (Vocabulary.ids[OTHER], Vocabulary.ids[END]), len(Vocabulary.tokens)
)


class Checker:
    """Asks llguidance whether a text, with marks as text or as tokens, follows a grammar."""

    def __init__(self, *, with_tokens: bool) -> None:
        self._marks = MARKS if with_tokens else PLAIN_MARKS
        self._ids = Vocabulary.ids if with_tokens else {}
        self._tokenizer = LLTokenizer(TokenizerWrapper(Vocabulary()), slices=[])

    def accepts(self, source: GrammarSource, text: str) -> bool:
        grammar = serialised(source.grammars(self._marks))
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0)
        assert not matcher.is_error(), matcher.get_error()
        tokens = self._tokens(text)
        if matcher.validate_tokens(tokens) < len(tokens):
            return False
        matcher.consume_tokens(tokens)
        return bool(matcher.is_accepting())

    def _tokens(self, text: str) -> Sequence[int]:
        """Marks outside of strings as tokens, all else as bytes."""
        tokens: list[int] = []
        in_string = False
        while text:
            mark = next((m for m in self._ids if not in_string and text.startswith(m)), None)
            if mark is not None:
                tokens.append(self._ids[mark])
                text = text[len(mark) :]
                continue
            size = 2 if in_string and text[0] == "\\" else 1
            in_string ^= text[0] == '"'
            tokens += text[:size].encode()
            text = text[size:]
        return tokens


@pytest.fixture(scope="module", params=[False, True], ids=["text", "tokens"])
def checker(request: pytest.FixtureRequest) -> Checker:
    return Checker(with_tokens=request.param)


def calls(wanted: ToolFormat, *, several: bool = True, optional: bool = False) -> ToolCallGrammar:
    return ToolCallGrammar(
        format=wanted,
        functions=list(FUNCTIONS.items()),
        allows_several=several,
        is_optional=optional,
    )


def spoiled(written: Written) -> str:
    """With a text where the schema has an integer."""
    before, days, after = written.text.rpartition("3")
    return before + "three" * bool(days) + after


@every_format
def test_required_calls(checker: Checker, written: Written) -> None:
    source = calls(written.format)
    assert checker.accepts(source, written.text)
    assert not checker.accepts(source, spoiled(written))
    assert not checker.accepts(source, "Well. " + written.text)
    assert not checker.accepts(source, "Well.")
    assert not checker.accepts(source, written.text.replace("get_weather", "get_whether"))
    assert not checker.accepts(calls(written.format, several=False), written.text)


@every_format
def test_optional_calls(checker: Checker, written: Written) -> None:
    source = calls(written.format, optional=True)
    assert checker.accepts(source, written.text)
    assert not checker.accepts(source, spoiled(written))
    assert checker.accepts(source, "")
    assert checker.accepts(source, "Well. {")
    if not written.format.is_bare:
        assert checker.accepts(source, "Well.\n" + written.text)
        assert not checker.accepts(source, "Well.\n" + spoiled(written))


def test_special_tokens_of_text_are_allowed_beside_calls() -> None:
    checker = Checker(with_tokens=True)
    for written in CANONICAL:
        source = calls(written.format, optional=True)
        assert checker.accepts(source, f"a{OTHER}b{OTHER}")
        if not written.format.is_bare:
            assert checker.accepts(source, f"a{OTHER}b{written.text}")
            assert not checker.accepts(source, f"a{OTHER}b{spoiled(written)}")


def test_a_marked_call_of_llama_is_enforced() -> None:
    checker = Checker(with_tokens=True)
    (text,) = (w.text for w in WRITTEN if w.format is LLAMA and w.text.startswith("<"))
    source = calls(LLAMA, optional=True)
    assert checker.accepts(source, "So: " + text)
    assert not checker.accepts(source, "So: " + text.replace('"days": 3', '"days": "3"'))
    assert checker.accepts(source, '{"name": "clocks"}')


@pytest.mark.parametrize("is_open", [False, True])
def test_reasoning_comes_first_and_is_free(checker: Checker, is_open: bool) -> None:
    source = ReasonedGrammar(reasoning=THINK, is_open=is_open, answer=ANSWER)
    thoughts = 'Hm. {"a": "b"}\n</think>\n\n'
    whole = thoughts if is_open else "<think>\n" + thoughts
    assert checker.accepts(source, whole + '{"a": 1}')
    assert not checker.accepts(source, whole + '{"a": "b"}')
    assert not checker.accepts(source, whole)
    assert not checker.accepts(source, "</think>" if not is_open else "Hm.")
    assert checker.accepts(source, '{"a": 1}') is not is_open


def test_tokens_that_the_model_does_not_have_are_left_out() -> None:
    marks = MarkSpelling({"<tool_call>": 400, "<a>": 5, OTHER: 401}, (5, 401), 300)
    for optional in (False, True):
        source = calls(HERMES, optional=optional)
        text = serialised(source.grammars(marks))
        assert "400" not in text and "401" not in text
        assert ("<[5]>" in text) is optional


def test_reasoning_has_no_special_tokens() -> None:
    checker = Checker(with_tokens=True)
    source = ReasonedGrammar(reasoning=THINK, is_open=True, answer=RegexGrammar("[ab]+"))
    assert checker.accepts(source, "Hm.</think>ab")
    assert not checker.accepts(source, f"Hm.{END}</think>ab")
    assert not checker.accepts(source, f"Hm.{OTHER}</think>ab")


def test_calls_after_reasoning(checker: Checker) -> None:
    (written,) = (w for w in CANONICAL if w.format is HERMES)
    for optional in (False, True):
        answer = calls(HERMES, optional=optional)
        source = ReasonedGrammar(reasoning=THINK, is_open=True, answer=answer)
        thoughts = "Shall I <tool_call> now?</think>\n"
        assert checker.accepts(source, thoughts + written.text)
        assert not checker.accepts(source, thoughts + spoiled(written))
        assert checker.accepts(source, thoughts + "No.") is optional


@every_format
def test_calls_or_an_answer(checker: Checker, written: Written) -> None:
    wanted = replace(calls(written.format), is_beside_json=written.format.is_bare)
    source = CallsOrAnswer(calls=wanted, answer=ANSWER)
    assert checker.accepts(source, written.text)
    assert checker.accepts(source, '{"a": 1}')
    assert not checker.accepts(source, spoiled(written))
    assert not checker.accepts(source, '{"a": "b"}')
    assert not checker.accepts(source, "text")


@pytest.mark.parametrize(
    "answer",
    [
        '{"name": "Bob", "age": 3}',
        '{"name": "get_weather", "age": 3}',
        '{"name": "get_w", "age": 3}',
        '{"n": 1, "age": 3}',
        '{"age": 3}',
        "{}",
    ],
)
def test_an_answer_may_begin_like_a_bare_call(checker: Checker, answer: str) -> None:
    (written,) = (w for w in CANONICAL if w.format is LLAMA)
    schema: Any = {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "n": {"type": "integer"},
            "age": {"type": "integer"},
        },
    }
    source = CallsOrAnswer(
        calls=replace(calls(LLAMA), is_beside_json=True), answer=JsonSchemaGrammar(schema)
    )
    assert checker.accepts(source, answer)
    assert checker.accepts(source, written.text)
    assert checker.accepts(source, written.text.replace(": ", ":").replace(", ", ","))
    assert not checker.accepts(source, spoiled(written))
    assert not checker.accepts(source, '{"name": "other", "parameters": {}}')
    assert not checker.accepts(source, '{"name": "get_weather", "age": "x"}')
    # No endless white space.
    assert not checker.accepts(source, answer.replace("{", "{" + " " * 4))


@pytest.fixture(scope="module")
def compiler() -> Iterator[GrammarCompiler]:
    compiler = GrammarCompiler(marks=MARKS)
    yield compiler
    compiler.close()


async def test_what_is_within_bounds_compiles(compiler: GrammarCompiler) -> None:
    for written in CANONICAL:
        for optional in (False, True):
            source = calls(written.format, optional=optional)
            grammar = await compiler.compile(source)
            assert json.loads(grammar)["grammars"]


@pytest.mark.parametrize(
    ("schema", "text", "good"),
    [
        ({"enum": ["a", "b"], "type": "string"}, "a", True),
        ({"enum": ["a", "b"], "type": "string"}, "c", False),
        ({"const": "a", "type": "string"}, "a", True),
        ({"type": "array", "items": {"type": "integer"}}, "[1, 2]", True),
        ({"type": "array", "items": {"type": "integer"}}, '["1"]', False),
        ({"$ref": "#/$defs/n"}, "5", True),
        ({"$ref": "#/$defs/n"}, "x", False),
        (True, '"x"', True),
    ],
)
def test_tagged_arguments(checker: Checker, schema: object, text: str, good: bool) -> None:
    parameters = {"properties": {"a": schema}, "$defs": {"n": {"type": "integer"}}}
    for required in ([], ["a"]):
        source = ToolCallGrammar(
            format=QWEN_CODER,
            functions=[("f", {**parameters, "required": required})],
            allows_several=False,
        )
        head, tail = "<tool_call>\n<function=f>\n", "</function>\n</tool_call>"
        argument = f"<parameter=a>\n{text}\n</parameter>\n"
        assert checker.accepts(source, head + argument + tail) is good
        assert checker.accepts(source, head + tail) is not bool(required)


async def test_tagged_texts_have_no_patterns(compiler: GrammarCompiler) -> None:
    parameters = {"properties": {"a": {"type": "string", "pattern": "^a"}}}
    source = ToolCallGrammar(format=QWEN_CODER, functions=[("f", parameters)], allows_several=False)
    with pytest.raises(GrammarError, match="function 'f': `a`: `pattern` of a string"):
        await compiler.compile(source)
