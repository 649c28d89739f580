"""One streamed response and the generations behind it.

Order of effects: the generations are submitted (a refusal is still an HTTP error), then the headers
are sent, then events as tokens come. Whatever ends the stream (all finished, one failed, the client
gone, too slow a reader), every generation is cancelled on the way out.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from aiohttp import web

from text_generation_router.api.generation import GenerationEngine
from text_generation_router.engine.request import (
    EngineError,
    Finished,
    GenerationHandle,
    GenerationRequest,
    TokenOutput,
)
from text_generation_router.http.errors import ErrorAnswer, SlowReaderError, describe
from text_generation_router.http.sse import EventStream
from text_generation_router.observability.request_record import RequestRecord

logger = logging.getLogger("text_generation_router.http")


class TokenEncoder(Protocol):
    """A dialect's way to show one token of one generation."""

    def token(self, output: TokenOutput, finished: Finished | None) -> bytes | None:
        """The event's JSON, or None if there is nothing to tell yet."""


def _no_events(ends: Sequence[Finished]) -> Sequence[bytes]:  # noqa: ARG001
    return ()


class StreamedAnswer:
    """Sends the tokens of all generations of a request as events of one stream.

    `error_events` gives the events that end a failed stream; `tail` those after the last token,
    where there are any.
    """

    __slots__ = ("_ends", "_error_events", "_is_open", "_record", "_stream", "_tail", "sinks")

    def __init__(
        self,
        stream: EventStream,
        record: RequestRecord,
        *,
        encoders: Sequence[TokenEncoder],
        error_events: Callable[[ErrorAnswer], Sequence[bytes]],
        tail: Callable[[Sequence[Finished]], Sequence[bytes]] = _no_events,
    ) -> None:
        self._stream = stream
        self._record = record
        self._tail = tail
        self._error_events = error_events
        self._ends: list[Finished | None] = [None] * len(encoders)
        self._is_open = True
        self.sinks = [_ChoiceSink(self, encoder, i) for i, encoder in enumerate(encoders)]

    def send(self, event: bytes) -> None:
        """An event of any of the generations."""
        if self._is_open:
            self._stream.send(event)

    def ended(self, index: int, finished: Finished) -> None:
        """One generation ended; the last one ends the stream."""
        if not self._is_open:
            return
        self._ends[index] = finished
        if None not in self._ends:
            ends = [end for end in self._ends if end is not None]
            self._record.succeeded(ends)
            for event in self._tail(ends):
                self._stream.send(event)
            self._close()

    def failed(self, error: Exception) -> None:
        """One generation failed, which ends the stream."""
        if not self._is_open:
            return
        answer = describe(error)
        self._record.failed(answer.label, answer.message)
        for event in self._error_events(answer):
            self._stream.send(event)
        self._close()

    async def respond(
        self,
        request: web.Request,
        engine: GenerationEngine,
        generations: Sequence[GenerationRequest],
        headers: Mapping[str, str],
    ) -> web.StreamResponse:
        """Run the generations and stream them; an engine that refuses raises before the headers."""
        handles: list[GenerationHandle] = []
        try:
            for generation, sink in zip(generations, self.sinks, strict=True):
                handles.append(engine.submit(generation, sink))
            return await send_stream(request, self._stream, headers, self._record)
        finally:
            for handle in handles:
                handle.cancel()

    def _close(self) -> None:
        self._is_open = False
        self._stream.finish()


class _ChoiceSink:
    """The `OutputSink` of one generation."""

    __slots__ = ("_answer", "_encoder", "_index")

    def __init__(self, answer: StreamedAnswer, encoder: TokenEncoder, index: int) -> None:
        self._answer = answer
        self._encoder = encoder
        self._index = index

    def token(self, output: TokenOutput, finished: Finished | None) -> None:
        try:
            event = self._encoder.token(output, finished)
        except Exception as error:
            # Our own mistake; the client is told all the same.
            logger.exception("a token could not be encoded")
            self._answer.failed(error)
            return
        if event is not None:
            self._answer.send(event)
        if finished is not None:
            self._answer.ended(self._index, finished)

    def failed(self, error: EngineError) -> None:
        self._answer.failed(error)


async def send_stream(
    request: web.Request, stream: EventStream, headers: Mapping[str, str], record: RequestRecord
) -> web.StreamResponse:
    """Open a stream, wait for its end and close it."""
    try:
        response = await stream.open(request, headers)
        try:
            await stream.finished()
        except SlowReaderError as error:
            answer = describe(error)
            record.failed(answer.label, answer.message)
        else:
            await stream.close()
        return response
    finally:
        stream.abandon()
