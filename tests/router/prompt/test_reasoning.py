"""Reasoning at an answer's beginning: the same result however the answer is cut into pieces."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from text_generation_router.prompt.reasoning import (
    KNOWN_FORMATS,
    ReasoningFormat,
    ReasoningParser,
    reasoning_of,
)

THINK = ReasoningFormat("<think>", "</think>")


def parse(
    pieces: list[str], *, is_open: bool = False, marks: ReasoningFormat = THINK
) -> tuple[str, str]:
    """Reasoning and text."""
    parser = ReasoningParser(marks, is_open=is_open)
    splits = [parser.feed(piece) for piece in pieces] + [parser.finish()]
    return "".join(s.reasoning for s in splits), "".join(s.text for s in splits)


@pytest.mark.parametrize(
    ("text", "is_open", "expected"),
    [
        ("<think>\nHm.\n</think>\n\nYes.", False, ("Hm.", "Yes.")),
        ("\nHm.\n</think>\n\nYes.", True, ("Hm.", "Yes.")),
        ("Yes.", False, ("", "Yes.")),
        (" Yes.", False, ("", " Yes.")),
        ("<think>Hm.", False, ("Hm.", "")),
        ("Hm. <think>", False, ("", "Hm. <think>")),
        ("<thin", False, ("", "<thin")),
        ("<think></think>", False, ("", "")),
        ("a < b </think>c</think>", True, ("a < b", "c</think>")),
    ],
)
def test_answers(text: str, is_open: bool, expected: tuple[str, str]) -> None:
    assert parse([text], is_open=is_open) == expected


@pytest.mark.parametrize("marks", KNOWN_FORMATS, ids=lambda marks: marks.opens)
def test_every_format_is_told_by_its_template_and_read(marks: ReasoningFormat) -> None:
    template = f"{{% if message.thinking %}}{marks.opens}...{marks.closes}{{% endif %}}"
    assert reasoning_of(template) is marks
    text = f"{marks.opens}\nLet me see. \n{marks.closes}\n So."
    assert parse([text], marks=marks) == ("Let me see.", "So.")
    assert parse(list(text), marks=marks) == ("Let me see.", "So.")
    assert marks.is_opened_by(f"...assistant\n{marks.opens}\n")
    assert not marks.is_opened_by(f"...{marks.opens} {marks.closes}\n\n")
    assert marks.is_closed_by(f"...{marks.opens} {marks.closes}\n\n")


@given(
    st.lists(
        st.sampled_from(["<think>", "</think>", "<", "</thi", "\n", " ", "a", "é😀"]), max_size=8
    ).map("".join),
    st.booleans(),
    st.data(),
)
def test_every_split_gives_the_same(text: str, is_open: bool, data: st.DataObject) -> None:
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=12).map(sorted))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    expected = parse([text], is_open=is_open)
    assert parse(pieces, is_open=is_open) == expected
    assert parse(list(text), is_open=is_open) == expected


@pytest.mark.parametrize(
    ("pieces", "is_open", "count"),
    [
        (["<think>", "a", " b", "</think>", "c", "d"], False, 4),
        (["a", " b", "</th", "ink>", "c"], True, 4),
        (["a", "b"], True, 2),
        (["a", "b"], False, 0),
        (["\n", "<thi", "nk>", "a"], False, 4),
    ],
)
def test_tokens_of_the_reasoning_are_counted(pieces: list[str], is_open: bool, count: int) -> None:
    parser = ReasoningParser(THINK, is_open=is_open)
    for piece in pieces:
        parser.feed(piece)
    assert parser.num_reasoned == count
