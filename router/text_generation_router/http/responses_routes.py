"""OpenAI's Responses dialect over HTTP: POST /v1/responses."""

from collections.abc import Sequence

from aiohttp import web

from text_generation_router.api import chat, responses
from text_generation_router.api.generation import generate_all
from text_generation_router.api.openai_answers import new_identity
from text_generation_router.api.responses_answers import ResponseWriter, build_answer
from text_generation_router.api.responses_types import ResponsesBody
from text_generation_router.http.body import BodyDecoder
from text_generation_router.http.chat_preparation import prepared_chat
from text_generation_router.http.errors import ErrorAnswer
from text_generation_router.http.json_response import json_response
from text_generation_router.http.recorded import recorded
from text_generation_router.http.service import Service
from text_generation_router.http.sse import NamedEventStream
from text_generation_router.http.streamed_answer import StreamedAnswer
from text_generation_router.observability.request_record import RequestRecord


class ResponsesRoutes:
    """Handlers; they hold no state but their decoder."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._decoder = BodyDecoder(ResponsesBody)

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Register the route."""
        router.add_post("/v1/responses", recorded(self._service.metrics, self.responses))

    async def responses(self, request: web.Request, record: RequestRecord) -> web.StreamResponse:
        """One answer, whole or streamed; nothing is stored."""
        body = await self._decoder.read(request)
        service = self._service
        wanted = await prepared_chat(
            service, record, responses.chat_body(body), lengths=responses.LENGTHS
        )
        identity = new_identity(
            "resp",
            model=service.model.name_for(body.model),
            system_fingerprint=service.model.system_fingerprint,
        )
        writer = ResponseWriter(body, wanted, identity, service.tokenizer.special_texts)
        if body.stream:
            return await self._stream(request, record, wanted, writer)
        (generation,) = await generate_all(service.engine, wanted.requests, keep_tokens=True)
        times = record.succeeded([generation.end])
        return json_response(
            build_answer(writer, generation),
            headers=service.answer_headers([wanted.prompt.text], [generation.end], times),
        )

    async def _stream(
        self,
        request: web.Request,
        record: RequestRecord,
        wanted: chat.ChatGeneration,
        writer: ResponseWriter,
    ) -> web.StreamResponse:
        service = self._service

        def error_events(answer: ErrorAnswer) -> Sequence[bytes]:
            return (writer.fail(answer.error_type, answer.message),)

        stream = NamedEventStream(service.streams)
        stream.send(writer.start())
        answer = StreamedAnswer(stream, record, encoders=[writer], error_events=error_events)
        headers = service.stream_headers([wanted.prompt.text])
        return await answer.respond(request, service.engine, wanted.requests, headers)
