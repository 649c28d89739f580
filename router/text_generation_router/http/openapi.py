"""The OpenAPI 3.1 document, made from the wire types that parse requests and write answers."""

import re
from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from text_generation_router.api.chat_types import ChatBody
from text_generation_router.api.cloud_types import VertexInputs
from text_generation_router.http.examples import EXAMPLES
from text_generation_router.http.operations import OPERATIONS, Operation

_REFERENCES = "#/components/schemas/{name}"
_PATH_PARAMETER = re.compile(r"{(\w+)}")
# Statuses that every generating route may answer with.
_ERRORS = {
    "400": "The body is not JSON",
    "401": "The API key is missing or wrong",
    "413": "The body is too long",
    "415": "The content type is not JSON",
    "422": "A field is missing, of another type, out of its bounds or not supported",
    "424": "A shard failed while computing",
    "429": "Too much is waiting; `Retry-After` says how long",
    "503": "The server is draining",
}
# Of these, what is wrong with a body as such is told as plain text by TGI's own routes.
_BODY_ERRORS = ("400", "413", "415", "422")


class NativeError(msgspec.Struct):
    """An error outside /v1."""

    error: str
    error_type: str


class OpenAIErrorDetail(msgspec.Struct):
    """`error` of an error under /v1."""

    message: str
    type: str
    param: str | None
    code: str


class OpenAIError(msgspec.Struct):
    """An error under /v1."""

    error: OpenAIErrorDetail
    error_type: str


class AnthropicErrorDetail(msgspec.Struct):
    """`error` of an error under /v1/messages."""

    type: str
    message: str


class AnthropicError(msgspec.Struct):
    """An error under /v1/messages."""

    error: AnthropicErrorDetail
    type: Literal["error"] = "error"


class _Schemas:
    """The schema of every wire type, by references into `components`."""

    def __init__(self, types: Sequence[Any]) -> None:
        schemas, self.components = msgspec.json.schema_components(types, ref_template=_REFERENCES)
        self._by_type = {repr(kind): schema for kind, schema in zip(types, schemas, strict=True)}

    def of(self, kind: Any) -> dict[str, Any]:
        """A type's schema; of a tuple, any of them."""
        if isinstance(kind, tuple):
            return {"anyOf": [self.of(one) for one in kind]}
        return self._by_type[repr(kind)]


def build_document(version: str) -> dict[str, Any]:
    """The whole document; `version` is the server's."""
    schemas = _Schemas(_all_types(OPERATIONS))
    # An instance is decoded only when its shape is known, which the type itself cannot say.
    instances = schemas.components["VertexBody"]["properties"]["instances"]
    instances["items"] = schemas.of((VertexInputs, ChatBody))
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Text Generation Inference",
            "version": version,
            "description": "Text generation for open models.",
            "license": {"name": "Apache 2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": schemas.components,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"bearer": []}],
    }


def _all_types(operations: Sequence[Operation]) -> list[Any]:
    found: list[Any] = [NativeError, OpenAIError, AnthropicError, VertexInputs]
    for operation in operations:
        for kind in (operation.body, operation.answer, operation.event):
            if kind is not None:
                found += kind if isinstance(kind, tuple) else [kind]
    return list({repr(kind): kind for kind in found}.values())


def _operation(operation: Operation, schemas: _Schemas) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "tags": [operation.tag],
        "summary": operation.summary,
        "operationId": _identifier(operation),
        "responses": _responses(operation, schemas),
    }
    if operation.is_health:
        shown["security"] = []
    names = _PATH_PARAMETER.findall(operation.path)
    if names:
        shown["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in names
        ]
    if operation.body is not None:
        content = {"schema": schemas.of(operation.body)}
        if operation.path in EXAMPLES:
            content["example"] = EXAMPLES[operation.path]
        shown["requestBody"] = {"required": True, "content": {"application/json": content}}
    return shown


def _responses(operation: Operation, schemas: _Schemas) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if operation.answer is not None:
        content["application/json"] = {"schema": schemas.of(operation.answer)}
    if operation.event is not None:
        # What goes wrong after the status was sent is an event too.
        events = (operation.event, _error_kind(operation.path))
        content["text/event-stream"] = {"schema": schemas.of(events)}
    if operation.content_type is not None:
        content[operation.content_type] = {"schema": {}}
    success: dict[str, Any] = {"description": "The answer"}
    if content:
        success["content"] = content
    responses = {"200": success}
    for status, description in _errors(operation).items():
        content = {"application/json": {"schema": schemas.of(_error_kind(operation.path))}}
        if status in _BODY_ERRORS and not operation.path.startswith("/v1/"):
            content["text/plain"] = {"schema": {"type": "string"}}
        responses[status] = {"description": description, "content": content}
    return responses


def _errors(operation: Operation) -> dict[str, str]:
    """Statuses and what they mean, besides 200."""
    if operation.body is not None:
        return _ERRORS
    errors = {} if operation.is_health else {"401": _ERRORS["401"]}
    if operation.is_health or operation.path.endswith("/ready"):
        errors["503"] = "Requests are not answered now"
    if operation.path == "/v1/models/{model}":
        errors["404"] = "No such model"
    return errors


def _error_kind(path: str) -> type[msgspec.Struct]:
    if path.startswith("/v1/messages"):
        return AnthropicError
    return OpenAIError if path.startswith("/v1/") else NativeError


def _identifier(operation: Operation) -> str:
    words = re.sub(r"\W+", "_", re.sub("[{}]", "", operation.path)).lstrip("_")
    return f"{operation.method}_{words}" if words else operation.method
