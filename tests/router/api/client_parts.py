"""The parts of requests as the `openai` and `anthropic` packages type them, and what becomes of
each of their fields.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import anthropic.types as messages
import openai.types.responses as responses
import openai.types.responses.response_input_param as response_inputs
from openai.types import chat
from openai.types.responses import response_create_params as response_request
from openai.types.shared_params import (
    FunctionDefinition,
    Reasoning,
    ResponseFormatJSONObject,
    ResponseFormatJSONSchema,
    ResponseFormatText,
)
from openai.types.shared_params.response_format_json_schema import JSONSchema

Body = dict[str, Any]

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
USER = {"role": "user", "content": "x"}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
BREAKPOINT = {"prompt_cache_breakpoint": {"mode": "explicit"}}
CACHE = {"cache_control": {"type": "ephemeral"}}


@dataclass(frozen=True, kw_only=True)
class Part:
    """A typed part of a request, `least` filled in, and what becomes of each of its fields."""

    path: str
    typed: Any
    # Puts the part into a request.
    put: Callable[[Body], Body]
    least: Body
    honoured: set[str] = field(default_factory=set)
    harmless: Body = field(default_factory=dict)
    refused: Body = field(default_factory=dict)


def chat_body(*said: Body, **fields: Any) -> Body:
    return {"messages": [USER, *said, USER], "seed": 1, **fields}


def responses_body(*items: Body, **fields: Any) -> Body:
    return {"input": [USER, *items, USER], "temperature": 0, **fields}


def messages_body(*said: Body, **fields: Any) -> Body:
    return {
        "model": "m",
        "max_tokens": 5,
        "temperature": 0,
        "messages": [USER, *said, USER],
        **fields,
    }


def assistant(block: Body) -> Body:
    return messages_body({"role": "assistant", "content": [block]})


def answered(block: Body) -> Body:
    use = {"type": "tool_use", "id": "c", "name": "f", "input": {}}
    said = {"role": "assistant", "content": [use]}
    return messages_body(said, {"role": "user", "content": [block]})


def nested(place: str, key: str) -> Callable[[Body], Body]:
    return lambda part: chat_body(**{place: {"type": key, key: part}})


CHAT_PARTS = [
    *(
        Part(
            path=CHAT,
            typed=typed,
            put=chat_body,
            least={"role": role, "content": "y"},
            honoured={"role", "content", "name"},
        )
        for role, typed in (
            ("user", chat.ChatCompletionUserMessageParam),
            ("system", chat.ChatCompletionSystemMessageParam),
            ("developer", chat.ChatCompletionDeveloperMessageParam),
            ("function", chat.ChatCompletionFunctionMessageParam),
        )
    ),
    Part(
        path=CHAT,
        typed=chat.ChatCompletionAssistantMessageParam,
        put=chat_body,
        least={"role": "assistant", "content": "y"},
        honoured={"role", "content", "name", "tool_calls"},
        refused={
            "audio": {"id": "a"},
            "function_call": {"name": "f", "arguments": "{}"},
            "refusal": "no",
        },
    ),
    Part(
        path=CHAT,
        typed=chat.ChatCompletionToolMessageParam,
        put=lambda part: chat_body({"role": "assistant", "tool_calls": [CALL]}, part),
        least={"role": "tool", "content": "y", "tool_call_id": "c"},
        honoured={"role", "content", "tool_call_id"},
    ),
    Part(
        path=CHAT,
        typed=chat.ChatCompletionContentPartTextParam,
        put=lambda part: chat_body({"role": "user", "content": [part]}),
        least={"type": "text", "text": "y"},
        honoured={"type", "text"},
        harmless=BREAKPOINT,
    ),
    Part(
        path=CHAT,
        typed=chat.ChatCompletionMessageFunctionToolCallParam,
        put=lambda part: chat_body({"role": "assistant", "tool_calls": [part]}),
        least=CALL,
        honoured={"id", "type", "function"},
    ),
    Part(
        path=CHAT,
        typed=chat.ChatCompletionFunctionToolParam,
        put=lambda part: chat_body(tools=[part]),
        least={"type": "function", "function": {"name": "f"}},
        honoured={"type", "function"},
    ),
    Part(
        path=CHAT,
        typed=FunctionDefinition,
        put=lambda part: chat_body(tools=[{"type": "function", "function": part}]),
        least={"name": "f"},
        honoured={"name", "description", "parameters", "strict"},
    ),
    Part(
        path=CHAT,
        typed=chat.ChatCompletionNamedToolChoiceParam,
        put=lambda part: chat_body(tool_choice=part, tools=[{"function": {"name": "f"}}]),
        least={"type": "function", "function": {"name": "f"}},
        honoured={"type", "function"},
    ),
    Part(
        path=CHAT,
        typed=chat.ChatCompletionStreamOptionsParam,
        put=lambda part: chat_body(stream_options=part),
        least={},
        honoured={"include_usage"},
        # Padding of a stream against listeners; this server adds none.
        harmless={"include_obfuscation": False},
    ),
    Part(
        path=CHAT,
        typed=JSONSchema,
        put=nested("response_format", "json_schema"),
        least={"name": "n", "schema": SCHEMA},
        honoured={"schema"},
        # A schema is enforced whether it is strict or not, and no format is shown to the model.
        harmless={"name": "m", "description": "d", "strict": False},
    ),
    *(
        Part(
            path=CHAT,
            typed=typed,
            put=lambda part: chat_body(response_format=part),
            least=least,
            honoured=set(least),
        )
        for typed, least in (
            (ResponseFormatText, {"type": "text"}),
            (ResponseFormatJSONObject, {"type": "json_object"}),
            (
                ResponseFormatJSONSchema,
                {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}},
            ),
        )
    ),
]

TOOL_REFUSED = {"defer_loading": True, "allowed_callers": ["other"]}
# Of an item that a response had, and whose calls were not made by a program elsewhere.
ITEM = {"id": "i", "status": "completed"}
CALLER = {"caller": {"type": "direct"}}
OUTPUT_TEXT = {"type": "output_text", "text": "y", "annotations": []}
MADE = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}

RESPONSES_PARTS = [
    Part(
        path=RESPONSES,
        typed=responses.EasyInputMessageParam,
        put=responses_body,
        least={"role": "assistant", "content": "y"},
        honoured={"type", "role", "content"},
        harmless={"phase": "commentary"},
    ),
    Part(
        path=RESPONSES,
        typed=response_inputs.Message,
        put=responses_body,
        least={"role": "user", "content": [{"type": "input_text", "text": "y"}]},
        honoured={"type", "role", "content"},
        harmless={"status": "completed"},
    ),
    Part(
        path=RESPONSES,
        typed=responses.ResponseOutputMessageParam,
        put=responses_body,
        least={"type": "message", "role": "assistant", "content": [OUTPUT_TEXT]},
        honoured={"type", "role", "content"},
        harmless={**ITEM, "phase": "final_answer"},
    ),
    Part(
        path=RESPONSES,
        typed=responses.ResponseInputTextParam,
        put=lambda part: responses_body({"role": "user", "content": [part]}),
        least={"type": "input_text", "text": "y"},
        honoured={"type", "text"},
        harmless=BREAKPOINT,
    ),
    Part(
        path=RESPONSES,
        typed=responses.ResponseOutputTextParam,
        put=lambda part: responses_body({"role": "assistant", "content": [part]}),
        least={"type": "output_text", "text": "y"},
        honoured={"type", "text"},
        harmless={"annotations": [], "logprobs": []},
    ),
    Part(
        path=RESPONSES,
        typed=responses.ResponseFunctionToolCallParam,
        put=responses_body,
        least=MADE,
        honoured={"type", "call_id", "name", "arguments"},
        harmless={**ITEM, **CALLER},
        refused={"async": True, "namespace": "n"},
    ),
    Part(
        path=RESPONSES,
        typed=response_inputs.FunctionCallOutput,
        put=lambda part: responses_body(MADE, part),
        least={"type": "function_call_output", "call_id": "c", "output": "y"},
        honoured={"type", "call_id", "output"},
        # The function's name is that of the call.
        harmless={**ITEM, **CALLER, "name": "f"},
        refused={"namespace": "n"},
    ),
    Part(
        path=RESPONSES,
        typed=responses.FunctionToolParam,
        put=lambda part: responses_body(tools=[part]),
        least={"type": "function", "name": "f"},
        honoured={"type", "name", "description", "parameters", "strict"},
        refused={**TOOL_REFUSED, "async": True, "output_schema": SCHEMA},
    ),
    Part(
        path=RESPONSES,
        typed=responses.ResponseTextConfigParam,
        put=lambda part: responses_body(text=part),
        least={},
        honoured={"format"},
        refused={"verbosity": "low"},
    ),
    Part(
        path=RESPONSES,
        typed=responses.ResponseFormatTextJSONSchemaConfigParam,
        put=lambda part: responses_body(text={"format": part}),
        least={"type": "json_schema", "name": "n", "schema": SCHEMA},
        honoured={"type", "schema"},
        harmless={"name": "m", "description": "d", "strict": False},
    ),
    Part(
        path=RESPONSES,
        typed=Reasoning,
        put=lambda part: responses_body(reasoning=part),
        least={},
        honoured={"effort"},
        # Reasoning comes whole; there is no summary of it.
        harmless={"summary": "auto", "generate_summary": "auto"},
        refused={"context": "all_turns", "mode": "pro"},
    ),
    Part(
        path=RESPONSES,
        typed=response_request.StreamOptions,
        put=lambda part: responses_body(stream_options=part),
        least={},
        harmless={"include_obfuscation": False},
    ),
]

MESSAGES_PARTS = [
    Part(
        path=MESSAGES,
        typed=messages.MessageParam,
        put=messages_body,
        least={"role": "user", "content": "y"},
        honoured={"role", "content"},
    ),
    Part(
        path=MESSAGES,
        typed=messages.TextBlockParam,
        put=assistant,
        least={"type": "text", "text": "y"},
        honoured={"type", "text"},
        harmless=CACHE,
        refused={"citations": [{"type": "char_location", "cited_text": "z"}]},
    ),
    Part(
        path=MESSAGES,
        typed=messages.ThinkingBlockParam,
        put=assistant,
        least={"type": "thinking", "thinking": "y"},
        honoured={"type", "thinking"},
        harmless={"signature": "s"},
    ),
    Part(
        path=MESSAGES,
        typed=messages.RedactedThinkingBlockParam,
        put=assistant,
        least={"type": "redacted_thinking"},
        honoured={"type"},
        # Only who encrypted it can read it.
        harmless={"data": "d"},
    ),
    Part(
        path=MESSAGES,
        typed=messages.ToolUseBlockParam,
        put=assistant,
        least={"type": "tool_use", "id": "c", "name": "f", "input": {}},
        honoured={"type", "id", "name", "input"},
        harmless={**CACHE, **CALLER},
        refused={"toolset_name": "t"},
    ),
    Part(
        path=MESSAGES,
        typed=messages.ToolResultBlockParam,
        put=answered,
        least={"type": "tool_result", "tool_use_id": "c", "content": "y"},
        honoured={"type", "tool_use_id", "content", "is_error"},
        harmless=CACHE,
        refused={"toolset_name": "t"},
    ),
    Part(
        path=MESSAGES,
        typed=messages.ToolParam,
        put=lambda part: messages_body(tools=[part]),
        least={"name": "f", "input_schema": SCHEMA},
        honoured={"name", "description", "input_schema", "strict", "type"},
        # How the pieces of a stream are cut.
        harmless={**CACHE, "eager_input_streaming": True},
        refused={**TOOL_REFUSED, "input_examples": [{"a": 1}]},
    ),
    Part(
        path=MESSAGES,
        typed=messages.ThinkingConfigEnabledParam,
        put=lambda part: messages_body(thinking=part),
        least={"type": "enabled"},
        honoured={"type"},
        # A bound for who would think longer; `max_tokens` holds all the same.
        harmless={"budget_tokens": 1024},
        refused={"display": "omitted"},
    ),
    Part(
        path=MESSAGES,
        typed=messages.OutputConfigParam,
        put=lambda part: messages_body(output_config=part),
        least={},
        honoured={"format", "effort"},
    ),
    Part(
        path=MESSAGES,
        typed=messages.JSONOutputFormatParam,
        put=lambda part: messages_body(output_config={"format": part}),
        least={"type": "json_schema", "schema": SCHEMA},
        honoured={"type", "schema"},
    ),
]
PARTS = [*CHAT_PARTS, *RESPONSES_PARTS, *MESSAGES_PARTS]
