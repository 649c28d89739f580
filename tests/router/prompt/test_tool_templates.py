"""Templates tell the format of calls, and show earlier calls in it."""

import json
from typing import Any

import pytest
from text_generation_router.prompt.chat_template import ChatTemplateError
from text_generation_router.prompt.conversation import ChatTemplates, Conversation
from text_generation_router.prompt.model_files import PromptFiles
from text_generation_router.prompt.tool_calls import AnswerText, ToolCallParser
from text_generation_router.prompt.tool_formats import (
    DEEPSEEK,
    GENERIC,
    HERMES,
    LLAMA,
    MISTRAL,
    ToolFormat,
)

from tests.router.prompt.answers import FUNCTIONS
from tests.router.prompt.templates import TEMPLATES

ARGUMENTS = {"city": "Köln", "days": 3}
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": schema}}
    for name, schema in FUNCTIONS.items()
]
every_format = pytest.mark.parametrize("known", TEMPLATES, ids=lambda known: known.name)


def called(name: str, arguments: Any, call_id: str) -> dict[str, Any]:
    return {
        "type": "function",
        "id": call_id,
        "function": {"name": name, "arguments": arguments},
    }


def history(*calls: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"role": "user", "content": "What is the weather?"},
        {"role": "assistant", "content": "", "tool_calls": list(calls)},
        *(
            {
                "role": "tool",
                "content": "sunny",
                "name": call["function"]["name"],
                "tool_call_id": call["id"],
            }
            for call in calls
        ),
    ]


def templates_of(template: str) -> ChatTemplates:
    return ChatTemplates(PromptFiles(chat_templates={"default": template}))


@every_format
async def test_the_template_tells_the_format(known: ToolFormat) -> None:
    templates = templates_of(TEMPLATES[known])
    assert templates.tool_format is known
    messages = [{"role": "user", "content": "hi"}]
    prompt = await templates.render(Conversation(messages=messages, tools=TOOLS))
    assert '"get_weather"' in prompt and '"clock"' in prompt


@every_format
async def test_earlier_calls_are_shown_as_the_model_writes_them(known: ToolFormat) -> None:
    """Its own parser finds them again in the prompt."""
    calls = [called("get_weather", ARGUMENTS, "toolu_0123"), called("clock", {}, "toolu_4567")]
    if known is LLAMA:
        del calls[1:]
    conversation = Conversation(messages=history(*calls), tools=TOOLS)
    prompt = await templates_of(TEMPLATES[known]).render(conversation)
    shown = prompt.partition("[assistant]" if known is GENERIC else "[calls]")[2]
    parser = ToolCallParser(known, FUNCTIONS)
    parts = parser.feed(shown) + parser.finish()
    found = [(p.name, json.loads(p.arguments)) for p in parts if not isinstance(p, AnswerText)]
    assert found == [("get_weather", ARGUMENTS), ("clock", {})][: len(calls)]
    assert "sunny" in shown


async def test_ids_have_the_form_that_the_template_insists_on() -> None:
    template = TEMPLATES[MISTRAL].replace("[ARGS]", "[CALL_ID]{{ call.id }}[ARGS]")
    template = template.replace("{{ message.content }}", "{{ message.tool_call_id }}")
    ids = ["a1b2c3d4e", "toolu_0123", "call-0001"]
    messages = history(*(called("clock", {}, call_id) for call_id in ids))
    prompt = await templates_of(template).render(Conversation(messages=messages))
    shown = [part.partition("[ARGS]")[0] for part in prompt.split("[CALL_ID]")[1:]]
    assert shown[0] == ids[0]
    assert all(len(call_id) == 9 and call_id.isalnum() for call_id in shown)
    assert [part.partition("[")[0] for part in prompt.split("[tool]")[1:]] == shown


async def test_text_beside_calls_is_kept() -> None:
    messages = history(called("clock", {}, "0"))
    messages[1]["content"] = "Let me see."
    template = "{{ messages[1].content }}{% if tools %}{{ messages[1].tool_calls }}{% endif %}"
    assert await templates_of(template).render(Conversation(messages=messages)) == "Let me see."
    assert "Let me see." in await templates_of(TEMPLATES[DEEPSEEK]).render(
        Conversation(messages=messages)
    )


async def test_a_template_without_tools_is_told_them_in_the_last_message() -> None:
    templates = templates_of(TEMPLATES[GENERIC])
    messages = [{"role": "user", "content": "hi"}]
    prompt = await templates.render(Conversation(messages=messages, tools=TOOLS[1:]))
    head, _, tools = prompt.partition("\n---\n")
    assert head == "[user]hi"
    shown, _, instruction = tools.partition("\n")
    assert json.loads(shown) == TOOLS[1:]
    assert '{"name": ' in instruction and '"parameters": ' in instruction
    own = Conversation(messages=messages, tools=TOOLS, tool_prompt="Use them so:")
    assert (await templates.render(own)).endswith("]\nUse them so:")
    known = await templates_of(TEMPLATES[HERMES]).render(own)
    assert "[user]hi\n---\nUse them so:" in known


async def test_results_join_the_message_that_follows() -> None:
    """So that roles alternate, as many templates want it."""
    messages = history(called("clock", {}, "0"), called("get_weather", ARGUMENTS, "1"))
    messages.append({"role": "user", "content": "And now?"})
    prompt = await templates_of(TEMPLATES[GENERIC]).render(Conversation(messages=messages))
    assert prompt.endswith("[user]Result of clock: sunny\nResult of get_weather: sunny\nAnd now?")
    with pytest.raises(ChatTemplateError, match="alternate"):
        doubled = [{"role": "user", "content": "a"}] * 2
        await templates_of(TEMPLATES[GENERIC]).render(Conversation(messages=doubled))


async def test_the_style_of_a_template_that_cannot_do_without_tools_is_found() -> None:
    template = "{% for tool in tools %}{% endfor %}" + TEMPLATES[DEEPSEEK]
    messages = history(called("clock", {}, "0"))
    prompt = await templates_of(template).render(Conversation(messages=messages, tools=TOOLS))
    assert "<｜tool▁sep｜>clock\n```json\n{}" in prompt
