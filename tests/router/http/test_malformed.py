"""Bytes that are no HTTP request are answered, and do not fill the log.

The bug: every malformed request was an ERROR with a traceback of 40 lines.
"""

import asyncio
import logging

import pytest

from tests.fakes.router_app import running_app


async def _send(port: int, data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    answer = await reader.read(4096)
    writer.close()
    return answer


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
