"""Parts of requests about custom tools and about the choice of tools, as `client_parts.py` has all
others.
"""

import openai.types.responses as responses
from openai.types import chat
from openai.types.chat import chat_completion_custom_tool_param as custom_tool
from openai.types.chat import (
    chat_completion_named_tool_choice_custom_param as named_custom,
)
from openai.types.shared_params import custom_tool_input_format

from tests.router.api.client_parts import (
    CALLER,
    CHAT,
    RESPONSES,
    TOOL_REFUSED,
    Part,
    chat_body,
    responses_body,
)

CUSTOM = {"type": "custom", "custom": {"name": "f"}}
FUNCTION = {"type": "function", "function": {"name": "f"}}
REGEX = {"syntax": "regex", "definition": "[ab]+"}
ALLOWED = {"mode": "auto", "tools": [FUNCTION]}
MADE = {"type": "custom_tool_call", "call_id": "c", "name": "f", "input": "x"}

CUSTOM_TOOL_PARTS = [
    Part(
        path=CHAT,
        typed=chat.ChatCompletionCustomToolParam,
        put=lambda part: chat_body(tools=[part]),
        least=CUSTOM,
        honoured={"type", "custom"},
    ),
    Part(
        path=CHAT,
        typed=custom_tool.Custom,
        put=lambda part: chat_body(tools=[{"type": "custom", "custom": part}]),
        least={"name": "f"},
        honoured={"name", "description", "format"},
    ),
    Part(
        path=CHAT,
        typed=custom_tool.CustomFormatGrammar,
        put=lambda part: chat_body(
            tools=[{"type": "custom", "custom": {"name": "f", "format": part}}]
        ),
        least={"type": "grammar", "grammar": REGEX},
        honoured={"type", "grammar"},
    ),
    Part(
        path=CHAT,
        typed=chat.ChatCompletionMessageCustomToolCallParam,
        put=lambda part: chat_body({"role": "assistant", "tool_calls": [part]}),
        least={"id": "c", "type": "custom", "custom": {"name": "f", "input": "x"}},
        honoured={"id", "type", "custom"},
    ),
    Part(
        path=CHAT,
        typed=chat.ChatCompletionNamedToolChoiceCustomParam,
        put=lambda part: chat_body(tool_choice=part, tools=[CUSTOM]),
        least=CUSTOM,
        honoured={"type", "custom"},
    ),
    Part(
        path=CHAT,
        typed=named_custom.Custom,
        put=lambda part: chat_body(tool_choice={"type": "custom", "custom": part}, tools=[CUSTOM]),
        least={"name": "f"},
        honoured={"name"},
    ),
    Part(
        path=CHAT,
        typed=chat.ChatCompletionAllowedToolChoiceParam,
        put=lambda part: chat_body(tool_choice=part, tools=[FUNCTION]),
        least={"type": "allowed_tools", "allowed_tools": ALLOWED},
        honoured={"type", "allowed_tools"},
    ),
    Part(
        path=CHAT,
        typed=chat.ChatCompletionAllowedToolsParam,
        put=lambda part: chat_body(
            tool_choice={"type": "allowed_tools", "allowed_tools": part}, tools=[FUNCTION]
        ),
        least=ALLOWED,
        honoured={"mode", "tools"},
    ),
    Part(
        path=RESPONSES,
        typed=responses.CustomToolParam,
        put=lambda part: responses_body(tools=[part]),
        least={"type": "custom", "name": "f"},
        honoured={"type", "name", "description", "format"},
        refused={**TOOL_REFUSED, "async": True},
    ),
    Part(
        path=RESPONSES,
        typed=custom_tool_input_format.Grammar,
        put=lambda part: responses_body(tools=[{"type": "custom", "name": "f", "format": part}]),
        least={"type": "grammar", **REGEX},
        honoured={"type", "syntax", "definition"},
    ),
    Part(
        path=RESPONSES,
        typed=responses.ResponseCustomToolCallParam,
        put=responses_body,
        least=MADE,
        honoured={"type", "call_id", "name", "input"},
        harmless={"id": "i", **CALLER},
        refused={"async": True, "namespace": "n"},
    ),
    Part(
        path=RESPONSES,
        typed=responses.ResponseCustomToolCallOutputParam,
        put=lambda part: responses_body(MADE, part),
        least={"type": "custom_tool_call_output", "call_id": "c", "output": "y"},
        honoured={"type", "call_id", "output"},
        harmless={"id": "i", **CALLER},
    ),
    Part(
        path=RESPONSES,
        typed=responses.ToolChoiceAllowedParam,
        put=lambda part: responses_body(
            tool_choice=part, tools=[{"type": "function", "name": "f"}]
        ),
        least={
            "type": "allowed_tools",
            "mode": "auto",
            "tools": [{"type": "function", "name": "f"}],
        },
        honoured={"type", "mode", "tools"},
    ),
    Part(
        path=RESPONSES,
        typed=responses.ToolChoiceCustomParam,
        put=lambda part: responses_body(tool_choice=part, tools=[{"type": "custom", "name": "f"}]),
        least={"type": "custom", "name": "f"},
        honoured={"type", "name"},
    ),
]
