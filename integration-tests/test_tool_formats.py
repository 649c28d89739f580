"""Tools and reasoning with chat templates of other models, by real clients: the demo model is weak,
its grammar holds.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import jsonschema
import openai
import pytest

PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 20},
        "unit": {"enum": ["celsius", "fahrenheit"]},
    },
    "required": ["city", "unit"],
}
WEATHER: Any = {
    "type": "function",
    "function": {"name": "get_weather", "parameters": PARAMETERS},
}
CLOCK: Any = {"type": "function", "function": {"name": "clock"}}
ASK: Any = [{"role": "user", "content": "What is the weather in Paris?"}]
_MESSAGE = "{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
_OPENS = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
TEMPLATES = {
    "mistral": (
        "{% for tool in tools %}{{ tool | tojson }}{% endfor %}{% for message in messages %}"
        "{% if message.tool_calls %}{% for call in message.tool_calls %}[TOOL_CALLS]"
        "{{ call.function.name }}[ARGS]{{ call.function.arguments | tojson }}{% endfor %}"
        "{% else %}" + _MESSAGE + "{% endif %}{% endfor %}" + _OPENS
    ),
    "deepseek": (
        "{% for tool in tools %}{{ tool | tojson }}{% endfor %}{% for message in messages %}"
        "{% if message.tool_calls %}{{ '<｜tool▁calls▁begin｜>' }}"
        "{% for call in message.tool_calls %}{{ '<｜tool▁call▁begin｜>' + call.function.name + "
        "'<｜tool▁sep｜>' + call.function.arguments + '<｜tool▁call▁end｜>' }}{% endfor %}"
        "{{ '<｜tool▁calls▁end｜>' }}{% else %}" + _MESSAGE + "{% endif %}{% endfor %}" + _OPENS
    ),
    "without tools": "{% for message in messages %}" + _MESSAGE + "{% endfor %}" + _OPENS,
}


@pytest.fixture(scope="module", params=TEMPLATES)
def foreign(request: Any, launch: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The demo model behind another model's template."""
    path: Path = tmp_path_factory.mktemp("template") / "tokenizer_config.json"
    settings = {"eos_token": "<|im_end|>", "chat_template": TEMPLATES[request.param]}
    path.write_text(json.dumps(settings), encoding="utf-8")
    with launch("--tokenizer-config-path", str(path)) as found:
        yield found


@pytest.fixture
def client(foreign: Any) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{foreign.base_url}/v1", api_key="-", max_retries=0) as found:
        yield found


def test_forced_calls_and_their_results(client: openai.OpenAI) -> None:
    options: Any = {
        "model": "tgi",
        "messages": ASK,
        "tools": [WEATHER, CLOCK],
        "tool_choice": {"type": "function", "function": {"name": "get_weather"}},
        "max_tokens": 200,
        "temperature": 0,
    }
    choice = client.chat.completions.create(**options).choices[0]
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls
    assert call.function.name == "get_weather"
    jsonschema.validate(json.loads(call.function.arguments), PARAMETERS)
    chunks = [chunk.choices[0] for chunk in client.chat.completions.create(**options, stream=True)]
    pieces = [part.function for chunk in chunks for part in chunk.delta.tool_calls or []]
    assert [piece.name for piece in pieces if piece.name] == ["get_weather"]
    assert "".join(piece.arguments or "" for piece in pieces) == call.function.arguments
    assert chunks[-1].finish_reason == "tool_calls"
    result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    messages = [*ASK, choice.message.to_dict(), result]
    answer = client.chat.completions.create(
        model="tgi", messages=messages, tools=[WEATHER, CLOCK], max_tokens=5
    )
    assert answer.choices[0].message.content is not None


def test_required_calls_of_the_other_dialects(client: openai.OpenAI, foreign: Any) -> None:
    tool: Any = {"name": "get_weather", "parameters": PARAMETERS, "type": "function"}
    response = client.responses.create(
        model="tgi",
        input="What is the weather?",
        tools=[tool],
        tool_choice="required",
        parallel_tool_calls=False,
        max_output_tokens=200,
    )
    (call,) = response.output
    jsonschema.validate(json.loads(call.arguments), PARAMETERS)
    with anthropic.Anthropic(base_url=foreign.base_url, api_key="-", max_retries=0) as messages:
        message = messages.messages.create(
            model="tgi",
            max_tokens=200,
            messages=ASK,
            tools=[{"name": "get_weather", "input_schema": PARAMETERS}],
            tool_choice={"type": "any", "disable_parallel_tool_use": True},
        )
    (block,) = message.content
    assert message.stop_reason == "tool_use"
    jsonschema.validate(block.input, PARAMETERS)


def test_the_model_may_answer_without_a_call(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="tgi", messages=ASK, tools=[WEATHER], max_tokens=20, temperature=0
    )
    assert answer.choices[0].message.content or answer.choices[0].message.tool_calls


def test_an_answer_is_a_call_or_follows_its_format(client: openai.OpenAI) -> None:
    """The choice is the model's, also where calls are JSON without any mark."""
    schema: Any = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"enum": [1, 2, 3]}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    for seed in range(8):
        answer = client.chat.completions.create(
            model="tgi",
            messages=ASK,
            tools=[WEATHER],
            response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": schema}},
            max_tokens=300,
            temperature=1.5,
            seed=seed,
        )
        message = answer.choices[0].message
        assert bool(message.tool_calls) != bool(message.content)
        for call in message.tool_calls or []:
            assert call.type == "function"
            jsonschema.validate(json.loads(call.function.arguments), PARAMETERS)
        if message.content:
            jsonschema.validate(json.loads(message.content), schema)
