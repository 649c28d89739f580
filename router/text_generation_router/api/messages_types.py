"""Wire types of Anthropic's Messages dialect: POST /v1/messages and /v1/messages/count_tokens."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from text_generation_router.api.openai_types import MAX_LIST_LENGTH, ModelName, UnsignedInt32


class InputBlock(Struct, kw_only=True):
    """A part of a message; which fields count depends on `type`."""

    type: str
    # text
    text: str | None = None
    # thinking
    thinking: str | None = None
    # tool_use
    id: str | None = None
    name: str | None = None
    input: Any = None
    # tool_result
    tool_use_id: str | None = None
    content: "str | list[InputBlock] | None" = None
    is_error: bool | None = None

    # Would change the prompt, and are refused.
    citations: list[Any] | None = None
    toolset_name: str | None = None


class InputMessage(Struct, kw_only=True):
    """A turn of the conversation."""

    role: Literal["user", "assistant"]
    content: str | list[InputBlock]


class MessagesTool(Struct, kw_only=True):
    """A function that the model may call; `input_schema` is a JSON Schema."""

    name: str
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    strict: bool | None = None
    type: str | None = None

    # Would change the prompt, and are refused; so are callers other than the model itself.
    allowed_callers: list[str] | None = None
    defer_loading: bool | None = None
    input_examples: list[Any] | None = None


class MessagesToolChoice(Struct, kw_only=True):
    """Whether and which tool is to be used."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(Struct, kw_only=True):
    """Whether the model is to think first; templates that know no such switch ignore it."""

    type: Literal["enabled", "adaptive", "disabled"]
    display: Literal["summarized", "omitted"] | None = None


class OutputConfig(Struct, kw_only=True):
    """The form of the answer, as a JSON Schema, and how much the model is to think."""

    format: dict[str, Any] | None = None
    effort: str | None = None


class CountTokensBody(Struct, kw_only=True):
    """What makes a prompt. The last group would change the answer and is refused."""

    model: ModelName
    messages: Annotated[list[InputMessage], Meta(max_length=MAX_LIST_LENGTH)]
    system: str | list[InputBlock] | None = None
    tools: list[MessagesTool] | None = None
    tool_choice: MessagesToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None

    container: Any = None
    diagnostics: Any = None
    inference_geo: str | None = None
    mcp_servers: Any = None
    output_format: Any = None


class MessagesBody(CountTokensBody, kw_only=True):
    """The request."""

    max_tokens: UnsignedInt32
    stop_sequences: list[str] | None = None
    stream: bool | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None


class TextBlock(Struct, tag_field="type", tag="text"):
    """A part of an answer."""

    text: str


class ToolUseBlock(Struct, tag_field="type", tag="tool_use"):
    """A call of a tool."""

    id: str
    name: str
    input: msgspec.Raw


class ThinkingBlock(Struct, tag_field="type", tag="thinking"):
    """Reasoning before an answer; it is not signed."""

    thinking: str
    signature: str = ""


AnswerBlock = TextBlock | ToolUseBlock | ThinkingBlock


class MessagesUsage(Struct, kw_only=True):
    """`input_tokens` leaves out those that were found in the prefix cache."""

    input_tokens: int
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0
    output_tokens: int


class MessagesAnswer(Struct, kw_only=True):
    """The whole answer, or the empty one that a stream begins with."""

    id: str
    type: str = "message"
    role: str = "assistant"
    model: str
    content: list[AnswerBlock]
    stop_reason: str | None
    stop_sequence: str | None
    usage: MessagesUsage


class TokenCount(Struct):
    """The answer of /v1/messages/count_tokens."""

    input_tokens: int


class MessageStart(Struct, tag_field="type", tag="message_start"):
    """The first event."""

    message: MessagesAnswer


class ContentBlockStart(Struct, tag_field="type", tag="content_block_start"):
    """A part begins, empty."""

    index: int
    content_block: AnswerBlock


class TextDelta(Struct, tag_field="type", tag="text_delta"):
    """More text."""

    text: str


class ThinkingDelta(Struct, tag_field="type", tag="thinking_delta"):
    """More reasoning."""

    thinking: str


class SignatureDelta(Struct, tag_field="type", tag="signature_delta"):
    """Ends a part that is reasoning; there is no signature here, clients send back an empty one."""

    signature: str = ""


class InputJsonDelta(Struct, tag_field="type", tag="input_json_delta"):
    """More of the text of a call's input."""

    partial_json: str


class ContentBlockDelta(Struct, tag_field="type", tag="content_block_delta"):
    """A part goes on."""

    index: int
    delta: TextDelta | InputJsonDelta | ThinkingDelta | SignatureDelta


class ContentBlockStop(Struct, tag_field="type", tag="content_block_stop"):
    """A part is whole."""

    index: int


class StopDelta(Struct):
    """Why the answer ended."""

    stop_reason: str
    stop_sequence: str | None


class MessageDelta(Struct, tag_field="type", tag="message_delta"):
    """The end of the answer is known."""

    delta: StopDelta
    usage: MessagesUsage


class MessageStop(Struct, tag_field="type", tag="message_stop"):
    """The last event."""


class Ping(Struct, tag_field="type", tag="ping"):
    """Nothing yet."""


MessageEvent = (
    MessageStart
    | ContentBlockStart
    | ContentBlockDelta
    | ContentBlockStop
    | MessageDelta
    | MessageStop
    | Ping
)
