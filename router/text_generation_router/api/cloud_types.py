"""Wire types of the routes of cloud platforms: /invocations, /vertex and /v2."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from text_generation_router.api.native_types import GenerateParameters

Shape = Literal["inputs", "messages", "prompt"]
# Each is a generation of its own.
_MAX_PROMPTS = 1024
_Byte = Annotated[int, Meta(ge=0, le=255)]


class AnyRequest(Struct):
    """The fields by which a request of one dialect is told from another's, in order of rank."""

    inputs: msgspec.Raw = msgspec.Raw()
    messages: msgspec.Raw = msgspec.Raw()
    prompt: msgspec.Raw = msgspec.Raw()

    @property
    def shape(self) -> Shape | None:
        """The first of the fields that is there and not null."""
        if _is_given(self.inputs):
            return "inputs"
        if _is_given(self.messages):
            return "messages"
        return "prompt" if _is_given(self.prompt) else None


def _is_given(value: msgspec.Raw) -> bool:
    return bytes(value) not in (b"", b"null")


class VertexBody(Struct):
    """POST /vertex; an instance is a `VertexInputs` or a chat request."""

    instances: Annotated[list[msgspec.Raw], Meta(max_length=_MAX_PROMPTS)]


class VertexInputs(Struct):
    """An instance for plain generation."""

    inputs: str
    parameters: GenerateParameters | None = None


class Predictions(Struct):
    """One text for each instance."""

    predictions: list[str]


class InferInput(Struct, kw_only=True):
    """A prompt: the bytes of its UTF-8 as numbers, or one text."""

    name: str
    shape: list[int] = []
    datatype: str = "BYTES"
    data: list[_Byte | str]


class InferOutputName(Struct):
    """How an output is to be called."""

    name: str


class InferBody(Struct, kw_only=True):
    """POST /v2/models/.../infer."""

    id: str | None = None
    inputs: Annotated[list[InferInput], Meta(max_length=_MAX_PROMPTS)]
    outputs: list[InferOutputName] | None = None
    parameters: GenerateParameters | None = None


class InferOutput(Struct, kw_only=True):
    """A generated text as the bytes of its UTF-8."""

    name: str
    shape: list[int]
    datatype: str = "BYTES"
    data: list[int]


class InferAnswer(Struct, kw_only=True):
    """The outputs, in the order of the inputs."""

    id: str | None
    outputs: list[InferOutput]


class ServerMetadata(Struct, kw_only=True):
    """GET /v2."""

    name: str = "text-generation-inference"
    version: str
    extensions: list[str] = msgspec.field(default_factory=lambda: ["health", "models", "metrics"])


class ModelMetadata(Struct, kw_only=True):
    """GET /v2/models/...; the name is the one that was asked for."""

    name: str
    version: str
    extensions: list[str] = msgspec.field(default_factory=lambda: ["infer", "ready"])


class Liveness(Struct, omit_defaults=True):
    """Health in KServe's words."""

    live: bool
    ready: bool | None = None
