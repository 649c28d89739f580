"""Short chat templates that show tools, calls and results in the way of well-known models."""

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


def _template(calls: str, *, instruction: str = "", text: str = "message.content") -> str:
    """A template that writes a message's calls like this; results and all else are text."""
    return (
        "{%- if tools %}[tools]{% for tool in tools %}{{ tool | tojson }}{% endfor %}"
        + instruction
        + "\n{% endif %}{%- for message in messages %}{%- if message.tool_calls %}[calls]"
        + calls
        + "\n{%- else %}[{{ message.role }}]{{ "
        + text
        + " }}\n{%- endif %}{%- endfor %}{%- if add_generation_prompt %}[assistant]{% endif %}"
    )


_EACH = "{%- for call in message.tool_calls %}"
_COMMA = "{{ ', ' if not loop.last }}"
_OBJECT = '{"name": "{{ call.function.name }}", "KEY": {{ call.function.arguments | tojson }}}'
_LIST = "[" + _EACH + _OBJECT.replace("KEY", "arguments") + _COMMA + "{% endfor %}]"
_NINE = (
    "{%- if call.id | length != 9 %}{{ raise_exception('an id has nine characters') }}{% endif %}"
)
_COHERE_OBJECT = (
    '{"tool_call_id": "{{ loop.index0 }}", "tool_name": "{{ call.function.name }}", '
    '"parameters": {{ call.function.arguments | tojson }}}'
)

TEMPLATES: dict[ToolFormat, str] = {
    HERMES: _template(
        _EACH + "<tool_call>\n" + _OBJECT.replace("KEY", "arguments") + "\n</tool_call>{% endfor %}"
    ),
    LLAMA: _template(
        _EACH
        + "{%- if loop.index0 %}{{ raise_exception('one call only') }}{% endif %}"
        + _OBJECT.replace("KEY", "parameters")
        + "{% endfor %}",
        instruction='Respond in the format {"name": function name, "parameters": dictionary}.',
    ),
    MISTRAL_LIST: _template("[TOOL_CALLS]" + _LIST),
    MISTRAL: _template(
        _EACH
        + _NINE
        + "[TOOL_CALLS]{{ call.function.name }}[ARGS]{{ call.function.arguments | tojson }}"
        + "{% endfor %}"
    ),
    GRANITE: _template("<|tool_call|>" + _LIST),
    COHERE: _template(
        "<|START_ACTION|>[\n"
        + _EACH
        + _COHERE_OBJECT
        + "{{ ',' if not loop.last }}\n{%- endfor %}\n]<|END_ACTION|>"
    ),
    COHERE_PLUS: _template(
        "Action: ```json\n["
        + _EACH
        + _COHERE_OBJECT.replace('"tool_call_id": "{{ loop.index0 }}", ', "")
        + _COMMA
        + "{%- endfor %}]\n```"
    ),
    # Joins texts: the arguments have to be one, and a message with calls has no content.
    DEEPSEEK: _template(
        "{%- if message.content is not none %}{{ message.content }}{% else %}"
        "{{ '<｜tool▁calls▁begin｜>' }}"
        + _EACH
        + "{{ '<｜tool▁call▁begin｜>' + call.type + '<｜tool▁sep｜>' + call.function.name + "
        "'\\n```json\\n' + call.function.arguments + '\\n```<｜tool▁call▁end｜>' }}"
        "{%- endfor %}{{ '<｜tool▁calls▁end｜>' }}{% endif %}"
    ),
    DEEPSEEK_PLAIN: _template(
        "{{ '<｜tool▁calls▁begin｜>' }}"
        + _EACH
        + "{{ '<｜tool▁call▁begin｜>' + call.function.name + '<｜tool▁sep｜>' + "
        "call.function.arguments + '<｜tool▁call▁end｜>' }}{%- endfor %}"
        "{{ '<｜tool▁calls▁end｜>' }}"
    ),
    FUNCTION_TAG: _template(
        _EACH
        + "<function={{ call.function.name }}>{{ call.function.arguments | tojson }}</function>"
        + "{% endfor %}"
    ),
    FUNCTIONARY: (
        "{%- if tools %}[tools]{% for tool in tools %}{{ tool | tojson }}{% endfor %}\n{% endif %}"
        "{%- for message in messages %}{%- if message.role == 'assistant' %}[calls]"
        "{%- if message.content %}{{ '>>>all\n' + message.content }}{% endif %}"
        + _EACH
        + "{{ '>>>' + call.function.name + '\n' + call.function.arguments }}{% endfor %}\n"
        "{%- else %}[{{ message.role }}]{{ message.content }}\n{%- endif %}{%- endfor %}"
        "{%- if add_generation_prompt %}[assistant]>>>{% endif %}"
    ),
    QWEN_CODER: _template(
        _EACH
        + "<tool_call>\n<function={{ call.function.name }}>\n"
        + "{%- for name, value in call.function.arguments.items() %}"
        + "<parameter={{ name }}>\n{{ value }}\n</parameter>\n{%- endfor %}"
        + "</function>\n</tool_call>{% endfor %}"
    ),
    HARMONY: (
        "{%- if tools %}[tools]{% for tool in tools %}{{ tool | tojson }}{% endfor %}\n{% endif %}"
        "{%- for message in messages %}{%- if message.tool_calls %}[calls]{% if message.thinking %}"
        "<|start|>assistant<|channel|>analysis<|message|>{{ message.thinking }}<|end|>{% endif %}"
        + _EACH
        + "<|start|>assistant<|channel|>commentary to=functions.{{ call.function.name }} "
        "<|constrain|>json<|message|>{{ call.function.arguments | tojson }}<|call|>{% endfor %}\n"
        "{%- else %}<|start|>{{ message.role }}<|message|>{{ message.content }}<|end|>"
        "{%- endif %}{%- endfor %}{%- if add_generation_prompt %}<|start|>assistant{% endif %}"
    ),
    GENERIC: (
        "{%- for message in messages %}{%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('roles must alternate') }}{% endif %}"
        "[{{ message.role }}]{{ message.content }}\n{%- endfor %}"
    ),
}
