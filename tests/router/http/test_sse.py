"""Streams on the wire: framing, slow readers, silence, and clients that leave."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from text_generation_router.engine.request import FinishReason
from text_generation_router.http import sse

from tests.fakes.engine import FakeEngine, Said
from tests.fakes.router_app import RunningApp, running_app

LONG = "x" * 10_000


@asynccontextmanager
async def manual_app() -> AsyncIterator[RunningApp]:
    """The engine says only what the test lets it say."""
    engine = FakeEngine()
    engine.is_manual = True
    async with running_app(engine) as app:
        yield app


@asynccontextmanager
async def raw_request(
    app: RunningApp,
    path: str,
    body: dict[str, Any],
    *,
    version: str = "1.1",
    connection: str = "keep-alive",
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection on which a request was sent and nothing read."""
    reader, writer = await asyncio.open_connection("127.0.0.1", app.port, limit=1024)
    encoded = json.dumps(body).encode()
    writer.write(
        f"POST {path} HTTP/{version}\r\nhost: x\r\ncontent-type: application/json\r\n"
        f"content-length: {len(encoded)}\r\nconnection: {connection}\r\n\r\n".encode()
        + encoded
    )
    try:
        yield reader, writer
    finally:
        writer.close()


async def eventually(condition: Any) -> None:
    """Let the loop run until something holds."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.002)


async def test_each_event_is_one_chunk_of_its_own() -> None:
    async with (
        manual_app() as app,
        raw_request(app, "/generate_stream", {"inputs": "a"}) as (reader, _),
    ):
        await app.engine.submitted(1)
        generation = app.engine.generations[0]
        assert b"transfer-encoding: chunked" in (await reader.readuntil(b"\r\n\r\n")).lower()
        generation.say("é")
        size = int(await reader.readline(), 16)
        event = await reader.readexactly(size)
        assert event.startswith(b'data: {"index":1,')
        assert event.endswith(b"}\n\n")
        assert await reader.readexactly(2) == b"\r\n"
        generation.say("end", FinishReason.LENGTH)
        size = int(await reader.readline(), 16)
        await reader.readexactly(size + 2)
        assert await reader.readexactly(5) == b"0\r\n\r\n"


@pytest.mark.parametrize("connection", ["close", "keep-alive"])
async def test_http_1_0_has_no_chunks(connection: str) -> None:
    """Its streams end with the connection. That stayed open for whoever offered to keep it."""
    async with running_app() as app:
        body = {"inputs": "a"}
        request = raw_request(app, "/generate_stream", body, version="1.0", connection=connection)
        async with request as (reader, _), asyncio.timeout(10):
            assert b"chunked" not in (await reader.readuntil(b"\r\n\r\n")).lower()
            body = await reader.read()
    assert body.startswith(b'data: {"index":1,')
    assert body.count(b"data: ") == 3


async def test_a_connection_serves_again_after_a_stream() -> None:
    async with running_app() as app:
        for _ in range(3):
            async with app.session.post("/generate_stream", json={"inputs": "a"}) as response:
                await response.read()
            async with app.session.post("/generate", json={"inputs": "a"}) as response:
                assert response.status == 200
        assert len(app.service.streams) == 0


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/generate_stream", {"inputs": "a"}),
        ("/generate", {"inputs": "a"}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}], "n": 2}),
        ("/v1/completions", {"prompt": "a", "stream": True}),
    ],
)
async def test_a_client_that_leaves_cancels_its_generations(
    path: str, body: dict[str, Any]
) -> None:
    async with manual_app() as app:
        async with raw_request(app, path, body) as (_, writer):
            await app.engine.submitted(body.get("n", 1))
            app.engine.generations[0].say("a")
            writer.close()
            await eventually(lambda: all(g.cancelled for g in app.engine.generations))
        await eventually(lambda: len(app.service.streams) == 0)
        failures = app.service.registry.get_sample_value
        await eventually(lambda: failures("tgi_request_failure_total", {"err": "dropped"}) == 1)


async def test_a_slow_reader_gets_every_event(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "_SOFT_LIMIT", 1000)
    async with (
        manual_app() as app,
        raw_request(app, "/generate_stream", {"inputs": "a"}) as (reader, _),
    ):
        await app.engine.submitted(1)
        for _ in range(100):
            app.engine.generations[0].say(LONG)
            await asyncio.sleep(0)
        app.engine.generations[0].say("end", FinishReason.LENGTH)
        body = await reader.readuntil(b"\r\n\r\n")
        while not body.endswith(b"0\r\n\r\n"):
            body += await reader.read(65536)
    text = b"".join(body.split(b"\r\n")[0::1])
    assert text.count(b"data: ") == 101
    indexes = [int(part.split(b",")[0]) for part in text.split(b'data: {"index":')[1:]]
    assert indexes == list(range(1, 102))


async def test_one_large_event_does_not_make_a_slow_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """A response begins by repeating its request, twice. Large ones were cut off behind that."""
    monkeypatch.setattr(sse, "_HARD_LIMIT", 1000)
    body = {"input": "a", "instructions": "x" * 100, "metadata": {"a": LONG}, "stream": True}
    async with (
        running_app() as app,
        app.session.post("/v1/responses", json=body) as response,
    ):
        assert b"event: response.completed\n" in await response.read()


async def test_a_reader_that_never_reads_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "_HARD_LIMIT", 100_000)
    async with manual_app() as app:
        async with raw_request(app, "/generate_stream", {"inputs": "a"}) as (reader, _):
            await app.engine.submitted(1)
            generation = app.engine.generations[0]
            async with asyncio.timeout(30):
                while not generation.cancelled:
                    generation.say(LONG)
                    await asyncio.sleep(0)
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                while True:
                    await reader.readexactly(1024)
        async with app.session.get("/health") as response:
            assert response.status == 200


async def test_a_connection_that_just_closed_is_written_to_no_more() -> None:
    """Its handler hears of that a moment later; until then uvloop raised, which ended the timer of
    all streams, or a generation with a traceback in the log.
    """
    async with (
        manual_app() as app,
        raw_request(app, "/generate_stream", {"inputs": "a"}) as (reader, _),
    ):
        await app.engine.submitted(1)
        await reader.readuntil(b"\r\n\r\n")
        (stream,) = app.service.streams._streams
        stream._transport.abort()
        for held in ([], [b"data: {}\n\n"]):
            await asyncio.sleep(0)
            stream._waiting += held
            stream.send(b"{}")
            stream.tick()
        await eventually(lambda: app.engine.generations[0].cancelled)


async def test_silence_is_filled_with_comments() -> None:
    async with (
        manual_app() as app,
        raw_request(app, "/generate_stream", {"inputs": "a"}) as (reader, _),
    ):
        await app.engine.submitted(1)
        await reader.readuntil(b"\r\n\r\n")
        for _ in range(sse.KEEP_ALIVE_SECONDS - 1):
            app.service.streams.tick()
        app.engine.generations[0].say(Said("a"))
        for _ in range(sse.KEEP_ALIVE_SECONDS):
            app.service.streams.tick()
        event = await reader.readexactly(int(await reader.readline(), 16) + 2)
        assert event.startswith(b"data: ")
        assert await reader.readexactly(8) == b"3\r\n:\n\n\r\n"


async def test_the_timer_ticks_and_stops() -> None:
    streams = sse.OpenStreams()
    streams.start()
    streams.start()
    streams.stop()
    streams.stop()
    await asyncio.sleep(0)
    assert len(streams) == 0
