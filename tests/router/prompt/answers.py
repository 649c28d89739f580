"""An answer in every tool call format, as models of its kind write it."""

from dataclasses import dataclass
from typing import Any

from text_generation_router.prompt.tool_formats import (
    COHERE,
    COHERE_PLUS,
    DEEPSEEK,
    DEEPSEEK_PLAIN,
    FUNCTION_TAG,
    FUNCTIONARY,
    GENERIC,
    GRANITE,
    HARMONY,
    HERMES,
    LLAMA,
    MISTRAL,
    MISTRAL_LIST,
    QWEN_CODER,
    ToolFormat,
)

WEATHER: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city", "days"],
}
FUNCTIONS: dict[str, Any] = {"get_weather": WEATHER, "clock": {"type": "object", "properties": {}}}
# Braces, quotes and marks inside a string are text.
ARGUMENTS = '{"city": "Köln }]{ \\"</tool_call>[ARGS]\\" \\\\", "days": 3}'


@dataclass(frozen=True)
class Written:
    """Two calls: get_weather with `ARGUMENTS`, and clock without any."""

    format: ToolFormat
    text: str


_OBJECTS = (
    f'{{"name": "get_weather", "arguments": {ARGUMENTS}}}',
    '{"name": "clock", "arguments": {}}',
)
_LLAMA = (
    f'{{"name": "get_weather", "parameters": {ARGUMENTS}}}',
    '{"name": "clock", "parameters": {}}',
)
_COHERE = (
    f'{{"tool_call_id": "0", "tool_name": "get_weather", "parameters": {ARGUMENTS}}}',
    '{"tool_call_id": "1", "tool_name": "clock", "parameters": {}}',
)
_PLUS = (
    f'{{"tool_name": "get_weather", "parameters": {ARGUMENTS}}}',
    '{"tool_name": "clock", "parameters": {}}',
)

WRITTEN = (
    Written(
        HERMES,
        "\n".join(f"<tool_call>\n{call}\n</tool_call>" for call in _OBJECTS),
    ),
    Written(LLAMA, "; ".join(_LLAMA)),
    Written(LLAMA, "<|python_tag|>" + "; ".join(_LLAMA)),
    Written(GENERIC, "; ".join(_LLAMA)),
    Written(MISTRAL_LIST, f"[TOOL_CALLS][{', '.join(_OBJECTS)}]"),
    Written(MISTRAL, f"[TOOL_CALLS]get_weather[ARGS]{ARGUMENTS}[TOOL_CALLS]clock[ARGS]{{}}"),
    Written(
        MISTRAL,
        f"[TOOL_CALLS]get_weather[CALL_ID]a1b2c3d4e[ARGS]{ARGUMENTS}"
        "[TOOL_CALLS]clock[CALL_ID]a1b2c3d4f[ARGS]{}",
    ),
    Written(GRANITE, f"<|tool_call|>[{', '.join(_OBJECTS)}]"),
    Written(
        COHERE,
        f"<|START_ACTION|>[\n    {_COHERE[0]},\n    {_COHERE[1]}\n]<|END_ACTION|>",
    ),
    Written(COHERE_PLUS, f"Action: ```json\n[\n    {_PLUS[0]},\n    {_PLUS[1]}\n]\n```"),
    Written(
        DEEPSEEK,
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n"
        f"```json\n{ARGUMENTS}\n```<｜tool▁call▁end｜>\n"
        "<｜tool▁call▁begin｜>function<｜tool▁sep｜>clock\n```json\n{}\n```<｜tool▁call▁end｜>"
        "<｜tool▁calls▁end｜>",
    ),
    Written(
        DEEPSEEK_PLAIN,
        f"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{ARGUMENTS}"
        "<｜tool▁call▁end｜><｜tool▁call▁begin｜>clock<｜tool▁sep｜>{}<｜tool▁call▁end｜>"
        "<｜tool▁calls▁end｜>",
    ),
    Written(
        FUNCTION_TAG, f"<function=get_weather>{ARGUMENTS}</function><function=clock>{{}}</function>"
    ),
    Written(FUNCTIONARY, f">>>get_weather\n{ARGUMENTS}>>>clock\n{{}}"),
    Written(
        HARMONY,
        "<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>"
        f"{ARGUMENTS}<|channel|>commentary to=functions.clock <|constrain|>json<|message|>{{}}",
    ),
    Written(
        QWEN_CODER,
        "<tool_call>\n<function=get_weather>\n<parameter=city>\n"
        'Köln }]{ "</tool_call>[ARGS]" \\\n</parameter>\n<parameter=days>\n3\n</parameter>\n'
        "</function>\n</tool_call>\n<tool_call>\n<function=clock>\n</function>\n</tool_call>",
    ),
)
