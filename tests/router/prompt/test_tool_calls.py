"""Tool calls in answers, in every format: the same result however the answer is cut into pieces."""

import json
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from text_generation_router.prompt.call_reader import CallPiece
from text_generation_router.prompt.tool_calls import AnswerPart, AnswerText, ToolCallParser
from text_generation_router.prompt.tool_formats import (
    COHERE,
    DEEPSEEK,
    GENERIC,
    HERMES,
    LLAMA,
    MISTRAL,
    MISTRAL_LIST,
    QWEN_CODER,
    TaggedBody,
    ToolFormat,
)

from tests.router.prompt.answers import ARGUMENTS, FUNCTIONS, WRITTEN, Written

FORMATS = list(dict.fromkeys(written.format for written in WRITTEN))
every_answer = pytest.mark.parametrize("written", WRITTEN, ids=lambda written: written.format.name)


def parse(
    wanted: ToolFormat, pieces: Sequence[str], max_calls: int | None = None
) -> list[AnswerPart]:
    """The parts of an answer, neighbouring texts as one, and the pieces of a call."""
    parser = ToolCallParser(wanted, FUNCTIONS, max_calls)
    parts = [part for piece in pieces for part in parser.feed(piece)] + parser.finish()
    merged: list[AnswerPart] = []
    for part in parts:
        if isinstance(part, AnswerText) and merged and isinstance(merged[-1], AnswerText):
            merged[-1] = AnswerText(merged[-1].text + part.text)
        elif isinstance(part, CallPiece) and not part.name:
            assert isinstance(merged[-1], CallPiece) and not merged[-1].is_last
            merged[-1] = merged[-1].with_more(part)
        else:
            merged.append(part)
    return merged


def call(name: str, arguments: str) -> CallPiece:
    """A whole call."""
    return CallPiece(name, arguments, is_last=True)


def has_calls(parts: Sequence[AnswerPart]) -> bool:
    return any(isinstance(part, CallPiece) for part in parts)


def calls_of(parts: Sequence[AnswerPart]) -> list[tuple[str, object]]:
    return [(p.name, json.loads(p.arguments)) for p in parts if isinstance(p, CallPiece)]


@every_answer
def test_two_calls(written: Written) -> None:
    parts = parse(written.format, [written.text])
    assert calls_of(parts) == [("get_weather", json.loads(ARGUMENTS)), ("clock", {})]
    assert len(parts) == 2


MARKED = [w for w in WRITTEN if w.format.first_mark and w.format.first_mark in w.text]


@pytest.mark.parametrize("written", MARKED, ids=lambda written: written.format.name)
def test_text_around_calls(written: Written) -> None:
    before, *calls = parse(written.format, ["Let me see. \n" + written.text + "\n"])
    assert before == AnswerText("Let me see.")
    assert len(calls_of(calls)) == len(calls) == 2
    *calls, after = parse(written.format, [written.text + " Done."])
    assert after == AnswerText(" Done.")
    assert len(calls_of(calls)) == 2


@every_answer
def test_no_more_calls_than_wanted(written: Written) -> None:
    assert len(parse(written.format, [written.text], max_calls=1)) == 1


