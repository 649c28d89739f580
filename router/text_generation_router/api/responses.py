"""OpenAI's Responses dialect: from its request to the chat request that it stands for."""

from collections.abc import Sequence
from typing import Any

from text_generation_router.api.chat import LengthFields
from text_generation_router.api.chat_types import (
    ChatBody,
    CustomCall,
    CustomDefinition,
    FunctionCall,
    FunctionDefinition,
    Message,
    MessageToolCall,
    Tool,
)
from text_generation_router.api.errors import ToolError, ValidationError
from text_generation_router.api.limits import refuse_set
from text_generation_router.api.responses_types import (
    InputItem,
    InputPart,
    Reasoning,
    ResponsesBody,
    ResponsesTool,
)

LENGTHS = LengthFields("input", "max_output_tokens")

_UNSUPPORTED = (
    "access_programs",
    "background",
    "background_options",
    "context_management",
    "conversation",
    "image",
    "max_tool_calls",
    "moderation",
    "previous_response_id",
    "prompt",
    "store",
)
_UNSUPPORTED_OF_ITEMS = ("async_", "namespace")
_UNSUPPORTED_OF_TOOLS = ("async_", "defer_loading", "output_schema")
_LOGPROBS = "message.output_text.logprobs"
# Nothing is encrypted here: there is nothing to include, as for models that do not reason.
_ENCRYPTED_REASONING = "reasoning.encrypted_content"
_TEXT_PARTS = ("input_text", "output_text", "text")


def chat_body(body: ResponsesBody) -> ChatBody:
    """The same conversation as a chat; a `RequestError` says what cannot be said there."""
    for field in _UNSUPPORTED:
        if getattr(body, field):
            raise ValidationError(f"`{field}` is not supported by this server", param=field)
    if body.truncation not in (None, "disabled"):
        raise ValidationError("`truncation` can only be disabled", param="truncation")
    if body.reasoning is not None:
        _check_reasoning(body.reasoning)
    _check_include(body)
    return ChatBody(
        messages=_messages(body),
        max_completion_tokens=body.max_output_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        logprobs=_LOGPROBS in (body.include or ()),
        top_logprobs=body.top_logprobs,
        tools=[_tool(tool, f"tools[{i}]") for i, tool in enumerate(body.tools or [])] or None,
        tool_choice=_tool_choice(body.tool_choice),
        parallel_tool_calls=body.parallel_tool_calls,
        response_format=_response_format(body),
        reasoning_effort=None if body.reasoning is None else body.reasoning.effort,
        verbosity=None if body.text is None else body.text.verbosity,
    )


def _messages(body: ResponsesBody) -> list[Message]:
    messages: list[Message] = []
    if body.instructions:
        messages.append(Message(role="system", content=body.instructions))
    if isinstance(body.input, str):
        return [*messages, Message(role="user", content=body.input)]
    for i, item in enumerate(body.input):
        _append(messages, item, f"input[{i}]")
    if not messages:
        raise ValidationError("`input` cannot be empty", param="input")
    return messages


def _check_reasoning(reasoning: Reasoning) -> None:
    for field, only in (("context", "auto"), ("mode", "standard")):
        if getattr(reasoning, field) not in (None, only):
            name = f"reasoning.{field}"
            raise ValidationError(f"`{name}` can only be {only}", param=name)


def _check_include(body: ResponsesBody) -> None:
    for wanted in body.include or ():
        if wanted not in (_LOGPROBS, _ENCRYPTED_REASONING):
            raise ValidationError(
                f"`include` {wanted!r} is not supported by this server", param="include"
            )
    if body.top_logprobs and _LOGPROBS not in (body.include or ()):
        raise ValidationError(
            f"`top_logprobs` needs {_LOGPROBS!r} in `include`", param="top_logprobs"
        )


def _append(messages: list[Message], item: InputItem, place: str) -> None:
    refuse_set(item, _UNSUPPORTED_OF_ITEMS, place)
    if item.type == "message":
        role = _required(item.role, f"{place}.role")
        # Templates know the older name only.
        role = "system" if role == "developer" else role
        messages.append(Message(role=role, content=_text(item.content, f"{place}.content")))
    elif item.type in ("function_call", "custom_tool_call"):
        call = _call(item, place)
        # A message and its calls are items of their own here, and one message in a chat.
        if not messages or messages[-1].role != "assistant":
            messages.append(Message(role="assistant", content=""))
        messages[-1].tool_calls = [*(messages[-1].tool_calls or []), call]
    elif item.type in ("function_call_output", "custom_tool_call_output"):
        output = _text(item.output, f"{place}.output")
        messages.append(Message(role="tool", content=output, tool_call_id=item.call_id))
    elif item.type != "reasoning":
        raise ValidationError(f"`{place}.type` {item.type!r} is not supported", param=place)


def _call(item: InputItem, place: str) -> MessageToolCall:
    name = _required(item.name, f"{place}.name")
    if item.type == "custom_tool_call":
        custom = CustomCall(name=name, input=_required(item.input, f"{place}.input"))
        return MessageToolCall(type="custom", custom=custom, id=item.call_id)
    function = FunctionCall(name=name, arguments=item.arguments)
    return MessageToolCall(function=function, id=item.call_id)


def _required(value: str | None, place: str) -> str:
    if value is None:
        raise ValidationError(f"`{place}` is missing", param=place)
    return value


def _text(content: str | Sequence[InputPart] | None, place: str) -> str:
    if content is None or isinstance(content, str):
        return _required(content, place)
    texts: list[str] = []
    for i, part in enumerate(content):
        if part.type not in _TEXT_PARTS:
            raise ValidationError(
                f"`{place}[{i}]` is of type {part.type!r}: this model reads text only",
                param=place,
            )
        texts.append(_required(part.text, f"{place}[{i}].text"))
    return "".join(texts)


def _tool(tool: ResponsesTool, place: str) -> Tool:
    if tool.type not in ("function", "custom"):
        raise ToolError(f"`{place}.type` {tool.type!r} is not supported", param="tools")
    refuse_set(tool, _UNSUPPORTED_OF_TOOLS, place)
    if tool.allowed_callers and "direct" not in tool.allowed_callers:
        raise ToolError(f"`{place}.allowed_callers` can only be direct", param="tools")
    if tool.type == "custom":
        custom = CustomDefinition(
            name=_required(tool.name, f"{place}.name"),
            description=tool.description,
            format=tool.format or None,
        )
        return Tool(type="custom", custom=custom)
    return Tool(
        function=FunctionDefinition(
            name=tool.name,
            description=tool.description,
            parameters=tool.parameters or None,
            strict=tool.strict or None,
        )
    )


def _tool_choice(choice: Any) -> Any:
    """A tool is named flatly here, and one level deeper in a chat."""
    kind = choice.get("type") if isinstance(choice, dict) else None
    if kind == "allowed_tools" and isinstance(choice.get("tools"), list):
        tools = [_tool_choice(tool) for tool in choice["tools"]]
        return {"type": kind, kind: {"mode": choice.get("mode"), "tools": tools}}
    if kind in ("function", "custom") and "name" in choice:
        return {"type": kind, kind: {"name": choice["name"]}}
    return choice


def _response_format(body: ResponsesBody) -> Any:
    """A schema is given flatly here, and under `json_schema` in a chat."""
    wanted = None if body.text is None else body.text.format
    if wanted is None or wanted.get("type") != "json_schema":
        return wanted
    schema = {key: value for key, value in wanted.items() if key != "type"}
    return {"type": "json_schema", "json_schema": schema}
