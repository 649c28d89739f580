"""Wire types of POST /v1/completions."""

from msgspec import UNSET, Struct, UnsetType, field

from text_generation_router.api.openai_types import SamplingFields, UnsignedInt32, Usage


class CompletionBody(SamplingFields, kw_only=True):
    """The request. `suffix` would change the answer and is refused, not ignored."""

    # A text, texts, token ids, or lists of token ids.
    prompt: str | list[str | UnsignedInt32 | list[UnsignedInt32]]
    echo: bool | None = None
    logprobs: UnsignedInt32 | None = None
    best_of: UnsignedInt32 | None = None

    suffix: str | None = None


class CompletionLogprobs(Struct):
    """`logprobs` of a choice, as parallel lists; `text_offset` counts characters. Nothing is said
    of the first token of an echoed prompt.
    """

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


class CompletionChoice(Struct):
    """One completion, or one token of it in a stream."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: str | None = None


class CompletionAnswer(Struct, kw_only=True):
    """The whole answer; the order of fields is TGI's."""

    object: str = "text_completion"
    id: str
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: Usage


class CompletionChunk(Struct, kw_only=True):
    """One event of a stream."""

    object: str = "text_completion"
    id: str
    created: int
    choices: list[CompletionChoice] = field(default_factory=list)
    model: str
    system_fingerprint: str
    usage: Usage | UnsetType | None = UNSET
