"""Wire types that OpenAI's two dialects share."""

from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType

from text_generation_router.api.foreign_fields import ForeignFields

UnsignedInt32 = Annotated[int, Meta(ge=0, le=2**32 - 1)]
# Echoed in every chunk of a stream.
ModelName = Annotated[str, Meta(max_length=256)]
# More than any client has; what is in a list is walked through on the event loop.
MAX_LIST_LENGTH = 4096
StopTokenIds = Annotated[list[UnsignedInt32], Meta(max_length=1024)]
LogitBias = Annotated[dict[str, float], Meta(max_length=1024)]


class StreamOptions(Struct, kw_only=True):
    """`stream_options`."""

    include_usage: bool | None = None


class SamplingFields(ForeignFields, kw_only=True):
    """How tokens are chosen: OpenAI's fields, then those that other servers have added to them.

    null is the same as absent everywhere.
    """

    model: ModelName | None = None
    temperature: float | None = None
    top_p: float | None = None
    n: UnsignedInt32 | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: UnsignedInt32 | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    # Token id, as a string, to what is added to its score.
    logit_bias: LogitBias | None = None

    top_k: int | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repetition_penalty: float | None = None
    ignore_eos: bool | None = None
    # Token ids that end the output, beside the model's own end tokens.
    stop_token_ids: StopTokenIds | None = None
    # Whether the text keeps the stop string that ended it.
    include_stop_str_in_output: bool | None = None

    # What the answer must follow: OpenAI's field, then vLLM's.
    response_format: Any = None
    structured_outputs: dict[str, Any] | None = None
    guided_json: Any = None
    guided_regex: Any = None
    guided_choice: Any = None
    guided_grammar: Any = None

    @property
    def wants_usage_chunk(self) -> bool:
        """Whether a stream ends with a chunk that has the usage and nothing else."""
        return bool(self.stream_options and self.stream_options.include_usage)


class PromptTokensDetails(Struct):
    """How much of the prompt was found in the prefix cache."""

    cached_tokens: int


class CompletionTokensDetails(Struct):
    """How much of the answer was reasoning, the marks around it among it."""

    reasoning_tokens: int


class Usage(Struct):
    """`usage`, summed over the choices; a prompt counts once."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    # Only of models that mark their reasoning.
    completion_tokens_details: CompletionTokensDetails | UnsetType = UNSET
