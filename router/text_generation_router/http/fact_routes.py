"""What the server tells about itself: health, the model, limits, metrics."""

import msgspec
from aiohttp import web

from text_generation_router.api.errors import ValidationError
from text_generation_router.http.errors import UnknownModelError
from text_generation_router.http.json_response import json_response
from text_generation_router.http.service import Service
from text_generation_router.observability import exposition


class Info(msgspec.Struct, kw_only=True):
    """GET /info; all keys are always there, in TGI's order."""

    model_id: str
    model_sha: str | None
    model_pipeline_tag: str | None
    max_concurrent_requests: int
    max_best_of: int
    max_stop_sequences: int
    max_input_tokens: int
    max_total_tokens: int
    validation_workers: int
    max_client_batch_size: int
    router: str
    version: str
    sha: str | None
    docker_label: str | None


class ModelEntry(msgspec.Struct, kw_only=True):
    """An entry of GET /v1/models. max_model_len, tokens of the longest sequence, is vLLM's field,
    by which clients find out how much they may send.
    """

    id: str
    object: str = "model"
    created: int = 0
    owned_by: str
    max_model_len: int


class ModelList(msgspec.Struct, kw_only=True):
    """GET /v1/models."""

    object: str = "list"
    data: list[ModelEntry]


class FactRoutes:
    """Handlers without state."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Register the routes."""
        for path in ("/", "/health", "/ping"):
            router.add_get(path, self.health)
        router.add_get("/info", self.info)
        router.add_get("/v1/models", self.models)
        # A model's name may have slashes.
        router.add_get("/v1/models/{model:.+}", self.model)
        router.add_post("/v1/embeddings", self.embeddings)
        router.add_get("/metrics", self.metrics)

    async def health(self, request: web.Request) -> web.Response:  # noqa: ARG002
        """200 while requests are taken and answered."""
        if await self._service.is_healthy():
            return web.Response()
        return json_response({"error": "unhealthy", "error_type": "healthcheck"}, status=503)

    async def info(self, request: web.Request) -> web.Response:  # noqa: ARG002
        """The model and the limits of a request."""
        service = self._service
        limits = service.limits
        return json_response(
            Info(
                model_id=service.model.model_id,
                model_sha=service.model.revision,
                model_pipeline_tag=None,
                max_concurrent_requests=service.max_concurrent_requests,
                max_best_of=limits.max_best_of,
                max_stop_sequences=limits.max_stop_sequences,
                max_input_tokens=limits.max_input_tokens,
                max_total_tokens=limits.max_total_tokens,
                validation_workers=service.validation_workers,
                max_client_batch_size=limits.max_client_batch_size,
                router="text-generation-router",
                version=service.model.version,
                sha=None,
                docker_label=service.model.docker_label,
            )
        )

    async def models(self, request: web.Request) -> web.Response:  # noqa: ARG002
        """The one model."""
        return json_response(ModelList(data=[self._entry()]))

    async def model(self, request: web.Request) -> web.Response:
        """The one model by its name; `tgi` is its name for TGI's clients."""
        asked = request.match_info["model"]
        entry = self._entry()
        if asked not in (entry.id, "tgi"):
            raise UnknownModelError(f"the model {asked!r} is not served here; {entry.id!r} is")
        return json_response(entry)

    async def embeddings(self, request: web.Request) -> web.Response:  # noqa: ARG002
        """Refused with a reason; a path that is not found tells OpenAI's clients nothing."""
        model_id = self._service.model.model_id
        raise ValidationError(f"{model_id!r} generates text, it has no embeddings", param="model")

    def _entry(self) -> ModelEntry:
        model_id, limits = self._service.model.model_id, self._service.limits
        longest = limits.max_total_tokens
        return ModelEntry(id=model_id, owned_by=model_id, max_model_len=longest)

    async def metrics(self, request: web.Request) -> web.Response:
        """Prometheus text, or OpenMetrics for whoever accepts it."""
        text_format = exposition.negotiate(",".join(request.headers.getall("accept", [])))
        return web.Response(
            body=exposition.render(self._service.registry, text_format),
            headers={"content-type": text_format.content_type},
        )
