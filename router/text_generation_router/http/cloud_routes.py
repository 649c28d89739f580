"""The same dialects under the routes of cloud platforms: SageMaker's /invocations, Vertex AI's
/vertex and KServe's /v2.
"""

from collections.abc import Sequence

import msgspec
from aiohttp import web

from text_generation_router.api import native, plain_texts
from text_generation_router.api.chat_types import ChatBody
from text_generation_router.api.cloud_types import (
    AnyRequest,
    InferAnswer,
    InferBody,
    InferOutput,
    Liveness,
    ModelMetadata,
    Predictions,
    ServerMetadata,
    VertexBody,
    VertexInputs,
)
from text_generation_router.api.errors import ValidationError
from text_generation_router.api.generation import generate_all
from text_generation_router.http.body import BodyDecoder
from text_generation_router.http.chat_routes import ChatRoutes
from text_generation_router.http.completion_routes import CompletionRoutes
from text_generation_router.http.errors import BodyError
from text_generation_router.http.json_response import json_response
from text_generation_router.http.native_routes import NativeRoutes
from text_generation_router.http.recorded import recorded
from text_generation_router.http.service import Service
from text_generation_router.observability.request_record import RequestRecord

_MODEL = "/v2/models/{model}/versions/{version}"


class CloudRoutes:
    """Handlers; they hold no state but their decoders."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._dialects = {
            "inputs": NativeRoutes(service).compat,
            "messages": ChatRoutes(service).completions,
            "prompt": CompletionRoutes(service).completions,
        }
        self._any_decoder = BodyDecoder(AnyRequest)
        self._vertex_decoder = BodyDecoder(VertexBody)
        self._inputs_decoder = BodyDecoder(VertexInputs)
        self._chat_decoder = BodyDecoder(ChatBody)
        self._infer_decoder = BodyDecoder(InferBody)

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Register the routes."""
        metrics = self._service.metrics
        router.add_post("/invocations", recorded(metrics, self.invocations))
        router.add_post("/vertex", recorded(metrics, self.vertex))
        router.add_get("/v2", self.server_metadata)
        router.add_get("/v2/health/live", self.live)
        router.add_get("/v2/health/ready", self.ready)
        router.add_get(_MODEL, self.model_metadata)
        router.add_get(f"{_MODEL}/ready", self.ready)
        router.add_post(f"{_MODEL}/infer", recorded(metrics, self.infer))

    async def invocations(self, request: web.Request, record: RequestRecord) -> web.StreamResponse:
        """What the dialect does whose field is there: `inputs`, `messages`, `prompt`."""
        shape = (await self._any_decoder.read(request)).shape
        if shape is None:
            raise BodyError(
                422,
                "Failed to deserialize the JSON body into the target type: "
                "one of `inputs`, `messages` and `prompt` is required",
            )
        return await self._dialects[shape](request, record)

    async def vertex(self, request: web.Request, record: RequestRecord) -> web.Response:
        """One prediction for each instance; the first fault fails all."""
        body = await self._vertex_decoder.read(request)
        if not body.instances:
            raise ValidationError("`instances` cannot be empty", param="instances")
        bodies = [self._instance(raw, i) for i, raw in enumerate(body.instances)]
        service = self._service
        wanted: list[plain_texts.Wanted] = []
        for instance in bodies:
            await service.gate.turn()
            wanted.append(
                await plain_texts.prepare_instance(
                    instance,
                    limits=service.limits,
                    tokenizer=service.tokenizer,
                    grammars=service.grammars,
                    templates=service.templates,
                )
            )
        return json_response(Predictions(await self._generate(wanted, record)))

    async def infer(self, request: web.Request, record: RequestRecord) -> web.Response:
        """One output for each input."""
        body = await self._infer_decoder.read(request)
        service = self._service
        wanted: list[plain_texts.Wanted] = []
        for text in plain_texts.infer_texts(body):
            await service.gate.turn()
            wanted.append(
                await native.prepare(
                    plain_texts.generate_body(text, body.parameters),
                    limits=service.limits,
                    tokenizer=service.tokenizer,
                    grammars=service.grammars,
                    stream=False,
                )
            )
        outputs = [text.encode() for text in await self._generate(wanted, record)]
        names = [entry.name for entry in (body.inputs if body.outputs is None else body.outputs)]
        return json_response(
            InferAnswer(
                id=body.id,
                outputs=[
                    InferOutput(name=name, shape=[1, len(data)], data=list(data))
                    for name, data in zip(names, outputs, strict=True)
                ],
            )
        )

    async def server_metadata(self, request: web.Request) -> web.Response:  # noqa: ARG002
        """What serves."""
        return json_response(ServerMetadata(version=self._service.model.version))

    async def model_metadata(self, request: web.Request) -> web.Response:
        """The model under the name that was asked for; there is only one."""
        asked = request.match_info
        return json_response(ModelMetadata(name=asked["model"], version=asked["version"]))

    async def live(self, request: web.Request) -> web.Response:  # noqa: ARG002
        """Whoever answers is alive."""
        return json_response(Liveness(live=True))

    async def ready(self, request: web.Request) -> web.Response:  # noqa: ARG002
        """200 while requests are taken and answered."""
        is_ready = await self._service.is_healthy()
        return json_response(Liveness(live=True, ready=is_ready), status=200 if is_ready else 503)

    def _instance(self, raw: msgspec.Raw, index: int) -> VertexInputs | ChatBody:
        try:
            shape = self._any_decoder.decode(raw).shape
            if shape == "inputs":
                return self._inputs_decoder.decode(raw)
            if shape == "messages":
                return self._chat_decoder.decode(raw)
        except BodyError as error:
            raise BodyError(error.status, f"instances[{index}]: {error}") from error
        raise BodyError(422, f"instances[{index}]: one of `inputs` and `messages` is required")

    async def _generate(
        self, wanted: Sequence[plain_texts.Wanted], record: RequestRecord
    ) -> list[str]:
        """Everything at once; the texts in the order of `wanted`."""
        requests = plain_texts.all_requests(wanted)
        record.validated(requests)
        generations = await generate_all(self._service.engine, requests, keep_tokens=True)
        record.succeeded([generation.end for generation in generations])
        return plain_texts.texts(wanted, generations)
