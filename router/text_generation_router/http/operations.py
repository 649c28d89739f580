"""Every route with its wire types: what the OpenAPI document is made of. A test holds this table
against the routes of the application.
"""

from dataclasses import dataclass
from typing import Any

from text_generation_router.api.chat_types import ChatAnswer, ChatBody, ChatChunk
from text_generation_router.api.cloud_types import (
    InferAnswer,
    InferBody,
    Liveness,
    ModelMetadata,
    Predictions,
    ServerMetadata,
    VertexBody,
)
from text_generation_router.api.completion_types import (
    CompletionAnswer,
    CompletionBody,
    CompletionChunk,
)
from text_generation_router.api.messages_types import (
    CountTokensBody,
    MessageEvent,
    MessagesAnswer,
    MessagesBody,
    TokenCount,
)
from text_generation_router.api.native_types import (
    ChatTokens,
    CompatGenerateBody,
    GenerateAnswer,
    GenerateBody,
    SimpleToken,
    StreamEvent,
)
from text_generation_router.api.responses_types import (
    ResponseEvent,
    ResponsesAnswer,
    ResponsesBody,
)
from text_generation_router.http.fact_routes import Info, ModelEntry, ModelList

# Open without a key: who watches a server has none.
HEALTH_PATHS = frozenset({"/", "/health", "/ping", "/v2/health/live", "/v2/health/ready"})


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One route; None for what it does not have, a tuple for a choice of types."""

    method: str
    path: str
    tag: str
    summary: str
    body: Any = None
    # The type of a JSON answer.
    answer: Any = None
    # The type of a stream's events.
    event: Any = None
    # The content type of an answer that is not JSON.
    content_type: str | None = None

    @property
    def is_health(self) -> bool:
        """Whether it answers without a key, and 503 while requests are not answered."""
        return self.method == "get" and self.path in HEALTH_PATHS


def _post(
    path: str, tag: str, summary: str, body: Any, answer: Any, event: Any = None
) -> Operation:
    return Operation(
        method="post", path=path, tag=tag, summary=summary, body=body, answer=answer, event=event
    )


def _get(
    path: str, tag: str, summary: str, answer: Any = None, text: str | None = None
) -> Operation:
    return Operation(
        method="get", path=path, tag=tag, summary=summary, answer=answer, content_type=text
    )


_TGI = "Text Generation Inference"
_OPENAI = "OpenAI"
_ANTHROPIC = "Anthropic"
_CLOUD = "Cloud platforms"
_SERVER = "Server"
_VERSION = "/v2/models/{model}/versions/{version}"

OPERATIONS = (
    _post("/v1/chat/completions", _OPENAI, "Chat", ChatBody, ChatAnswer, ChatChunk),
    _post(
        "/v1/completions",
        _OPENAI,
        "Completions of one or more prompts",
        CompletionBody,
        CompletionAnswer,
        CompletionChunk,
    ),
    _post(
        "/v1/responses",
        _OPENAI,
        "An answer to items; nothing is stored",
        ResponsesBody,
        ResponsesAnswer,
        ResponseEvent,
    ),
    _post(
        "/v1/messages",
        _ANTHROPIC,
        "Anthropic's Messages",
        MessagesBody,
        MessagesAnswer,
        MessageEvent,
    ),
    _post(
        "/v1/messages/count_tokens",
        _ANTHROPIC,
        "The length of a prompt",
        CountTokensBody,
        TokenCount,
    ),
    _post("/v1/embeddings", _OPENAI, "Refused: the model has none", dict[str, Any], None),
    _get("/v1/models", _OPENAI, "The one model, in a list", ModelList),
    _get("/v1/models/{model}", _OPENAI, "The model by its name", ModelEntry),
    _post("/generate", _TGI, "Generated text", GenerateBody, GenerateAnswer),
    _post("/generate_stream", _TGI, "One event for each token", GenerateBody, None, StreamEvent),
    _post(
        "/",
        _TGI,
        "As /generate in an array of one, or a stream if `stream` is true",
        CompatGenerateBody,
        list[GenerateAnswer],
        StreamEvent,
    ),
    _post("/tokenize", _TGI, "The tokens of a prompt", GenerateBody, list[SimpleToken]),
    _post("/chat_tokenize", _TGI, "The rendered prompt and its tokens", ChatBody, ChatTokens),
    _post(
        "/invocations",
        _CLOUD,
        "SageMaker: the dialect is told by the field `inputs`, `messages` or `prompt`",
        (CompatGenerateBody, ChatBody, CompletionBody),
        (list[GenerateAnswer], ChatAnswer, CompletionAnswer),
        (StreamEvent, ChatChunk, CompletionChunk),
    ),
    _post("/vertex", _CLOUD, "Vertex AI: a text for each instance", VertexBody, Predictions),
    _get("/v2", _CLOUD, "KServe: the server", ServerMetadata),
    _get("/v2/health/live", _CLOUD, "KServe: the server runs", Liveness),
    _get("/v2/health/ready", _CLOUD, "KServe: requests are answered", Liveness),
    _get(_VERSION, _CLOUD, "KServe: the model", ModelMetadata),
    _get(f"{_VERSION}/ready", _CLOUD, "KServe: the model answers", Liveness),
    _post(f"{_VERSION}/infer", _CLOUD, "KServe: a text for each input", InferBody, InferAnswer),
    _get("/", _SERVER, "As /health"),
    _get("/health", _SERVER, "200 while requests are taken and answered, 503 otherwise"),
    _get("/ping", _SERVER, "As /health"),
    _get("/info", _SERVER, "The model and the limits of a request", Info),
    _get("/metrics", _SERVER, "Prometheus text", text="text/plain"),
    _get("/docs", _SERVER, "This API, to read and to try", text="text/html"),
    _get("/docs/", _SERVER, "As /docs", text="text/html"),
    _get("/docs/swagger-ui.css", _SERVER, "What /docs is made of", text="text/css"),
    _get("/docs/swagger-ui-bundle.js", _SERVER, "What /docs is made of", text="text/javascript"),
    _get("/playground", _SERVER, "The model, to try", text="text/html"),
    _get("/api-doc/openapi.json", _SERVER, "This API as OpenAPI", text="application/json"),
)
