"""Server-sent events, written straight to the transport.

Tokens of all streams pass here on the event loop, so nothing is queued or awaited per token. A
reader that is too slow finds its events joined in its own buffer; over a bound it is given up.

Framing: `data: `, one line of JSON, an empty line; a comment keeps a silent connection open.
"""

import asyncio
from collections.abc import Mapping

from aiohttp import HttpVersion11, web

from text_generation_router.http.errors import SlowReaderError

KEEP_ALIVE_SECONDS = 15
# A client that has not read the end of its answer after this long is disconnected.
CLOSE_TIMEOUT_SECONDS = 60.0

# Unsent bytes in the transport above which events wait in the stream's own buffer.
_SOFT_LIMIT = 64 * 1024
# Bytes in that buffer above which the reader is given up when one more event comes. A single event
# may be larger: it says nothing about the reader.
_HARD_LIMIT = 2 * 1024 * 1024

_KEEP_ALIVE = b":\n\n"


class OpenStreams:
    """All streams of the server and their one timer. Owner of the set; streams add and remove
    themselves.
    """

    def __init__(self) -> None:
        self._streams: set[EventStream] = set()
        self._timer: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to keep silent streams alive."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().create_task(self._tick_forever())

    def stop(self) -> None:
        """Stop the timer; streams go on."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def add(self, stream: "EventStream") -> None:
        """Watch a stream."""
        self._streams.add(stream)

    def discard(self, stream: "EventStream") -> None:
        """Watch it no longer."""
        self._streams.discard(stream)

    def tick(self) -> None:
        """A second has passed."""
        for stream in list(self._streams):
            stream.tick()

    def __len__(self) -> int:
        return len(self._streams)

    async def _tick_forever(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            self.tick()


class EventStream:
    """One response of server-sent events. Those sent before `open` wait."""

    __slots__ = (
        "_chunked",
        "_end",
        "_is_too_slow",
        "_response",
        "_silent_seconds",
        "_streams",
        "_transport",
        "_waiting",
        "_waiting_size",
    )

    def __init__(self, streams: OpenStreams) -> None:
        self._streams = streams
        self._transport: asyncio.Transport | None = None
        self._response: web.StreamResponse | None = None
        self._chunked = False
        self._waiting: list[bytes] = []
        self._waiting_size = 0
        self._silent_seconds = 0
        self._is_too_slow = False
        self._end: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def open(self, request: web.Request, headers: Mapping[str, str]) -> web.StreamResponse:
        """Send the headers and everything that waited."""
        response = web.StreamResponse(
            headers={
                "content-type": "text/event-stream",
                "cache-control": "no-cache",
                "x-accel-buffering": "no",
                **headers,
            }
        )
        self._chunked = request.version >= HttpVersion11
        if self._chunked:
            response.enable_chunked_encoding()
        else:
            response.force_close()  # nothing else ends an answer without chunks or length
        await response.prepare(request)
        self._response = response
        self._transport = request.transport
        self._streams.add(self)
        self._flush()
        return response

    def send(self, data: bytes) -> None:
        """One event; `data` is one line."""
        self._send(b"data: %b\n\n" % data)

    def finish(self) -> None:
        """Nothing more will be sent."""
        if not self._end.done():
            self._end.set_result(None)

    async def finished(self) -> None:
        """Wait for `finish`. Raises `SlowReaderError` when the client is given up."""
        await self._end

    async def close(self) -> None:
        """Send what is left and end the response; a reader that does not take it is
        disconnected.
        """
        self._streams.discard(self)
        response, transport = self._response, self._transport
        if response is None or transport is None or transport.is_closing():
            return
        self._write_waiting(transport)
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_SECONDS):
                await response.write_eof()
        except TimeoutError:
            transport.abort()

    def abandon(self) -> None:
        """Forget the stream: its client is gone, or gave up. Harmless after `close`."""
        self._streams.discard(self)
        self._end.cancel()
        if self._transport is not None and self._is_too_slow:
            self._transport.abort()

    def tick(self) -> None:
        """A second has passed."""
        self._flush()
        self._silent_seconds += 1
        if self._silent_seconds >= KEEP_ALIVE_SECONDS and not self._waiting:
            self._silent_seconds = 0
            if self._transport is not None:
                self._write(self._transport, _KEEP_ALIVE)

    def _send(self, events: bytes) -> None:
        """Whole events, at once or behind those that wait."""
        self._silent_seconds = 0
        transport = self._transport
        if self._waiting or transport is None or transport.get_write_buffer_size() > _SOFT_LIMIT:
            self._hold(events)
        else:
            self._write(transport, events)

    def _hold(self, events: bytes) -> None:
        if self._waiting_size > _HARD_LIMIT:
            self._is_too_slow = True
            if not self._end.done():
                self._end.set_exception(SlowReaderError("the client reads too slowly"))
            return
        self._waiting.append(events)
        self._waiting_size += len(events)
        self._flush()

    def _flush(self) -> None:
        transport = self._transport
        if transport is not None and transport.get_write_buffer_size() <= _SOFT_LIMIT:
            self._write_waiting(transport)

    def _write_waiting(self, transport: asyncio.Transport) -> None:
        if self._waiting:
            events = b"".join(self._waiting)
            self._waiting.clear()
            self._waiting_size = 0
            self._write(transport, events)

    def _write(self, transport: asyncio.Transport, events: bytes) -> None:
        if transport.is_closing():
            return  # the client is gone, and the handler is about to hear of it
        if self._chunked:
            transport.write(b"%x\r\n%b\r\n" % (len(events), events))
        else:
            transport.write(events)


class NamedEventStream(EventStream):
    """A stream whose events have names; its senders frame them, several at once if they like."""

    __slots__ = ()

    def send(self, data: bytes) -> None:
        """Whole events: `event: `, `data: ` and an empty line, each."""
        self._send(data)
