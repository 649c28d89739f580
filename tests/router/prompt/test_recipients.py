"""functionary's answers: whom a message is for, the same however the answer is cut into pieces."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from text_generation_router.prompt.recipients import RecipientParser

BEGUN, FRESH = "[assistant]>>>", "[assistant]"


def parse(prompt: str, pieces: Sequence[str]) -> str:
    parser = RecipientParser(prompt)
    return "".join(map(parser.feed, pieces)) + parser.finish()


@pytest.mark.parametrize(
    ("prompt", "answer", "text"),
    [
        (BEGUN, "all\nHello >there>>", "Hello >there>>"),
        (BEGUN, "all\n", ""),
        (BEGUN, "al", ""),
        (FRESH, ">>>all\nHello", "Hello"),
        (FRESH, "Hello", "Hello"),
        (BEGUN, 'clock\n{"a": 1}', '>>>clock\n{"a": 1}'),
        (BEGUN, "all\nLet me see.>>>clock\n{}", "Let me see.>>>clock\n{}"),
        (BEGUN, "clock\n{}>>>all\nDone.", ">>>clock\n{}Done."),
        (BEGUN, "all\n>>> 1 + 1\n2\n>>> all\n", ">>> 1 + 1\n2\n>>> all\n"),
        (BEGUN, "all\nx >>>>y\n", "x >>>>y\n"),
        (BEGUN, "all\n" + ">" * 9, ">" * 9),
        (BEGUN, "x" * 80 + "\n", "x" * 80 + "\n"),
    ],
)
def test_headers(prompt: str, answer: str, text: str) -> None:
    assert parse(prompt, [answer]) == text
    for cut in range(len(answer) + 1):
        assert parse(prompt, [answer[:cut], answer[cut:]]) == text
    assert parse(prompt, list(answer)) == text


@given(
    st.lists(st.sampled_from([">>>", ">", "all", "\n", "clock", "x y", "{}"]), max_size=10).map(
        "".join
    ),
    st.sampled_from([BEGUN, FRESH]),
)
def test_every_split_gives_the_same(answer: str, prompt: str) -> None:
    assert parse(prompt, list(answer)) == parse(prompt, [answer])


def test_text_goes_out_at_once() -> None:
    parser = RecipientParser(BEGUN)
    assert parser.feed("all") == ""
    assert parser.feed("\nHel") == "Hel"
    assert parser.feed("lo >") == "lo "
    assert parser.feed(" b") == "> b"
