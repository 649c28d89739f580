"""The load generator's parser: however the bytes are cut, the events are the same."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.http_stream import Endpoint, ResponseParser, StreamError

EVENTS = [
    b'data: {"token":{"text":"a \\n\\n b"},"details":null}\n\n',
    b":\n\n",
    b'data: {"token":{"text":"b"},"details":{"generated_tokens":2,"input_length":3}}\n\n',
    b'data: {"choices":[]}\n\n',
    b"data: [DONE]\n\n",
]
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"


def chunked(parts: list[bytes]) -> bytes:
    body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
    return HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + body + b"0\r\n\r\n"


def parse(data: bytes, cuts: list[int]) -> ResponseParser:
    parser = ResponseParser()
    edges = [0, *sorted(cuts), len(data)]
    for moment, (start, end) in enumerate(itertools.pairwise(edges)):
        if end > start:
            assert not parser.complete
            parser.feed(data[start:end], float(moment))
    return parser


@given(st.lists(st.integers(0, 500), max_size=12), st.lists(st.integers(1, 200), max_size=4))
def test_chunked_stream_cut_anywhere(cuts: list[int], chunk_edges: list[int]) -> None:
    body = b"".join(EVENTS)
    edges = sorted({0, len(body), *(edge for edge in chunk_edges if edge < len(body))})
    data = chunked([body[a:b] for a, b in itertools.pairwise(edges)])
    parser = parse(data, [cut for cut in cuts if cut < len(data)])
    assert parser.complete
    record = parser.record(99.0)
    assert record.status == 200
    assert len(record.event_times) == 3
    assert list(record.event_times) == sorted(record.event_times)
    assert record.last_event is not None
    assert record.last_event["details"] == {"generated_tokens": 2, "input_length": 3}


@given(st.lists(st.integers(0, 100), max_size=5))
def test_content_length_body(cuts: list[int]) -> None:
    body = json.dumps({"error": "x"}).encode()
    data = b"HTTP/1.1 422 No\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)
    parser = parse(data, [cut for cut in cuts if cut < len(data)])
    assert parser.complete
    assert (parser.status, parser.body, parser.record(0.0).last_event) == (422, body, None)


def test_an_answer_in_one_piece_is_its_own_last_event() -> None:
    body = json.dumps({"usage": {"completion_tokens": 3}}).encode()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\n"
    parser = ResponseParser()
    parser.feed(head + b"content-length: %d\r\n\r\n%s" % (len(body), body), 1.0)
    record = parser.record(1.0)
    assert parser.complete and not record.event_times
    assert record.last_event == json.loads(body)


def test_body_until_close() -> None:
    parser = ResponseParser()
    parser.feed(HEAD + b"\r\n" + EVENTS[0], 1.0)
    assert not parser.complete
    parser.closed()
    assert parser.complete
    assert list(parser.event_times) == [1.0]


def test_cut_chunked_body_is_not_complete() -> None:
    parser = ResponseParser()
    parser.feed(chunked(EVENTS)[:-5], 1.0)
    parser.closed()
    assert not parser.complete


def test_endless_head_is_refused() -> None:
    with pytest.raises(StreamError, match="head"):
        ResponseParser().feed(b"x" * 70_000, 0.0)


def test_endpoint_needs_a_url() -> None:
    with pytest.raises(ValueError, match="--url"):
        Endpoint(url="localhost:8080", path="/generate")


def test_message_carries_path_and_key() -> None:
    endpoint = Endpoint(url="http://host:81/base/", path="/generate", api_key="k")
    message = endpoint.message({"inputs": "ä"})
    head, _, body = message.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /base/generate HTTP/1.1\r\nhost: host:81\r\n")
    assert b"authorization: Bearer k" in head
    assert b"content-length: %d" % len(body) in head
