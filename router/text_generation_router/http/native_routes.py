"""TGI's own dialect over HTTP: POST /, /generate, /generate_stream, /tokenize.

A stream's status is 200 once its body is decoded; whatever goes wrong later is its last event.
"""

from collections.abc import Sequence

from aiohttp import web

from text_generation_router.api import native, native_answers
from text_generation_router.api.errors import RequestError
from text_generation_router.api.generation import FinishedGeneration, generate_all
from text_generation_router.api.native_types import (
    CompatGenerateBody,
    GenerateBody,
    SimpleToken,
)
from text_generation_router.engine.request import EngineError
from text_generation_router.http.body import BodyDecoder
from text_generation_router.http.errors import ErrorAnswer, describe
from text_generation_router.http.json_response import json_response
from text_generation_router.http.recorded import recorded
from text_generation_router.http.service import Service
from text_generation_router.http.sse import EventStream
from text_generation_router.http.streamed_answer import StreamedAnswer, send_stream
from text_generation_router.observability.request_record import RequestRecord
from text_generation_router.prompt.tokenizer import TokenizerError


class NativeRoutes:
    """Handlers; they hold no state but their decoders."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._generate_decoder = BodyDecoder(GenerateBody)
        self._compat_decoder = BodyDecoder(CompatGenerateBody)

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Register the routes."""
        metrics = self._service.metrics
        router.add_post("/", recorded(metrics, self.compat))
        router.add_post("/generate", recorded(metrics, self.generate))
        router.add_post("/generate_stream", recorded(metrics, self.generate_stream))
        router.add_post("/tokenize", self.tokenize)

    async def compat(self, request: web.Request, record: RequestRecord) -> web.StreamResponse:
        """`stream` decides; the answer is an array of one and begins with the prompt by default."""
        body = await self._compat_decoder.read(request)
        if body.stream:
            return await self._stream(request, record, body, full_text_default=True)
        return await self._answer(record, body, as_array=True)

    async def generate(self, request: web.Request, record: RequestRecord) -> web.StreamResponse:
        """One answer."""
        body = await self._generate_decoder.read(request)
        return await self._answer(record, body, as_array=False)

    async def generate_stream(
        self, request: web.Request, record: RequestRecord
    ) -> web.StreamResponse:
        """One event for every token."""
        body = await self._generate_decoder.read(request)
        return await self._stream(request, record, body, full_text_default=False)

    async def tokenize(self, request: web.Request) -> web.Response:
        """The tokens of `inputs`, special tokens added."""
        body = await self._generate_decoder.read(request)
        spans = await self._service.tokenizer.spans(body.inputs, add_special_tokens=True)
        tokens = [SimpleToken(s.token_id, s.text, s.start, s.stop) for s in spans]
        return json_response(tokens)

    async def _answer(
        self, record: RequestRecord, body: GenerateBody, *, as_array: bool
    ) -> web.Response:
        service = self._service
        await service.gate.turn()
        wanted = await native.prepare(
            body,
            limits=service.limits,
            tokenizer=service.tokenizer,
            grammars=service.grammars,
            stream=False,
            full_text_default=as_array,
        )
        record.validated(wanted.requests)
        generations = await generate_all(
            service.engine,
            wanted.requests,
            keep_tokens=wanted.details or len(wanted.requests) > 1,
        )
        best = native_answers.best_candidate(generations)
        answer = native_answers.build_answer(wanted, generations, best, self._token_text)
        return self._response(record, wanted, generations[best], [answer] if as_array else answer)

    def _response(
        self,
        record: RequestRecord,
        wanted: native.NativeGeneration,
        best: FinishedGeneration,
        answer: object,
    ) -> web.Response:
        times = record.succeeded([best.end])
        return json_response(
            answer, headers=self._service.answer_headers([wanted.prompt.text], [best.end], times)
        )

    async def _stream(
        self,
        request: web.Request,
        record: RequestRecord,
        body: GenerateBody,
        *,
        full_text_default: bool,
    ) -> web.StreamResponse:
        service = self._service
        stream = EventStream(service.streams)
        headers = service.stream_headers([body.inputs])
        await service.gate.turn()
        try:
            wanted = await native.prepare(
                body,
                limits=service.limits,
                tokenizer=service.tokenizer,
                grammars=service.grammars,
                stream=True,
                full_text_default=full_text_default,
            )
            record.validated(wanted.requests)
            answer = StreamedAnswer(
                stream,
                record,
                encoders=[native_answers.NativeStreamEncoder(wanted)],
                error_events=_error_events,
            )
            return await answer.respond(request, service.engine, wanted.requests, headers)
        except (RequestError, TokenizerError, EngineError) as error:
            described = describe(error)
            record.failed(described.label, described.message)
            stream = EventStream(service.streams)
            stream.send(described.native_body())
            stream.finish()
            return await send_stream(request, stream, headers, record)

    def _token_text(self, token_id: int) -> str:
        return self._service.tokenizer.text([token_id])


def _error_events(answer: ErrorAnswer) -> Sequence[bytes]:
    return (answer.native_body(),)
