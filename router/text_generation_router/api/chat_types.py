"""Wire types of POST /v1/chat/completions and /chat_tokenize."""

from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType, field

from text_generation_router.api.openai_types import (
    MAX_LIST_LENGTH,
    SamplingFields,
    UnsignedInt32,
    Usage,
)


class ContentPart(Struct, kw_only=True):
    """One part of a message's content; which field counts depends on `type`."""

    type: str
    text: str | None = None


class FunctionCall(Struct, kw_only=True):
    """A call in an assistant message: OpenAI's arguments are a string of JSON, TGI's an object."""

    name: str
    arguments: Any = None
    description: str | None = None


class CustomCall(Struct, kw_only=True):
    """A call of a custom tool, and the text that it is given."""

    name: str
    input: str


class MessageToolCall(Struct, kw_only=True):
    """An entry of a message's `tool_calls`; which field counts depends on `type`."""

    function: FunctionCall | None = None
    custom: CustomCall | None = None
    id: str | int | None = None
    type: str = "function"


class Message(Struct, kw_only=True):
    """One message of the conversation."""

    role: str
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_calls: list[MessageToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    # The newer name of the same.
    reasoning: str | None = None

    # Would change the prompt, and are refused.
    audio: Any = None
    function_call: Any = None
    refusal: str | None = None


class FunctionDefinition(Struct, kw_only=True):
    """A function that the model may call; TGI also knows `parameters` as `arguments`."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    arguments: dict[str, Any] | None = None
    strict: bool | None = None


class CustomDefinition(Struct, kw_only=True):
    """A tool whose input is a text, or follows a grammar."""

    name: str
    description: str | None = None
    format: dict[str, Any] | None = None


class Tool(Struct, kw_only=True):
    """An entry of `tools`; which field counts depends on `type`."""

    function: FunctionDefinition | None = None
    custom: CustomDefinition | None = None
    type: str = "function"


class ChatBody(SamplingFields, kw_only=True):
    """The request. The last group would change the answer and is refused, not ignored."""

    messages: Annotated[list[Message], Meta(max_length=MAX_LIST_LENGTH)]
    max_completion_tokens: UnsignedInt32 | None = None
    logprobs: bool | None = None
    top_logprobs: UnsignedInt32 | None = None
    tools: list[Tool] | None = None
    tool_choice: Any = None
    tool_prompt: str | None = None
    parallel_tool_calls: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    documents: list[dict[str, Any]] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    reasoning_effort: str | None = None

    audio: Any = None
    chat_template: Any = None
    function_call: Any = None
    functions: Any = None
    modalities: list[str] | None = None
    moderation: Any = None
    verbosity: str | None = None
    web_search_options: Any = None


class TopLogprob(Struct):
    """A candidate for a token."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(Struct):
    """A token of the answer."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob]


class ChoiceLogprobs(Struct):
    """`logprobs` of a choice."""

    content: list[TokenLogprob]


class CalledFunction(Struct):
    """A function and the text of its arguments, a JSON object."""

    name: str
    arguments: str


class AnswerToolCall(Struct):
    """A call in an answer: of a function or, by `type`, of a custom tool."""

    id: str
    type: str
    function: CalledFunction | UnsetType = UNSET
    custom: CustomCall | UnsetType = UNSET


class AnswerMessage(Struct):
    """The model's message; `content` is null if it only calls tools."""

    role: str
    content: str | None
    tool_calls: list[AnswerToolCall] | UnsetType = UNSET
    # Under both the names that clients know.
    reasoning_content: str | UnsetType = UNSET
    reasoning: str | UnsetType = UNSET


class ChatChoice(Struct):
    """One of `n` answers."""

    index: int
    message: AnswerMessage
    logprobs: ChoiceLogprobs | None
    finish_reason: str


class ChatAnswer(Struct, kw_only=True):
    """The whole answer; the order of fields is TGI's."""

    object: str = "chat.completion"
    id: str
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage


class DeltaFunction(Struct):
    """The name, or null in a piece that goes on, and more of the arguments' text."""

    name: str | None
    arguments: str


class DeltaCustom(Struct):
    """The name, or null in a piece that goes on, and more of the text."""

    name: str | None
    input: str


class DeltaToolCall(Struct):
    """A piece of a call; only the first has its id.

    The id of the others is empty: OpenAI's client joins ids like all texts, TGI's needs one.
    """

    index: int
    id: str
    type: str
    function: DeltaFunction | UnsetType = UNSET
    custom: DeltaCustom | UnsetType = UNSET


class Delta(Struct, kw_only=True):
    """What a chunk adds to the message; the role comes with a choice's first chunk."""

    role: str | UnsetType = UNSET
    content: str | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET
    reasoning: str | UnsetType = UNSET
    tool_calls: list[DeltaToolCall] | UnsetType = UNSET


class ChunkChoice(Struct):
    """The one choice that a chunk belongs to."""

    index: int
    delta: Delta
    logprobs: ChoiceLogprobs | None = None
    finish_reason: str | None = None


class ChatChunk(Struct, kw_only=True):
    """One event of a stream; without choices it carries the usage."""

    object: str = "chat.completion.chunk"
    id: str
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChunkChoice] = field(default_factory=list)
    usage: Usage | None = None
