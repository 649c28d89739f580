"""Anthropic's Messages dialect over HTTP: POST /v1/messages and /v1/messages/count_tokens."""

from collections.abc import Sequence

from aiohttp import web

from text_generation_router.api import chat, messages, messages_answers
from text_generation_router.api.generation import generate_all
from text_generation_router.api.messages_types import CountTokensBody, MessagesBody, TokenCount
from text_generation_router.api.openai_answers import AnswerIdentity, new_identity
from text_generation_router.http.body import BodyDecoder
from text_generation_router.http.chat_preparation import prepared_chat
from text_generation_router.http.errors import ErrorAnswer
from text_generation_router.http.json_response import json_response
from text_generation_router.http.recorded import recorded
from text_generation_router.http.service import Service
from text_generation_router.http.sse import NamedEventStream
from text_generation_router.http.streamed_answer import StreamedAnswer
from text_generation_router.observability.request_record import RequestRecord


class MessagesRoutes:
    """Handlers; they hold no state but their decoders."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._decoder = BodyDecoder(MessagesBody)
        self._count_decoder = BodyDecoder(CountTokensBody)

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Register the routes."""
        router.add_post("/v1/messages", recorded(self._service.metrics, self.messages))
        router.add_post("/v1/messages/count_tokens", self.count_tokens)

    async def messages(self, request: web.Request, record: RequestRecord) -> web.StreamResponse:
        """One message, whole or streamed; the model's name is the client's own."""
        body = await self._decoder.read(request)
        service = self._service
        wanted = await prepared_chat(service, record, messages.chat_body(body))
        identity = new_identity(
            "msg", model=body.model, system_fingerprint=service.model.system_fingerprint
        )
        if body.stream:
            return await self._stream(request, record, wanted, identity)
        return await self._answer(record, wanted, identity)

    async def count_tokens(self, request: web.Request) -> web.Response:
        """The length of the prompt that a request would have."""
        body = messages.chat_body(await self._count_decoder.read(request))
        text = await chat.render(body, self._service.templates)
        token_ids = await self._service.tokenizer.token_ids(text, add_special_tokens=False)
        return json_response(TokenCount(len(token_ids)))

    async def _answer(
        self, record: RequestRecord, wanted: chat.ChatGeneration, identity: AnswerIdentity
    ) -> web.Response:
        service = self._service
        (generation,) = await generate_all(service.engine, wanted.requests, keep_tokens=True)
        answer = messages_answers.build_answer(
            wanted, identity, generation, service.tokenizer.special_texts
        )
        times = record.succeeded([generation.end])
        return json_response(
            answer,
            headers=service.answer_headers([wanted.prompt.text], [generation.end], times),
        )

    async def _stream(
        self,
        request: web.Request,
        record: RequestRecord,
        wanted: chat.ChatGeneration,
        identity: AnswerIdentity,
    ) -> web.StreamResponse:
        service = self._service
        stream = NamedEventStream(service.streams)
        stream.send(messages_answers.encode_start(wanted, identity))
        answer = StreamedAnswer(
            stream,
            record,
            encoders=[
                messages_answers.MessagesStreamEncoder(wanted, service.tokenizer.special_texts)
            ],
            error_events=_error_events,
        )
        headers = service.stream_headers([wanted.prompt.text])
        return await answer.respond(request, service.engine, wanted.requests, headers)


def _error_events(answer: ErrorAnswer) -> Sequence[bytes]:
    return (answer.anthropic_event(),)
