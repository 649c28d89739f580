"""The text of a custom tool's call, read from its arguments while they are written."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from text_generation_router.api.custom_tools import CustomInputReader
from text_generation_router.prompt.call_reader import CallPiece, whole_calls


def read_in_pieces(arguments: str, cuts: list[int], *, is_whole: bool = True) -> list[CallPiece]:
    """The call's pieces, if the arguments come cut at these places."""
    reader = CustomInputReader(frozenset({"run"}))
    places = [0, *sorted(cut % (len(arguments) + 1) for cut in cuts), len(arguments)]
    pieces = [arguments[i:j] for i, j in pairwise(places)]
    read = []
    for i, piece in enumerate(pieces):
        is_end = i == len(pieces) - 1
        call = CallPiece("run" if i == 0 else "", piece, is_last=is_end and is_whole)
        read += reader.read([call], is_last=is_end)
    return [part for part in read if isinstance(part, CallPiece)]


@given(text=st.text(), is_ascii=st.booleans(), cuts=st.lists(st.integers(0, 200)))
def test_any_text_comes_out_however_it_is_cut(text: str, is_ascii: bool, cuts: list[int]) -> None:
    arguments = json.dumps({"input": text}, ensure_ascii=is_ascii)
    (call,) = whole_calls(read_in_pieces(arguments, cuts))
    assert call == CallPiece("run", text, is_last=True)


@given(text=st.text(), kept=st.integers(0, 200), cuts=st.lists(st.integers(0, 200)))
def test_a_text_that_was_cut_is_a_beginning(text: str, kept: int, cuts: list[int]) -> None:
    arguments = json.dumps({"input": text})
    head = len('{"input": "')
    cut = arguments[: min(head + kept, len(arguments))]
    (call,) = whole_calls(read_in_pieces(cut, cuts, is_whole=False))
    assert text.startswith(call.arguments)
    assert call == whole_calls(read_in_pieces(cut, [], is_whole=False))[0]
    assert not call.is_last


def test_it_comes_as_it_is_written() -> None:
    pieces = read_in_pieces('{"input": "one two"}', [14])
    assert [piece.arguments for piece in pieces] == ["one", " two"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        # Not the object that was asked for.
        ('{"code": "x"}', '{"code": "x"}'),
        ('{"input": 7}', '{"input": 7}'),
        ("{}", "{}"),
        # No JSON, where nothing was enforced.
        ('{"input": "a\nb\\q\\ud800c"}', "a\nb\\q\\ud800c"),
    ],
)
@given(cuts=st.lists(st.integers(0, 50), max_size=4))
def test_what_is_something_else_stays_as_it_is(arguments: str, text: str, cuts: list[int]) -> None:
    (call,) = whole_calls(read_in_pieces(arguments, cuts))
    assert call.arguments == text
