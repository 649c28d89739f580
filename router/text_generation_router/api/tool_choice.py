"""Which tools a chat request shows to the model, and whether it has to call one.

`tool_choice` is "none", "auto", "required", a function's name, or OpenAI's object with the name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from text_generation_router.api.chat_types import ChatBody, Tool
from text_generation_router.api.errors import ToolError

NO_PARAMETERS: Mapping[str, Any] = {"type": "object", "properties": {}}


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolChoice:
    """What the client wants of its tools."""

    # Those that the model sees; with a named function, that one alone.
    tools: Sequence[Tool] = ()
    is_required: bool = False
    # Whether the answer may have more than one call.
    allows_several: bool = True


def read_tool_choice(body: ChatBody) -> ToolChoice:
    """`ToolError` for a choice that cannot be made."""
    choice, tools = body.tool_choice, body.tools or []
    several = body.parallel_tool_calls is not False
    if choice in (None, "auto"):
        return ToolChoice(tools=tools, allows_several=several)
    if choice == "none":
        return ToolChoice()
    if not tools:
        raise ToolError("`tool_choice` needs `tools`", param="tool_choice")
    if choice == "required":
        return ToolChoice(tools=tools, is_required=True, allows_several=several)
    name = _function_name(choice)
    named = [tool for tool in tools if tool.function.name == name]
    if not named:
        raise ToolError(f"Tool with name {name} not found", param="tool_choice")
    return ToolChoice(tools=named[:1], is_required=True, allows_several=False)


def parameters_schema(tool: Tool) -> Mapping[str, Any]:
    """The JSON Schema of a function's arguments; TGI also knows it as `arguments`."""
    definition = tool.function
    schema = definition.arguments if definition.parameters is None else definition.parameters
    return schema or NO_PARAMETERS


def _function_name(choice: Any) -> str:
    """The name in a string, or in OpenAI's object."""
    if isinstance(choice, dict) and choice.get("type", "function") == "function":
        function = choice.get("function")
        choice = function.get("name") if isinstance(function, dict) else None
    if not isinstance(choice, str) or not choice:
        raise ToolError(
            "`tool_choice` must be none, auto, required, or name a function", param="tool_choice"
        )
    return choice
