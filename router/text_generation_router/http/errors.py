"""The one table from errors to what a client sees.

Three trees end here: the dialects' (`api/errors.py`), the engine's (`engine/request.py`) and this
package's own `HttpError`s:

HttpError
  ├─ BodyError            the body is no request: 400, 408, 413, 415, 422
  ├─ UnauthorizedError    401
  ├─ RouteError           404
  ├─ MethodError          405
  ├─ UnknownModelError    404
  └─ SlowReaderError      a stream's reader fell too far behind

Three shapes of JSON body: native routes have TGI's `{"error": text, "error_type": word}`; routes
under /v1 have OpenAI's `{"error": {"message", "type", "param", "code"}}` and beside it the same
`error_type`, by which TGI's clients tell errors apart; /v1/messages has Anthropic's
`{"type": "error", "error": {"type", "message"}}`. Body errors of native routes are TGI's plain
text.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
from aiohttp import web

from text_generation_router.api.errors import (
    BatchSizeError,
    ContextLengthError,
    RequestError,
    SuffixError,
    TemplateError,
    ToolError,
    ValidationError,
)
from text_generation_router.engine.request import (
    EngineError,
    GenerationError,
    OverloadedError,
    ShuttingDownError,
)
from text_generation_router.prompt.tokenizer import TokenizerError


class HttpError(Exception):
    """A request that never reaches a dialect."""

    status = 500
    headers: Mapping[str, str] = {}


class BodyError(HttpError):
    """The body cannot be read as the route's request; `param` is the field that is wrong, if one
    is.
    """

    def __init__(self, status: int, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.param = param


class UnauthorizedError(HttpError):
    """The API key is missing or wrong."""

    status = 401
    headers = {"www-authenticate": "Bearer"}  # noqa: RUF012


class RouteError(HttpError):
    """No such path."""

    status = 404

    def __init__(self) -> None:
        super().__init__("not found")


class MethodError(HttpError):
    """The path is there, but not with this method; `allowed` are."""

    status = 405

    def __init__(self, allowed: Iterable[str]) -> None:
        super().__init__("method not allowed")
        self.headers = {"allow": ",".join(sorted(allowed))}


class UnknownModelError(HttpError):
    """A model of this name is not served here."""

    status = 404


class SlowReaderError(HttpError):
    """A stream's reader fell too far behind; nobody is left to tell."""


@dataclass(frozen=True, kw_only=True)
class ErrorRow:
    """One line of the table."""

    status: int
    # TGI's word for the kind of error, which its clients match.
    error_type: str
    # Label `err` of tgi_request_failure.
    label: str
    # Put before the error's own text.
    prefix: str = ""
    # OpenAI's `code`, where it is not the error_type.
    code: str | None = None


_TABLE: Mapping[type[Exception], ErrorRow] = {
    ValidationError: ErrorRow(
        status=422,
        error_type="validation",
        label="validation",
        prefix="Input validation error: ",
    ),
    ContextLengthError: ErrorRow(
        status=422,
        error_type="validation",
        label="validation",
        prefix="Input validation error: ",
        code="context_length_exceeded",
    ),
    TokenizerError: ErrorRow(
        status=422,
        error_type="validation",
        label="validation",
        prefix="Input validation error: ",
    ),
    TemplateError: ErrorRow(
        status=422, error_type="template_error", label="template", prefix="Template error: "
    ),
    ToolError: ErrorRow(status=422, error_type="tool_error", label="tool", prefix="Tool error: "),
    BatchSizeError: ErrorRow(status=422, error_type="batch size exceeded", label="validation"),
    SuffixError: ErrorRow(status=422, error_type="suffix not supported", label="validation"),
    OverloadedError: ErrorRow(status=429, error_type="overloaded", label="overloaded"),
    ShuttingDownError: ErrorRow(status=503, error_type="shutting_down", label="shutting_down"),
    GenerationError: ErrorRow(
        status=424,
        error_type="generation",
        label="generation",
        prefix="Request failed during generation: ",
    ),
    EngineError: ErrorRow(status=500, error_type="incomplete_generation", label="incomplete"),
    UnauthorizedError: ErrorRow(status=401, error_type="unauthorized", label="validation"),
    BodyError: ErrorRow(status=400, error_type="invalid_request", label="validation"),
    RouteError: ErrorRow(status=404, error_type="not_found", label="validation"),
    # OpenAI's word.
    MethodError: ErrorRow(status=405, error_type="method_not_supported", label="validation"),
    UnknownModelError: ErrorRow(status=404, error_type="model_not_found", label="validation"),
    SlowReaderError: ErrorRow(status=500, error_type="slow_reader", label="dropped"),
    Exception: ErrorRow(status=500, error_type="internal", label="internal"),
}

