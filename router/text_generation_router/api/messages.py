"""Anthropic's Messages dialect: from its request to the chat request that it stands for."""

from collections.abc import Iterator, Sequence
from typing import Any

from text_generation_router.api.chat_types import (
    ChatBody,
    FunctionCall,
    FunctionDefinition,
    Message,
    MessageToolCall,
    Tool,
)
from text_generation_router.api.errors import ToolError, ValidationError
from text_generation_router.api.limits import refuse_set
from text_generation_router.api.messages_types import (
    CountTokensBody,
    InputBlock,
    InputMessage,
    MessagesBody,
    MessagesTool,
    MessagesToolChoice,
    OutputConfig,
)

_UNSUPPORTED = ("container", "diagnostics", "inference_geo", "mcp_servers", "output_format")
_UNSUPPORTED_OF_BLOCKS = ("citations", "toolset_name")
_UNSUPPORTED_OF_TOOLS = ("defer_loading", "input_examples")


def chat_body(body: CountTokensBody) -> ChatBody:
    """The same conversation as OpenAI's; a `RequestError` says what cannot be said there."""
    for field in _UNSUPPORTED:
        if getattr(body, field) not in (None, []):
            raise ValidationError(f"`{field}` is not supported by this server", param=field)
    choice = body.tool_choice
    chat = ChatBody(
        messages=_messages(body),
        tools=[_tool(tool, f"tools[{i}]") for i, tool in enumerate(body.tools or [])] or None,
        tool_choice=None if choice is None else _tool_choice(choice),
    )
    if choice is not None and choice.disable_parallel_tool_use:
        chat.parallel_tool_calls = False
    if body.thinking is not None:
        if body.thinking.display == "omitted":
            raise ValidationError(
                "`thinking.display` can only be summarized", param="thinking.display"
            )
        chat.chat_template_kwargs = {"enable_thinking": body.thinking.type != "disabled"}
    if body.output_config is not None:
        chat.response_format = _response_format(body.output_config)
        chat.reasoning_effort = body.output_config.effort
    if isinstance(body, MessagesBody):
        chat.max_tokens = body.max_tokens
        chat.temperature = body.temperature
        chat.top_k = body.top_k
        chat.top_p = body.top_p
        chat.stop = body.stop_sequences
    return chat


def _response_format(wanted: OutputConfig) -> Any:
    """A schema is given flatly here, and under `json_schema` in a chat."""
    if wanted.format is None:
        return None
    if wanted.format.get("type") != "json_schema":
        raise ValidationError(
            "`output_config.format.type` must be json_schema", param="output_config"
        )
    schema = {key: value for key, value in wanted.format.items() if key != "type"}
    return {"type": "json_schema", "json_schema": schema}


def _messages(body: CountTokensBody) -> list[Message]:
    messages: list[Message] = []
    if body.system:
        messages.append(Message(role="system", content=_text(body.system, "system")))
    for i, message in enumerate(body.messages):
        place = f"messages[{i}].content"
        if isinstance(message.content, str):
            messages.append(Message(role=message.role, content=message.content))
        elif message.role == "assistant":
            messages.append(_assistant_message(message.content, place))
        else:
            messages += _user_messages(message, message.content, place)
    return messages


def _assistant_message(blocks: Sequence[InputBlock], place: str) -> Message:
    message = Message(role="assistant", content="")
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[MessageToolCall] = []
    for here, block in _checked(blocks, place):
        if block.type == "tool_use":
            if block.name is None:
                raise ValidationError(f"`{here}.name` is missing", param=place)
            function = FunctionCall(name=block.name, arguments=block.input or {})
            calls.append(MessageToolCall(function=function, id=block.id))
        elif block.type in ("thinking", "redacted_thinking"):
            thoughts.append(block.thinking or "")
        else:
            texts.append(_block_text(block, here))
    message.content = "".join(texts)
    message.reasoning_content = "".join(thoughts) or None
    message.tool_calls = calls or None
    return message


def _user_messages(
    message: InputMessage, blocks: Sequence[InputBlock], place: str
) -> list[Message]:
    """Results of tools are messages of their own; they come before the text."""
    results: list[Message] = []
    texts: list[str] = []
    for here, block in _checked(blocks, place):
        if block.type == "tool_result":
            content = _text(block.content or "", f"{here}.content")
            # Templates have no place for it but the text.
            content = f"Error: {content}" if block.is_error else content
            results.append(Message(role="tool", content=content, tool_call_id=block.tool_use_id))
        else:
            texts.append(_block_text(block, here))
    if texts or not results:
        results.append(Message(role=message.role, content="".join(texts)))
    return results


def _text(content: str | Sequence[InputBlock], place: str) -> str:
    if isinstance(content, str):
        return content
    return "".join(_block_text(block, here) for here, block in _checked(content, place))


def _checked(blocks: Sequence[InputBlock], place: str) -> Iterator[tuple[str, InputBlock]]:
    """The blocks, each with its own place."""
    for i, block in enumerate(blocks):
        here = f"{place}[{i}]"
        refuse_set(block, _UNSUPPORTED_OF_BLOCKS, here)
        yield here, block


def _block_text(block: InputBlock, place: str) -> str:
    if block.type != "text":
        raise ValidationError(
            f"`{place}` is of type {block.type!r}, which is not supported here: "
            "this model reads text only",
            param=place,
        )
    if block.text is None:
        raise ValidationError(f"`{place}.text` is missing", param=place)
    return block.text


def _tool(tool: MessagesTool, place: str) -> Tool:
    if tool.type not in (None, "custom"):
        raise ToolError(f"`{place}.type` {tool.type!r} is not supported", param="tools")
    refuse_set(tool, _UNSUPPORTED_OF_TOOLS, place)
    if tool.allowed_callers and "direct" not in tool.allowed_callers:
        raise ToolError(f"`{place}.allowed_callers` can only be direct", param="tools")
    return Tool(
        function=FunctionDefinition(
            name=tool.name,
            description=tool.description,
            parameters=tool.input_schema,
            strict=tool.strict,
        )
    )


def _tool_choice(choice: MessagesToolChoice) -> Any:
    """OpenAI's word for it."""
    if choice.type == "tool":
        return {"type": "function", "function": {"name": choice.name}}
    return {"auto": "auto", "any": "required", "none": "none"}[choice.type]
