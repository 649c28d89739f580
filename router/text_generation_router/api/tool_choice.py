"""Which tools a chat request shows to the model, and whether it has to call one.

`tool_choice` is "none", "auto", "required", a tool's name, OpenAI's object with the name, or its
list of the tools that are allowed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from text_generation_router.api.chat_types import ChatBody, FunctionDefinition, Tool
from text_generation_router.api.custom_tools import as_function
from text_generation_router.api.errors import ToolError

NO_PARAMETERS: Mapping[str, Any] = {"type": "object", "properties": {}}
_KINDS = ("function", "custom")


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolChoice:
    """What the client wants of its tools."""

    # Those that the model sees, as functions; with a named one, that one alone.
    functions: Sequence[FunctionDefinition] = ()
    # The names of those that are custom tools.
    custom: frozenset[str] = frozenset()
    is_required: bool = False
    # Whether the answer may have more than one call.
    allows_several: bool = True


def read_tool_choice(body: ChatBody) -> ToolChoice:
    """`ToolError` for tools that cannot be used, or a choice that cannot be made."""
    choice, tools = body.tool_choice, body.tools or []
    functions = [_function(tool, f"tools[{i}]") for i, tool in enumerate(tools)]
    custom = frozenset(tool.custom.name for tool in tools if tool.custom is not None)
    several = body.parallel_tool_calls is not False
    if isinstance(choice, dict) and choice.get("type") == "allowed_tools":
        choice, names = _allowed(choice)
        functions = [_named(functions, name) for name in names]
    if choice in (None, "auto"):
        return ToolChoice(functions=functions, custom=custom, allows_several=several)
    if choice == "none":
        return ToolChoice()
    if not functions:
        raise ToolError("`tool_choice` needs `tools`", param="tool_choice")
    if choice == "required":
        return ToolChoice(
            functions=functions, custom=custom, is_required=True, allows_several=several
        )
    named = _named(functions, _name(choice))
    return ToolChoice(functions=[named], custom=custom, is_required=True, allows_several=False)


def parameters_schema(function: FunctionDefinition) -> Mapping[str, Any]:
    """The JSON Schema of a function's arguments; TGI also knows it as `arguments`."""
    schema = function.arguments if function.parameters is None else function.parameters
    return schema or NO_PARAMETERS


def _function(tool: Tool, place: str) -> FunctionDefinition:
    if tool.type not in _KINDS:
        raise ToolError(f"`{place}.type` must be function or custom", param="tools")
    if tool.type == "custom" and tool.custom is not None:
        return as_function(tool.custom, f"{place}.custom")
    if tool.type == "custom" or tool.function is None:
        raise ToolError(f"`{place}.{tool.type}` is missing", param="tools")
    return tool.function


def _named(functions: Sequence[FunctionDefinition], name: str) -> FunctionDefinition:
    found = next((function for function in functions if function.name == name), None)
    if found is None:
        raise ToolError(f"Tool with name {name} not found", param="tool_choice")
    return found


def _allowed(choice: Mapping[str, Any]) -> tuple[str, list[str]]:
    """OpenAI's `allowed_tools`: how they may be called, and the names."""
    allowed = choice.get("allowed_tools")
    mode = allowed.get("mode") if isinstance(allowed, dict) else None
    tools = allowed.get("tools") if isinstance(allowed, dict) else None
    if mode not in ("auto", "required") or not isinstance(tools, list) or not tools:
        raise ToolError(
            "`tool_choice.allowed_tools` must have a mode (auto or required) and tools",
            param="tool_choice",
        )
    return mode, list(dict.fromkeys(_name(tool) for tool in tools))


def _name(choice: Any) -> str:
    """The name in a string, or in OpenAI's object."""
    kind = choice.get("type", "function") if isinstance(choice, dict) else None
    if isinstance(choice, dict):
        tool = choice.get(kind) if kind in _KINDS else None
        choice = tool.get("name") if isinstance(tool, dict) else None
    if not isinstance(choice, str) or not choice:
        raise ToolError(
            "`tool_choice` must be none, auto, required, name a tool, or list the allowed ones",
            param="tool_choice",
        )
    return choice