# OpenAI's word for an error, by status.
# 424 is a shard that failed: the request is not to blame.
_OPENAI_TYPES = {401: "authentication_error", 424: "server_error", 429: "rate_limit_error"}

# Anthropic's.
_ANTHROPIC_TYPES = {
    401: "authentication_error",
    404: "not_found_error",
    413: "request_too_large",
    424: "api_error",
    429: "rate_limit_error",
    503: "overloaded_error",
}
_ANTHROPIC_PATH = "/v1/messages"


@dataclass(frozen=True, kw_only=True)
class ErrorAnswer:
    """An error as it is told to a client."""

    status: int
    error_type: str
    label: str
    message: str
    # OpenAI's word for the same, mostly the error_type.
    code: str
    param: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def native_body(self) -> bytes:
        """TGI's shape."""
        return msgspec.json.encode({"error": self.message, "error_type": self.error_type})

    def openai_body(self) -> bytes:
        """OpenAI's shape, with TGI's word beside it."""
        return msgspec.json.encode({"error": self._openai_error(), "error_type": self.error_type})

    def openai_event(self) -> bytes:
        """OpenAI's shape as an event in a stream; `http_status_code` is TGI's."""
        error = {**self._openai_error(), "http_status_code": self.status}
        return msgspec.json.encode({"error": error, "error_type": self.error_type})

    def anthropic_body(self) -> bytes:
        """Anthropic's shape, whole answers and events alike."""
        default = "api_error" if self.status >= 500 else "invalid_request_error"
        kind = _ANTHROPIC_TYPES.get(self.status, default)
        return msgspec.json.encode(
            {"type": "error", "error": {"type": kind, "message": self.message}}
        )

    def anthropic_event(self) -> bytes:
        """The last event of a stream that failed."""
        return b"event: error\ndata: %b\n\n" % self.anthropic_body()

    def _openai_error(self) -> dict[str, Any]:
        default = "server_error" if self.status >= 500 else "invalid_request_error"
        return {
            "message": self.message,
            "type": _OPENAI_TYPES.get(self.status, default),
            "param": self.param,
            "code": self.code,
        }


def is_unexpected(error: Exception) -> bool:
    """Whether an error is in no tree, which is our own mistake."""
    return _kind(error) is Exception


def describe(error: Exception) -> ErrorAnswer:
    """Look an error up; what is in no tree is an internal error that tells no details."""
    kind = _kind(error)
    row = _TABLE[kind]
    headers: dict[str, str] = {}
    status = row.status
    error_type = row.error_type
    if isinstance(error, OverloadedError):
        headers["retry-after"] = str(error.retry_after)
    if isinstance(error, HttpError):
        headers.update(error.headers)
        status = error.status
    if isinstance(error, BodyError) and status == 422:
        error_type = "validation"
    return ErrorAnswer(
        status=status,
        error_type=error_type,
        label=row.label,
        message="internal error" if kind is Exception else f"{row.prefix}{error}",
        code=row.code or error_type,
        param=error.param if isinstance(error, RequestError | BodyError) else None,
        headers=headers,
    )


def _kind(error: Exception) -> type[Exception]:
    return next(kind for kind in type(error).__mro__ if kind in _TABLE)


def error_response(error: Exception, path: str) -> web.Response:
    """The answer to a request that failed before anything was sent."""
    answer = describe(error)
    if path.startswith(_ANTHROPIC_PATH):
        # Anthropic's clients know 400 for what is wrong with a request.
        answer = replace(answer, status=400 if answer.status == 422 else answer.status)
        body, content_type = answer.anthropic_body(), "application/json"
    elif path.startswith("/v1/"):
        body, content_type = answer.openai_body(), "application/json"
    elif isinstance(error, BodyError):
        body, content_type = str(error).encode(), "text/plain"
    elif isinstance(error, RouteError | MethodError):
        return web.Response(status=answer.status, headers=answer.headers)
    else:
        body, content_type = answer.native_body(), "application/json"
    response = web.Response(
        status=answer.status, headers=answer.headers, body=body, content_type=content_type
    )
    if content_type == "text/plain":
        response.charset = "utf-8"
    return response
