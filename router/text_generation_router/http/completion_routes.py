"""OpenAI's completions dialect over HTTP: POST /v1/completions."""

from functools import partial

from aiohttp import web

from text_generation_router.api import completion_answers
from text_generation_router.api.completion_types import CompletionBody
from text_generation_router.api.completions import CompletionGeneration, prepare
from text_generation_router.api.generation import generate_all
from text_generation_router.api.openai_answers import AnswerIdentity, new_identity
from text_generation_router.http.body import BodyDecoder
from text_generation_router.http.json_response import json_response
from text_generation_router.http.openai_events import openai_error_events, openai_tail
from text_generation_router.http.recorded import recorded
from text_generation_router.http.service import Service
from text_generation_router.http.sse import EventStream
from text_generation_router.http.streamed_answer import StreamedAnswer
from text_generation_router.observability.request_record import RequestRecord


class CompletionRoutes:
    """Handlers; they hold no state but their decoder."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._decoder = BodyDecoder(CompletionBody)

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Register the route."""
        router.add_post("/v1/completions", recorded(self._service.metrics, self.completions))

    async def completions(self, request: web.Request, record: RequestRecord) -> web.StreamResponse:
        """One completion for each prompt and choice, whole or streamed."""
        body = await self._decoder.read(request)
        service = self._service
        await service.gate.turn()
        wanted = await prepare(
            body,
            limits=service.limits,
            tokenizer=service.tokenizer,
            grammars=service.grammars,
        )
        record.validated(wanted.requests)
        identity = new_identity(
            "cmpl",
            model=service.model.model_id,
            system_fingerprint=service.model.system_fingerprint,
        )
        if body.stream:
            return await self._stream(request, record, body, wanted, identity)
        return await self._answer(record, wanted, identity)

    async def _answer(
        self,
        record: RequestRecord,
        wanted: CompletionGeneration,
        identity: AnswerIdentity,
    ) -> web.Response:
        service = self._service
        generations = await generate_all(service.engine, wanted.requests, keep_tokens=True)
        times = record.succeeded([generation.end for generation in generations])
        if wanted.drops_output:
            generations = [completion_answers.without_output(each) for each in generations]
        answer = completion_answers.build_answer(
            wanted, identity, generations, service.tokenizer.special_texts
        )
        ends = [generation.end for generation in generations]
        texts = [prompt.text for prompt in wanted.prompts]
        return json_response(
            answer,
            headers=service.answer_headers(
                texts, ends, times, choices_per_prompt=wanted.candidates_per_prompt
            ),
        )

    async def _stream(
        self,
        request: web.Request,
        record: RequestRecord,
        body: CompletionBody,
        wanted: CompletionGeneration,
        identity: AnswerIdentity,
    ) -> web.StreamResponse:
        service = self._service
        usage_chunk = partial(completion_answers.encode_usage_chunk, wanted, identity)
        answer = StreamedAnswer(
            EventStream(service.streams),
            record,
            encoders=[
                completion_answers.CompletionStreamEncoder(
                    wanted,
                    identity,
                    i,
                    service.tokenizer.special_texts,
                    usage_in_last=not body.wants_usage_chunk,
                )
                for i in range(len(wanted.requests))
            ],
            tail=openai_tail(usage_chunk if body.wants_usage_chunk else None),
            error_events=openai_error_events,
        )
        headers = service.stream_headers([prompt.text for prompt in wanted.prompts])
        return await answer.respond(request, service.engine, wanted.requests, headers)
