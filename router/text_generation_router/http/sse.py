"""Server-sent events, written straight to the transport.

Tokens of all streams pass here on the event loop, so nothing is awaited per token. An event waits
in its stream until the loop turns; then the streams are written in the order in which they had
something to say, a few in each round. Most of what a token costs is the system call that sends it:
where the server falls behind, the events of two steps leave in one call, and between rounds the
next step's result is taken. The events of a reader that is too slow wait as well; over a bound it
is given up.

Framing: `data: `, one line of JSON, an empty line; a comment keeps a silent connection open.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping

from aiohttp import HttpVersion11, web

from text_generation_router.http.errors import SlowReaderError

KEEP_ALIVE_SECONDS = 15
# A client that has not read the end of its answer after this long is disconnected.
CLOSE_TIMEOUT_SECONDS = 60.0

# About a quarter of a millisecond of system calls.
_STREAMS_PER_ROUND = 32
# Unsent bytes in the transport above which events wait in the stream's own buffer.
_SOFT_LIMIT = 64 * 1024
# Unsent bytes altogether at which the reader is given up.
_HARD_LIMIT = 2 * 1024 * 1024

_KEEP_ALIVE = b":\n\n"


class OpenStreams:
    """All streams of the server, their one timer, and the queue of those that are to be written.
    Owner of both; streams add and remove themselves.
    """

    def __init__(self) -> None:
        self._streams: set[EventStream] = set()
        self._timer: asyncio.Task[None] | None = None
        self._unwritten: deque[EventStream] = deque()

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

    def write_soon(self, stream: "EventStream") -> None:
        """Flush a stream when its turn comes."""
        if not self._unwritten:
            asyncio.get_running_loop().call_soon(self._write_some)
        self._unwritten.append(stream)

    def tick(self) -> None:
        """A second has passed."""
        for stream in list(self._streams):
            stream.tick()

    def _write_some(self) -> None:
        """One round. A stream that fails harms none of those behind it."""
        unwritten = self._unwritten
        try:
            for _ in range(min(len(unwritten), _STREAMS_PER_ROUND)):
                unwritten.popleft().flush()
        finally:
            if unwritten:
                asyncio.get_running_loop().call_soon(self._write_some)

    def __len__(self) -> int:
        return len(self._streams)

    async def _tick_forever(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            self.tick()


class EventStream:
    """One response of server-sent events. Those sent before `open` wait."""

    __slots__ = (
        "_end",
        "_framed",
        "_is_queued",
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
        # An event as it is written.
        self._framed: Callable[[bytes], bytes] = bytes
        # Whole events that are not written yet, and whether the stream is queued to write them.
        self._waiting: list[bytes] = []
        self._waiting_size = 0
        self._is_queued = False
        self._silent_seconds = 0
        self._is_too_slow = False
        # What was waiting at the end, or why the stream cannot go on.
        self._end: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

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
        if request.version >= HttpVersion11:
            response.enable_chunked_encoding()
            self._framed = _chunk
        await response.prepare(request)
        self._response = response
        self._transport = request.transport
        self._streams.add(self)
        self.flush()
        return response

    def send(self, data: bytes) -> None:
        """One event; `data` is one line."""
        self._send(b"data: %b\n\n" % data)

    def finish(self) -> None:
        """Nothing more will be sent; what waits is written together with the end."""
        if not self._end.done():
            self._end.set_result(b"".join(self._waiting))
            self._waiting.clear()

    async def finished(self) -> None:
        """Wait for `finish`. Raises `SlowReaderError` when the client is given up."""
        await self._end

    async def close(self) -> None:
        """After `finished`: send what is left and end the response; a reader that does not take it
        is disconnected.
        """
        self._streams.discard(self)
        response, transport = self._response, self._transport
        if response is None or transport is None or transport.is_closing():
            return
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_SECONDS):
                await response.write_eof(self._end.result())
        except TimeoutError:
            transport.abort()

    def abandon(self) -> None:
        """Forget the stream: its client is gone, or gave up. Harmless after `close`."""
        self._streams.discard(self)
        self._end.cancel()
        if self._transport is not None and self._is_too_slow:
            self._transport.abort()

    def flush(self) -> None:
        """Write what waits, if the reader keeps up."""
        self._is_queued = False
        transport, waiting = self._transport, self._waiting
        if not waiting:
            return
        if transport is not None and transport.get_write_buffer_size() <= _SOFT_LIMIT:
            self._silent_seconds = 0
            if not transport.is_closing():  # then its handler is about to hear of it
                transport.write(b"".join(map(self._framed, waiting)))
            waiting.clear()
            self._waiting_size = 0
        elif self._waiting_size > _HARD_LIMIT and not self._end.done():
            self._is_too_slow = True
            self._end.set_exception(SlowReaderError("the client reads too slowly"))

    def tick(self) -> None:
        """A second has passed."""
        self.flush()
        self._silent_seconds += 1
        if self._silent_seconds >= KEEP_ALIVE_SECONDS and not self._waiting:
            self._send(_KEEP_ALIVE)

    def _send(self, events: bytes) -> None:
        """Whole events, behind those that wait."""
        self._waiting.append(events)
        self._waiting_size += len(events)
        if not self._is_queued:
            self._is_queued = True
            self._streams.write_soon(self)


class NamedEventStream(EventStream):
    """A stream whose events have names; its senders frame them, several at once if they like."""

    __slots__ = ()

    def send(self, data: bytes) -> None:
        """Whole events: `event: `, `data: ` and an empty line, each."""
        self._send(data)


def _chunk(event: bytes) -> bytes:
    """HTTP's framing of a part of a body."""
    return b"%x\r\n%b\r\n" % (len(event), event)
