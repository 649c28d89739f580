"""A client connection that streams one response at a time and stamps every event.

It exists because the load generator must be far cheaper than the server that it measures: one
protocol object per connection, no task per event, nothing decoded but the last event of a response.
"""

import asyncio
import json
import ssl
import time
from array import array
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import SplitResult, urlsplit

HEAD_LIMIT = 65536
EVENT_END = b"\n\n"
DONE = b"data: [DONE]"


class StreamError(Exception):
    """A request did not get a whole, successful response; the text says why."""


@dataclass(slots=True)
class ResponseRecord:
    """One finished response. Times are of `time.perf_counter`, in seconds."""

    status: int
    headers: dict[str, str]
    # Arrival of every `data:` event but `[DONE]`, in order.
    event_times: "array[float]"
    # The last event that reports counts (`usage` or `details`), else the last event; decoded. Of an
    # answer in one piece: all of it.
    last_event: dict[str, Any] | None
    # The body of a response that is not an event stream.
    body: bytes
    finished_at: float


class ResponseParser:
    """Incremental HTTP/1.1 response with a server-sent event body.

    Bodies: chunked, `content-length`, or until the connection closes. `feed` until `complete`.
    """

    def __init__(self) -> None:
        self.complete = False
        self.status = 0
        self.headers: dict[str, str] = {}
        self.event_times: array[float] = array("d")
        self.body = b""
        self._head = b""
        self._in_body = False
        self._is_chunked = False
        self._is_stream = False
        self._remaining: int | None = None  # of a content-length body; None until close
        self._chunk_rest = b""
        self._event_rest = b""
        self._last_event = b""
        self._counts_event = b""

    def feed(self, data: bytes, now: float) -> None:
        """Take what arrived at time `now`."""
        if not self._in_body:
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                if len(self._head) > HEAD_LIMIT:
                    raise StreamError("the response head is too long")
                return
            data = self._head[end + 4 :]
            self._parse_head(self._head[:end])
        body = self._dechunk(data) if self._is_chunked else self._plain(data)
        if self._is_stream:
            self._take_events(body, now)
        else:
            self.body += body

    def closed(self) -> None:
        """The server closed the connection; that ends a body without a length."""
        if self._in_body and not self._is_chunked and self._remaining is None:
            self.complete = True

    def record(self, now: float) -> ResponseRecord:
        """The finished response."""
        last = self._counts_event[5:] or self._last_event[5:]
        if self.headers.get("content-type", "").startswith("application/json"):
            last = self.body
        return ResponseRecord(
            status=self.status,
            headers=self.headers,
            event_times=self.event_times,
            last_event=json.loads(last) if last else None,
            body=self.body,
            finished_at=now,
        )

    def _parse_head(self, head: bytes) -> None:
        status_line, *lines = head.decode("latin-1").split("\r\n")
        self.status = int(status_line.split(" ", 2)[1])
        for line in lines:
            name, _, value = line.partition(":")
            self.headers[name.strip().lower()] = value.strip()
        self._in_body = True
        self._is_chunked = "chunked" in self.headers.get("transfer-encoding", "").lower()
        self._is_stream = self.headers.get("content-type", "").startswith("text/event-stream")
        if "content-length" in self.headers:
            self._remaining = int(self.headers["content-length"])
            self.complete = self._remaining == 0

    def _plain(self, data: bytes) -> bytes:
        if self._remaining is not None:
            self._remaining -= len(data)
            self.complete = self._remaining <= 0
        return data

    def _dechunk(self, data: bytes) -> bytes:
        buffer = self._chunk_rest + data if self._chunk_rest else data
        parts: list[bytes] = []
        position = 0
        while True:
            line_end = buffer.find(b"\r\n", position)
            if line_end < 0:
                break
            size = int(buffer[position:line_end].partition(b";")[0], 16)
            if size == 0:
                self.complete = buffer.find(b"\r\n\r\n", line_end) >= 0
                break
            start, end = line_end + 2, line_end + 2 + size
            if len(buffer) < end + 2:
                break
            parts.append(buffer[start:end])
            position = end + 2
        self._chunk_rest = buffer[position:]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _take_events(self, body: bytes, now: float) -> None:
        events = (self._event_rest + body).split(EVENT_END)
        self._event_rest = events.pop()
        for event in events:
            if event.startswith(b"data:") and event != DONE:
                self.event_times.append(now)
                self._last_event = event
                if b'"usage":{' in event or b'"details":{' in event:
                    self._counts_event = event


class StreamConnection(asyncio.Protocol):
    """One keep-alive connection. `request` sends and waits for the whole response."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._parser = ResponseParser()
        self._waiter: asyncio.Future[ResponseRecord] | None = None
        self.is_open = False

    async def request(self, message: bytes, time_limit: float) -> ResponseRecord:
        """Send one whole HTTP request.

        Raises StreamError when the connection ends early or `time_limit` (seconds) passes.
        """
        assert self._transport is not None and self._waiter is None
        self._parser = ResponseParser()
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        timer = loop.call_later(
            time_limit, self._fail, StreamError(f"no end within {time_limit:g} s")
        )
        self._transport.write(message)
        try:
            return await self._waiter
        finally:
            timer.cancel()
            self._waiter = None

    @property
    def event_times(self) -> "array[float]":
        """Of the response under way, so far; see `ResponseRecord`."""
        return self._parser.event_times

    def close(self) -> None:
        """Drop the connection; a response under way is abandoned."""
        self.is_open = False
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are not instances of asyncio's classes.
        self._transport = cast("asyncio.Transport", transport)
        self.is_open = True

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        try:
            self._parser.feed(data, now)
        except (StreamError, ValueError) as error:
            self._fail(StreamError(f"not understood: {error}"))
            return
        if self._parser.complete:
            self._finish(now)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        self._parser.closed()
        if self._parser.complete:
            self._finish(time.perf_counter())
        else:
            self._fail(StreamError(f"connection ended early ({exc or 'closed by the server'})"))

    def _finish(self, now: float) -> None:
        if self._parser.headers.get("connection", "").lower() == "close":
            self.close()
        if self._waiter is not None and not self._waiter.done():
            try:
                self._waiter.set_result(self._parser.record(now))
            except ValueError as error:
                self._waiter.set_exception(StreamError(f"last event is not JSON: {error}"))

    def _fail(self, error: StreamError) -> None:
        self.close()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(error)


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Where requests go: `http[s]://host[:port]` and a path."""

    url: str
    path: str
    api_key: str | None = None
    _parts: SplitResult = field(init=False, repr=False)

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"--url must be http(s)://host[:port], got {self.url!r}")
        object.__setattr__(self, "_parts", parts)

    async def connect(self) -> StreamConnection:
        """A new connection."""
        secure = self._parts.scheme == "https"
        _, connection = await asyncio.get_running_loop().create_connection(
            StreamConnection,
            self._parts.hostname or "",
            self._parts.port or (443 if secure else 80),
            ssl=ssl.create_default_context() if secure else None,
        )
        return connection

    def message(self, payload: dict[str, Any]) -> bytes:
        """The bytes of a POST request with this JSON body."""
        body = json.dumps(payload).encode()
        key = f"authorization: Bearer {self.api_key}\r\n" if self.api_key else ""
        head = (
            f"POST {self._parts.path.rstrip('/')}{self.path} HTTP/1.1\r\n"
            f"host: {self._parts.netloc}\r\n{key}"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body