@every_answer
def test_every_cut_in_two_gives_the_same(written: Written) -> None:
    """Also for answers that end anywhere, as by a limit; and nothing of them is lost."""
    for end in range(len(written.text) + 1):
        text = "So: " * (not written.format.is_bare) + written.text[:end]
        expected = parse(written.format, [text])
        assert parse(written.format, list(text)) == expected
        assert parse(written.format, [text[: end // 2], text[end // 2 :]]) == expected
        if not has_calls(expected) and text:
            assert expected == [AnswerText(text)]


STREAMED = [w for w in WRITTEN if not isinstance(w.format.body, TaggedBody)]


@pytest.mark.parametrize("written", STREAMED, ids=lambda written: written.format.name)
def test_arguments_come_out_as_they_are_written(written: Written) -> None:
    """With the name as soon as they begin, and every further character at once."""
    start = written.text.index(ARGUMENTS)
    parser = ToolCallParser(written.format, FUNCTIONS)
    assert parser.feed(written.text[:start]) == []
    last = len(ARGUMENTS) - 1
    for i, character in enumerate(ARGUMENTS):
        name = "" if i else "get_weather"
        assert parser.feed(character) == [CallPiece(name, character, is_last=i == last)]
    # An answer that ends among them has a call as far as it got.
    for end in range(1, len(ARGUMENTS)):
        cut = parse(written.format, [written.text[: start + end]])
        assert cut == [CallPiece("get_weather", ARGUMENTS[:end])]


def fragments(wanted: ToolFormat) -> st.SearchStrategy[str]:
    """Calls of a format, pieces of them, and what is in none."""
    texts = [written.text for written in WRITTEN if written.format is wanted]
    marks = [mark for mark in wanted.marks() if mark]
    broken = [text[: len(text) // 2] for text in texts] + [mark[:-1] for mark in marks]
    others = ["text ", "é😀", "\n", "  ", "{", "}", "]", "<", '{"name": "clock"}', "not JSON"]
    return st.lists(st.sampled_from([*texts, *marks, *broken, *others]), max_size=6).map("".join)


@pytest.mark.parametrize("wanted", FORMATS, ids=lambda wanted: wanted.name)
@settings(max_examples=40)
@given(data=st.data())
def test_every_split_gives_the_same(wanted: ToolFormat, data: st.DataObject) -> None:
    text = data.draw(fragments(wanted))
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=12).map(sorted))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    expected = parse(wanted, [text])
    assert parse(wanted, pieces) == expected
    assert parse(wanted, list(text)) == expected
    if not has_calls(expected):
        assert "".join(p.text for p in expected if isinstance(p, AnswerText)) == text


@pytest.mark.parametrize(
    ("body", "arguments"),
    [
        ('{"name": "f", "parameters": {"a": 1}}', '{"a": 1}'),
        ('{"name": "f", "arguments": "{\\"a\\": 1}"}', '{"a": 1}'),
        ('{"arguments": {"a": 1}, "name": "f"}', '{"a": 1}'),
        ('{"name": "f"}', "{}"),
        ('{"name": "f", "arguments": null}', "{}"),
    ],
)
def test_forms_of_arguments(body: str, arguments: str) -> None:
    assert parse(HERMES, [f"<tool_call>{body}</tool_call>"]) == [call("f", arguments)]


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        *(
            (HERMES, f"<tool_call>{body}</tool_call>")
            for body in (
                "[]",
                "not JSON",
                '{"name": ""}',
                '{"name": 1}',
                '{"name": "f", "arguments": [1]}',
                '{"name": "f", "arguments": "[1]"}',
                '{"name": "f", "arguments": [{"a": 1}]}',
                '{"name": "", "arguments": {}}',
                '{"name": "\\q", "arguments": {}}',
                "",
            )
        ),
        (LLAMA, '{"name": "somebody", "parameters": {}}'),
        (LLAMA, '{"answer": 42}'),
        (LLAMA, '<|python_tag|>search.call(query="x")'),
        (LLAMA, 'It is {"name": "clock", "parameters": {}}'),
        (GENERIC, '{"name": "clock"'),
        (MISTRAL, "[TOOL_CALLS] and then [ARGS]{}"),
        (MISTRAL, "[TOOL_CALLS]clock{}"),
        (MISTRAL_LIST, "[TOOL_CALLS]{}"),
        (DEEPSEEK, "<｜tool▁calls▁begin｜> well <｜tool▁calls▁end｜>"),
        (COHERE, "<|START_ACTION|>[]<|END_ACTION|>"),
        (QWEN_CODER, "<tool_call>\n<function=clock>\n<parameter=a>\n1</function>\n</tool_call>"),
    ],
)
def test_what_is_no_call_is_text(wanted: ToolFormat, text: str) -> None:
    assert parse(wanted, [text]) == [AnswerText(text)]


@pytest.mark.parametrize(
    ("wanted", "text", "parts"),
    [
        (
            HERMES,
            '<tool_call>{"name": "f", "arguments": {]}}</tool_call>',
            [call("f", "{]"), AnswerText("}</tool_call>")],
        ),
        (
            HERMES,
            '<tool_call>{"name": "f", "arguments": {"a": \x00}}</tool_call>',
            [call("f", '{"a": \x00}')],
        ),
        (
            HERMES,
            '<tool_call>{"name": "f", "arguments": {"a": "}</tool_call> Done.',
            [CallPiece("f", '{"a": "}</tool_call> Done.')],
        ),
        (MISTRAL, "[TOOL_CALLS]f[ARGS]{a} Done.", [call("f", "{a}"), AnswerText(" Done.")]),
        (LLAMA, '{"name": "clock", "parameters": {}, "id": {"a": "}"}}', [call("clock", "{}")]),
        (
            LLAMA,
            '{"name": "clock", "parameters": {}, "id"}',
            [call("clock", "{}"), AnswerText(', "id"}')],
        ),
        (LLAMA, '{"name": "clock", "parameters": {} x', [call("clock", "{}"), AnswerText(" x")]),
        (
            LLAMA,
            '{"name": "clock", "parameters": {}, "i',
            [call("clock", "{}"), AnswerText(', "i')],
        ),
    ],
)
def test_what_was_begun_stays_a_call(
    wanted: ToolFormat, text: str, parts: list[AnswerPart]
) -> None:
    """Its pieces are with the client already; nothing of the answer is lost."""
    assert parse(wanted, [text]) == parse(wanted, list(text)) == parts


def test_a_head_too_long_to_be_looked_for_is_read_with_the_whole() -> None:
    text = f'<tool_call>{{"id": "{"x" * 2000}", "name": "f", "arguments": {{"a": 1}}}}'
    assert parse(HERMES, [text]) == parse(HERMES, list(text)) == [call("f", '{"a": 1}')]
    assert parse(HERMES, [text[:-1]]) == [AnswerText(text[:-1])]


def test_a_call_after_what_is_none_is_found() -> None:
    written = '<tool_call>\n{"name": "clock"}\n</tool_call>'
    assert parse(HERMES, ["<tool_call> " + written]) == [
        AnswerText("<tool_call>"),
        call("clock", "{}"),
    ]


def test_the_first_calls_of_a_list_stand_when_a_later_one_is_none() -> None:
    text = '[TOOL_CALLS][{"name": "clock", "arguments": {}}, {"name": 5}]'
    assert parse(MISTRAL_LIST, [text]) == [call("clock", "{}"), AnswerText(', {"name": 5}]')]


def test_a_tagged_argument_is_text_if_its_schema_says_so() -> None:
    text = (
        "<tool_call><function=get_weather>\n<parameter=city>\n12\n</parameter>\n"
        "<parameter=days>\n3\n</parameter>\n<parameter=note>\nhot\n</parameter>\n</function>"
    )
    assert calls_of(parse(QWEN_CODER, [text])) == [
        ("get_weather", {"city": "12", "days": 3, "note": "hot"})
    ]


def test_text_goes_out_as_soon_as_it_is_certain() -> None:
    parser = ToolCallParser(HERMES, FUNCTIONS)
    assert parser.feed("Hello") == [AnswerText("Hello")]
    assert parser.feed(" <tool") == []
    assert parser.feed("box>") == [AnswerText(" <toolbox>")]
    assert parser.feed("<tool_call> x") == [AnswerText("<tool_call>"), AnswerText(" x")]
    bare = ToolCallParser(LLAMA, FUNCTIONS)
    assert bare.feed('{"') == []
    assert bare.feed("answer") == [AnswerText('{"answer')]


def test_a_call_comes_out_as_soon_as_it_is_whole() -> None:
    parser = ToolCallParser(MISTRAL_LIST, FUNCTIONS)
    assert parser.feed('[TOOL_CALLS][{"name": "clock", "arguments": {}}') == [call("clock", "{}")]
    assert parser.num_calls == 1
