"""Wire types of TGI's own dialect: /, /generate, /generate_stream, /tokenize.

A field that may be null has None in its type; null is refused elsewhere, as TGI does. The order of
the fields in answers is TGI's.
"""

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

_UnsignedInt32 = Annotated[int, Meta(ge=0, le=2**32 - 1)]
_SignedInt32 = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]
_Unsigned = Annotated[int, Meta(ge=0)]


class GenerateParameters(Struct, kw_only=True):
    """`parameters`; absent `parameters` differ from empty ones in `do_sample` alone."""

    best_of: _Unsigned | None = None
    temperature: float | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    top_k: _SignedInt32 | None = None
    top_p: float | None = None
    typical_p: float | None = None
    do_sample: bool = False
    max_new_tokens: _UnsignedInt32 | None = None
    return_full_text: bool | None = None
    stop: list[str] = []
    truncate: _Unsigned | None = None
    watermark: bool = False
    details: bool = False
    decoder_input_details: bool = False
    seed: _Unsigned | None = None
    top_n_tokens: _UnsignedInt32 | None = None
    grammar: dict[str, Any] | None = None
    adapter_id: str | None = None
    # Not TGI's: generate max_new_tokens tokens whatever the model says. For measurements.
    ignore_eos: bool = False


class GenerateBody(Struct, kw_only=True):
    """POST /generate, /generate_stream and /tokenize."""

    inputs: str
    parameters: GenerateParameters = msgspec.field(
        default_factory=lambda: GenerateParameters(do_sample=True)
    )


class CompatGenerateBody(GenerateBody, kw_only=True):
    """POST /, which can do both."""

    stream: bool = False


class PrefillToken(Struct):
    """A token of the prompt; the first has no log-probability."""

    id: int
    text: str
    logprob: float | None


class Token(Struct):
    """A generated token, or a candidate for one."""

    id: int
    text: str
    logprob: float
    special: bool


class BestOfSequence(Struct, kw_only=True):
    """A candidate of `best_of` that did not win."""

    generated_text: str
    finish_reason: str
    generated_tokens: int
    seed: int | None
    prefill: list[PrefillToken]
    tokens: list[Token]
    top_tokens: list[list[Token]] | UnsetType = UNSET


class Details(Struct, kw_only=True):
    """`details` of an answer."""

    finish_reason: str
    generated_tokens: int
    seed: int | None
    prefill: list[PrefillToken]
    tokens: list[Token]
    best_of_sequences: list[BestOfSequence] | UnsetType = UNSET
    top_tokens: list[list[Token]] | UnsetType = UNSET


class GenerateAnswer(Struct):
    """The answer of /generate."""

    generated_text: str
    details: Details | UnsetType = UNSET


class StreamDetails(Struct):
    """`details` of a stream's last event."""

    finish_reason: str
    generated_tokens: int
    seed: int | None
    input_length: int


class StreamEvent(Struct):
    """One token of a stream."""

    index: int
    token: Token
    top_tokens: list[Token] | UnsetType
    generated_text: str | None
    details: StreamDetails | None


class SimpleToken(Struct):
    """A token of /tokenize and the bytes [start, stop) of the text that it stands for."""

    id: int
    text: str
    start: int
    stop: int


class ChatTokens(Struct):
    """The answer of /chat_tokenize."""

    tokenize_response: list[SimpleToken]
    templated_text: str
