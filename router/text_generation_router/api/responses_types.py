"""Wire types of POST /v1/responses, without a store: each request brings its whole conversation."""

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

from text_generation_router.api.chat_types import TokenLogprob
from text_generation_router.api.openai_types import MAX_LIST_LENGTH, ModelName, UnsignedInt32


class InputPart(Struct, kw_only=True):
    """A part of an item's content."""

    type: str
    text: str | None = None


class InputItem(Struct, kw_only=True):
    """A message, a call of a tool or its output; which fields count depends on `type`."""

    type: str = "message"
    # message
    role: str | None = None
    content: str | list[InputPart] | None = None
    # function_call and function_call_output
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    # custom_tool_call, whose output is as a function's
    input: str | None = None
    output: str | list[InputPart] | None = None

    # Would change the prompt, and are refused.
    async_: bool | None = field(default=None, name="async")
    namespace: str | None = None


class ResponsesTool(Struct, kw_only=True):
    """A function that the model may call, or a custom tool."""

    type: str
    name: str = ""
    description: str | None = None
    parameters: dict[str, Any] | UnsetType | None = None
    strict: bool | UnsetType | None = None
    # custom
    format: dict[str, Any] | UnsetType | None = UNSET

    # Would change the prompt, and are refused; so are callers other than the model itself.
    allowed_callers: list[str] | UnsetType | None = UNSET
    async_: bool | UnsetType | None = field(default=UNSET, name="async")
    defer_loading: bool | UnsetType | None = UNSET
    output_schema: dict[str, Any] | UnsetType | None = UNSET


class TextFormat(Struct, kw_only=True, omit_defaults=True):
    """`text`: the form of the answer."""

    format: dict[str, Any] | None = None
    verbosity: str | None = None


class Reasoning(Struct, kw_only=True):
    """`reasoning`; only the effort reaches the template. `context` can only be auto and `mode` only
    standard.
    """

    effort: str | None = None
    context: str | None = None
    mode: str | None = None


class ResponsesBody(Struct, kw_only=True):
    """The request. The last group would change the answer and is refused, not ignored."""

    input: str | Annotated[list[InputItem], Meta(max_length=MAX_LIST_LENGTH)]
    model: ModelName | None = None
    instructions: str | None = None
    max_output_tokens: UnsignedInt32 | None = None
    temperature: float | None = None
    top_p: float | None = None
    tools: list[ResponsesTool] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    text: TextFormat | None = None
    reasoning: Reasoning | None = None
    metadata: dict[str, str] | None = None
    stream: bool | None = None
    include: Annotated[list[str], Meta(max_length=MAX_LIST_LENGTH)] | None = None
    top_logprobs: UnsignedInt32 | None = None

    access_programs: Any = None
    background: bool | None = None
    background_options: Any = None
    context_management: Any = None
    conversation: Any = None
    image: Any = None
    max_tool_calls: int | None = None
    moderation: Any = None
    previous_response_id: str | None = None
    prompt: Any = None
    store: bool | None = None
    truncation: str | None = None


class OutputText(Struct, kw_only=True):
    """The text of a message."""

    type: str = "output_text"
    text: str = ""
    annotations: list[Any] = []
    logprobs: list[TokenLogprob] = []


class OutputMessage(Struct, kw_only=True):
    """What the model says."""

    type: str = "message"
    id: str
    status: str
    role: str = "assistant"
    content: list[OutputText] = []


class ReasoningText(Struct, kw_only=True):
    """The text of the model's reasoning."""

    type: str = "reasoning_text"
    text: str = ""


class OutputReasoning(Struct, kw_only=True):
    """What the model thinks before it answers."""

    type: str = "reasoning"
    id: str
    summary: list[Any] = []
    content: list[ReasoningText] = []
    status: str


class OutputCall(Struct, kw_only=True):
    """A call of a function; `arguments` is the text of a JSON object."""

    type: str = "function_call"
    id: str
    call_id: str
    name: str
    arguments: str = ""
    status: str


class OutputCustomCall(Struct, kw_only=True):
    """A call of a custom tool; `input` is any text."""

    type: str = "custom_tool_call"
    id: str
    call_id: str
    name: str
    input: str = ""


class IncompleteDetails(Struct):
    """Why an answer is incomplete."""

    reason: Literal["max_output_tokens"]


class ResponseFailure(Struct):
    """Why an answer failed."""

    code: Literal["rate_limit_exceeded", "server_error"]
    message: str


class InputTokensDetails(Struct):
    """How much of the prompt was found in the prefix cache; nothing is written for a client."""

    cached_tokens: int
    cache_write_tokens: int = 0


class OutputTokensDetails(Struct):
    """How much of the answer was reasoning."""

    reasoning_tokens: int


class ResponsesUsage(Struct, kw_only=True):
    """Tokens of prompt and answer."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class ResponsesAnswer(Struct, kw_only=True):
    """The whole answer, or what is known of it in a stream; much of it is the request's."""

    id: str
    object: str = "response"
    created_at: int
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    error: ResponseFailure | None = None
    incomplete_details: IncompleteDetails | None = None
    instructions: str | None
    max_output_tokens: int | None
    model: str
    output: list[Any]
    parallel_tool_calls: bool
    previous_response_id: None = None
    store: bool = False
    temperature: float
    text: TextFormat
    tool_choice: Any
    tools: list[ResponsesTool]
    top_logprobs: int
    top_p: float
    truncation: str = "disabled"
    usage: ResponsesUsage | None = None
    metadata: dict[str, str]


class ResponseEvent(Struct, kw_only=True):
    """An event of a stream; which fields there are depends on `type`."""

    type: str
    sequence_number: int = 0
    response: ResponsesAnswer | UnsetType = UNSET
    output_index: int | UnsetType = UNSET
    item: Any = UNSET
    item_id: str | UnsetType = UNSET
    content_index: int | UnsetType = UNSET
    part: OutputText | UnsetType = UNSET
    delta: str | UnsetType = UNSET
    text: str | UnsetType = UNSET
    name: str | UnsetType = UNSET
    arguments: str | UnsetType = UNSET
    input: str | UnsetType = UNSET
    logprobs: list[TokenLogprob] | UnsetType = UNSET
