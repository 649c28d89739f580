"""OpenAI's chat dialect over HTTP: POST /v1/chat/completions, and TGI's /chat_tokenize."""

from functools import partial

from aiohttp import web

from text_generation_router.api import chat, chat_answers
from text_generation_router.api.chat_types import ChatBody
from text_generation_router.api.generation import generate_all
from text_generation_router.api.native_types import ChatTokens, SimpleToken
from text_generation_router.api.openai_answers import AnswerIdentity, new_identity
from text_generation_router.http.body import BodyDecoder
from text_generation_router.http.chat_preparation import prepared_chat
from text_generation_router.http.json_response import json_response
from text_generation_router.http.openai_events import openai_error_events, openai_tail
from text_generation_router.http.recorded import recorded
from text_generation_router.http.service import Service
from text_generation_router.http.sse import EventStream
from text_generation_router.http.streamed_answer import StreamedAnswer
from text_generation_router.observability.request_record import RequestRecord


class ChatRoutes:
    """Handlers; they hold no state but their decoder."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._decoder = BodyDecoder(ChatBody)

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Register the routes."""
        metrics = self._service.metrics
        router.add_post("/v1/chat/completions", recorded(metrics, self.completions))
        router.add_post("/chat_tokenize", self.tokenize)

    async def completions(self, request: web.Request, record: RequestRecord) -> web.StreamResponse:
        """One message, whole or streamed. What is wrong with a request is an HTTP error, also for
        a stream: OpenAI's clients retry by status.
        """
        body = await self._decoder.read(request)
        service = self._service
        wanted = await prepared_chat(service, record, body)
        identity = new_identity(
            "chatcmpl",
            model=service.model.name_for(body.model),
            system_fingerprint=service.model.system_fingerprint,
        )
        if body.stream:
            return await self._stream(request, record, body, wanted, identity)
        return await self._answer(record, wanted, identity)

    async def tokenize(self, request: web.Request) -> web.Response:
        """The rendered prompt and its tokens."""
        body = await self._decoder.read(request)
        text = await chat.render(body, self._service.templates)
        spans = await self._service.tokenizer.spans(text, add_special_tokens=False)
        tokens = [SimpleToken(s.token_id, s.text, s.start, s.stop) for s in spans]
        return json_response(ChatTokens(tokens, text))

    async def _answer(
        self, record: RequestRecord, wanted: chat.ChatGeneration, identity: AnswerIdentity
    ) -> web.Response:
        service = self._service
        generations = await generate_all(service.engine, wanted.requests, keep_tokens=True)
        answer = chat_answers.build_answer(
            wanted, identity, generations, service.tokenizer.special_texts
        )
        ends = [generation.end for generation in generations]
        times = record.succeeded(ends)
        return json_response(
            answer,
            headers=service.answer_headers(
                [wanted.prompt.text], ends, times, choices_per_prompt=len(ends)
            ),
        )

    async def _stream(
        self,
        request: web.Request,
        record: RequestRecord,
        body: ChatBody,
        wanted: chat.ChatGeneration,
        identity: AnswerIdentity,
    ) -> web.StreamResponse:
        service = self._service
        special_texts = service.tokenizer.special_texts
        encoders = [
            chat_answers.ChatStreamEncoder(wanted, identity, i, special_texts)
            for i in range(len(wanted.requests))
        ]
        usage_chunk = partial(chat_answers.encode_usage_chunk, wanted, identity, encoders)
        answer = StreamedAnswer(
            EventStream(service.streams),
            record,
            encoders=encoders,
            tail=openai_tail(usage_chunk if body.wants_usage_chunk else None),
            error_events=openai_error_events,
        )
        headers = service.stream_headers([wanted.prompt.text])
        return await answer.respond(request, service.engine, wanted.requests, headers)
