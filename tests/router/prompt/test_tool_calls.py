"""Tool calls in answers: the same result however the answer is cut into pieces."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from text_generation_router.prompt.tool_calls import (
    AnswerPart,
    AnswerText,
    ToolCall,
    ToolCallParser,
)

CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
FRAGMENTS = st.sampled_from(
    [
        CALL,
        '<tool_call>{"name": "f"}</tool_call>',
        '<tool_call>{"arguments": {"a": 1}, "name": "g"}</tool_call>',
        "<tool_call>not JSON</tool_call>",
        "<tool_call>",
        "</tool_call>",
        "<tool",
        "<",
        "text ",
        "é😀",
        "\n",
        "  ",
        '{"name": "h"}',
    ]
)


def merged(parts: list[AnswerPart]) -> list[AnswerPart]:
    """Neighbouring texts as one."""
    result: list[AnswerPart] = []
    for part in parts:
        if isinstance(part, AnswerText) and result and isinstance(result[-1], AnswerText):
            result[-1] = AnswerText(result[-1].text + part.text)
        else:
            result.append(part)
    return result


def parse(pieces: list[str], max_calls: int | None = None) -> list[AnswerPart]:
    parser = ToolCallParser(max_calls)
    parts = [part for piece in pieces for part in parser.feed(piece)]
    return merged(parts + parser.finish())


@given(st.lists(FRAGMENTS, max_size=6).map("".join), st.data())
def test_every_split_gives_the_same(text: str, data: st.DataObject) -> None:
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=12).map(sorted))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    expected = parse([text])
    assert parse(pieces) == expected
    assert parse(list(text)) == expected


@given(st.text(alphabet="ab <>/_tolcal\n{}", max_size=60))
def test_text_without_calls_comes_out_unchanged(text: str) -> None:
    parts = parse(list(text))
    if not any(isinstance(part, ToolCall) for part in parts):
        assert "".join(part.text for part in parts if isinstance(part, AnswerText)) == text


def test_text_before_a_call_loses_its_trailing_space() -> None:
    assert parse(["Let me see. \n" + CALL + "\n"]) == [
        AnswerText("Let me see."),
        ToolCall("get_weather", '{"city": "Paris"}'),
    ]


def test_parallel_calls() -> None:
    parts = parse([CALL + "\n" + CALL.replace("Paris", "Rome")])
    assert [json.loads(part.arguments) for part in parts if isinstance(part, ToolCall)] == [
        {"city": "Paris"},
        {"city": "Rome"},
    ]


def test_no_more_calls_than_wanted() -> None:
    assert len(parse([CALL + CALL], max_calls=1)) == 1


def test_the_last_call_may_stay_open() -> None:
    assert parse([CALL.removesuffix("</tool_call>")]) == [
        ToolCall("get_weather", '{"city": "Paris"}')
    ]


def test_a_call_cut_off_by_the_length_limit_stays_text() -> None:
    cut = 'a <tool_call>{"name": "get_w'
    assert parse([cut]) == [AnswerText(cut)]


@pytest.mark.parametrize(
    ("body", "arguments"),
    [
        ('{"name": "f", "parameters": {"a": 1}}', '{"a": 1}'),
        ('{"name": "f", "arguments": "{\\"a\\": 1}"}', '{"a": 1}'),
        ('{"name": "f"}', "{}"),
    ],
)
def test_forms_of_arguments(body: str, arguments: str) -> None:
    assert parse([f"<tool_call>{body}</tool_call>"]) == [ToolCall("f", arguments)]


@pytest.mark.parametrize(
    "body", ["[]", '{"name": ""}', '{"name": 1}', '{"name": "f", "arguments": [1]}', ""]
)
def test_what_is_no_call_is_text(body: str) -> None:
    text = f"<tool_call>{body}</tool_call>"
    assert parse([text]) == [AnswerText(text)]


def test_text_goes_out_as_soon_as_it_is_certain() -> None:
    parser = ToolCallParser()
    assert parser.feed("Hello") == [AnswerText("Hello")]
    assert parser.feed(" <tool") == []
    assert parser.feed("box>") == [AnswerText(" <toolbox>")]
