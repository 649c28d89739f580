"""Reasoning in answers: the same result however the answer is cut into pieces."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from text_generation_router.prompt.reasoning import ReasoningParser, SplitText

FRAGMENTS = st.sampled_from(
    ["<think>", "</think>", "<think", "</thi", "<", "a", "é😀", "\n", "  ", "<tool_call>"]
)


def parse(pieces: list[str], prompt: str = "") -> SplitText:
    parser = ReasoningParser(prompt)
    splits = [*(parser.feed(piece) for piece in pieces), parser.finish()]
    return SplitText(
        "".join(split.reasoning for split in splits), "".join(split.text for split in splits)
    )


@given(st.lists(FRAGMENTS, max_size=8).map("".join), st.sampled_from(["", "<think>\n"]), st.data())
def test_every_split_gives_the_same(text: str, prompt: str, data: st.DataObject) -> None:
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=12).map(sorted))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    expected = parse([text], prompt)
    assert parse(pieces, prompt) == expected
    assert parse(list(text), prompt) == expected


@pytest.mark.parametrize(
    ("prompt", "text", "reasoning", "answer"),
    [
        ("", "<think>\nWhy?\n</think>\n\nSo.", "Why?", "So."),
        ("", " \n<think></think>So.", "", "So."),
        ("", "So. <think>no</think>", "", "So. <think>no</think>"),
        ("", "  So.", "", "  So."),
        ("", "<think>cut", "cut", ""),
        ("", "<thi", "", "<thi"),
        ("<|assistant|><think>\n", "Why?\n</think>\nSo. ", "Why?", "So. "),
        ("<think>\n\n</think>\n\n", "So.", "", "So."),
    ],
)
def test_what_is_reasoning(prompt: str, text: str, reasoning: str, answer: str) -> None:
    assert parse([text], prompt) == SplitText(reasoning, answer)


def test_reasoning_goes_out_as_soon_as_it_is_certain() -> None:
    parser = ReasoningParser("")
    assert parser.feed("<think>a") == SplitText("a", "")
    assert parser.feed(" </th") == SplitText("", "")
    assert parser.feed("e") == SplitText(" </the", "")
