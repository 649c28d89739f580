"""What clients do wrong is answered, and does not fill the log.

The bugs: every malformed request was an ERROR with a traceback of 40 lines, and so were a body that
was not of its Content-Encoding and a connection that was gone before its stream began.
"""

import asyncio
import logging
import re

import pytest
from text_generation_router.http import body

from tests.fakes.router_app import running_app


async def _send(port: int, data: bytes, half_close: bool = False) -> bytes:
    """The answer, or nothing."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    if half_close:
        writer.write_eof()
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as nothing:
        head = nothing.partial
    length = re.search(rb"(?i)^content-length: (\d+)", head, re.MULTILINE)
    text = await reader.readexactly(int(length[1]) if length else 0)
    writer.close()
    return head + text


@pytest.mark.parametrize(("level", "lines"), [("INFO", 0), ("DEBUG", 1)])
async def test_a_malformed_request_is_one_quiet_line(
    caplog: pytest.LogCaptureFixture, level: str, lines: int
) -> None:
    async with running_app() as app:
        with caplog.at_level(level):
            answer = await _send(app.port, b"this is no HTTP\r\n\r\n")
    assert answer.split(b"\r\n")[0].endswith(b"400 Bad Request")
    assert not [r for r in caplog.records if r.levelno > logging.INFO]
    records = [r for r in caplog.records if r.name == "text_generation_router.http.server"]
    assert [r.levelno for r in records] == [logging.DEBUG] * lines
    assert all(r.exc_info is None and "\n" not in r.getMessage() for r in records)


_BODY = b'{"inputs": "a"}'


def _post(path: str, header: str = "") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n{header}"
    return f"{head}Content-Length: {len(_BODY)}\r\n\r\n".encode() + _BODY


@pytest.mark.parametrize(
    ("request_bytes", "half_close", "status"),
    [
        (_post("/generate", "Content-Encoding: gzip\r\n"), False, b"400"),
        (_post("/generate_stream"), True, b""),
    ],
    ids=["no gzip", "gone"],
)
async def test_a_client_that_breaks_its_word_is_no_error(
    caplog: pytest.LogCaptureFixture, request_bytes: bytes, half_close: bool, status: bytes
) -> None:
    async with running_app() as app:
        with caplog.at_level("DEBUG"):
            answer = await _send(app.port, request_bytes, half_close)
    assert status in answer.split(b"\r\n")[0]
    assert not [r for r in caplog.records if r.levelno > logging.INFO]


async def test_percent_signs_of_a_client_are_text(caplog: pytest.LogCaptureFixture) -> None:
    async with running_app() as app:
        with caplog.at_level("DEBUG"):
            await _send(app.port, b"%s%d \xff\r\n\r\n")
    assert any("%s%d" in r.getMessage() for r in caplog.records)


async def test_a_body_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "BODY_SECONDS", 0.05)
    async with running_app() as app, asyncio.timeout(30):
        answer = await _send(app.port, _post("/v1/completions")[:-1])
    head, _, text = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 ")
    assert b"did not arrive within 0.05 s" in text
