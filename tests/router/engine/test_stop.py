"""Stop strings, by example and against a simple oracle."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from text_generation_router.engine.stop import StopChecker


def feed(checker, pieces):
    """All text that goes out, piece by piece, and the stop string that ended it."""
    out = []
    for piece in pieces:
        checked = checker.push(piece)
        out.append(checked.text)
        if checked.stop_sequence is not None:
            return out, checked.stop_sequence
    out.append(checker.release())
    return out, None


@pytest.mark.parametrize("keep", [True, False])
def test_nothing_behind_a_stop_string_leaks(keep):
    out, stop = feed(StopChecker(("stop",), keep=keep), ["a st", "op and more"])
    assert stop == "stop"
    assert "".join(out) == ("a stop" if keep else "a ")


def test_what_may_begin_a_stop_string_is_held_back_until_it_is_decided():
    checker = StopChecker(("\n\nUser:",), keep=False)
    assert [checker.push(piece).text for piece in ["Hi\n", "\nUse", "d", "\n"]] == [
        "Hi",
        "",
        "\n\nUsed",
        "",
    ]
    assert checker.release() == "\n"


def test_the_stop_string_that_ends_first_counts_and_of_those_the_longest():
    assert feed(StopChecker(("bcd", "c", "bc"), keep=False), ["abcd"])[0] == ["a"]
    assert feed(StopChecker(("bcd", "abc"), keep=True), ["xabcd"])[0] == ["xabc"]


def oracle(text, stops, keep):
    """Reads the text character by character."""
    for end in range(1, len(text) + 1):
        matching = [stop for stop in stops if text[:end].endswith(stop)]
        if matching:
            stop = max(matching, key=len)
            return text[: end if keep else end - len(stop)], stop
    return text, None


@given(
    pieces=st.lists(st.text("abc", max_size=4), max_size=12),
    stops=st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=3),
    keep=st.booleans(),
)
def test_any_text_in_any_pieces(pieces, stops, keep):
    out, stop = feed(StopChecker(tuple(stops), keep=keep), pieces)
    assert ("".join(out), stop) == oracle("".join(pieces), stops, keep)


@given(
    pieces=st.lists(st.text("abc", min_size=1, max_size=4), max_size=12),
    stops=st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=3),
)
def test_no_more_is_held_back_than_could_begin_a_stop_string(pieces, stops):
    checker = StopChecker(tuple(stops), keep=False)
    seen = sent = ""
    for piece in pieces:
        checked = checker.push(piece)
        seen, sent = seen + piece, sent + checked.text
        if checked.stop_sequence is not None:
            return
        held = seen[len(sent) :]
        assert not held or any(stop.startswith(held) for stop in stops)
