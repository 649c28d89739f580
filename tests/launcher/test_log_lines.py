"""Lines stay whole however their bytes arrive."""

import itertools

from hypothesis import given
from hypothesis import strategies as st
from text_generation_launcher import log_lines
from text_generation_launcher.log_lines import LineSplitter

TEXT = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=30)


def split(chunks):
    splitter = LineSplitter()
    lines = [line for chunk in chunks for line in splitter.feed(chunk)]
    return lines + list(splitter.finish())


@given(lines=st.lists(TEXT, max_size=8), cuts=st.lists(st.integers(0, 300), max_size=12))
def test_lines_are_the_same_however_the_bytes_are_cut(lines, cuts):
    data = "".join(line + "\n" for line in lines).encode()
    edges = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    chunks = [data[start:end] for start, end in itertools.pairwise(edges)]
    assert split(chunks) == lines


@given(data=st.binary(max_size=200))
def test_nothing_is_lost_of_bytes_that_are_no_text(data):
    whole = split([data])
    assert whole == split([bytes([byte]) for byte in data])
    assert len(whole) == data.count(b"\n") + (not data.endswith(b"\n") and data != b"")


def test_bytes_that_are_no_utf8_are_shown():
    assert split([b"caf\xe9\n"]) == ["caf\\xe9"]


def test_a_windows_line_end_is_one():
    assert split([b"a\r\nb"]) == ["a", "b"]


def test_an_endless_line_comes_in_pieces(monkeypatch):
    monkeypatch.setattr(log_lines, "MAX_LINE_BYTES", 10)
    assert split([b"a" * 8, b"b" * 8, b"c" * 4]) == ["a" * 8 + "b" * 8, "c" * 4]
