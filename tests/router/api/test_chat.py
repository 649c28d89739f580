"""OpenAI's chat requests: messages, tools, limits, and what is refused."""

from contextlib import closing
from typing import Any

import msgspec
import pytest
from text_generation_router.api import chat
from text_generation_router.api.chat_messages import template_messages, template_tools
from text_generation_router.api.chat_types import ChatBody, Message
from text_generation_router.api.errors import (
    TemplateError,
    ToolError,
    ValidationError,
)
from text_generation_router.api.tool_choice import read_tool_choice
from text_generation_router.grammar.compiler import GrammarCompiler
from text_generation_router.prompt.conversation import ChatTemplates
from text_generation_router.prompt.model_files import PromptFiles
from text_generation_router.prompt.tokenizer import TokenizerPool
from text_generation_router.prompt.tool_formats import HERMES

from tests.fakes.router_app import CHATML, make_limits

MESSAGES = [{"role": "user", "content": "Hi"}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


async def prepare(
    tokenizer: TokenizerPool, template: str = CHATML, **fields: Any
) -> chat.ChatGeneration:
    body = msgspec.convert({"messages": MESSAGES, **fields}, ChatBody)
    templates = ChatTemplates(PromptFiles(chat_templates={"default": template}))
    with closing(GrammarCompiler()) as grammars:
        return await chat.prepare(
            body,
            limits=make_limits(),
            tokenizer=tokenizer,
            templates=templates,
            grammars=grammars,
        )


async def test_the_template_makes_the_prompt(tokenizer: TokenizerPool) -> None:
    wanted = await prepare(tokenizer)
    text = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert wanted.prompt.text == text
    assert tokenizer.text(wanted.prompt.token_ids) == text
    assert not wanted.requests[0].keep_stop_sequence


async def test_null_is_absent_everywhere(tokenizer: TokenizerPool) -> None:
    fields = dict.fromkeys(ChatBody.__struct_fields__)
    fields.update(messages=[{**dict.fromkeys(Message.__struct_fields__), **MESSAGES[0]}])
    wanted = await prepare(tokenizer, **fields)
    assert len(wanted.requests) == 1
    assert wanted.requests[0].max_new_tokens == 500 - len(wanted.prompt.token_ids)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"max_tokens": 5}, 5),
        ({"max_completion_tokens": 6}, 6),
        ({"max_tokens": 5, "max_completion_tokens": 6}, 6),
    ],
)
async def test_both_names_of_the_limit(
    tokenizer: TokenizerPool, fields: dict[str, Any], expected: int
) -> None:
    assert (await prepare(tokenizer, **fields)).requests[0].max_new_tokens == expected


async def test_a_trailing_assistant_message_is_continued(tokenizer: TokenizerPool) -> None:
    messages = [*MESSAGES, {"role": "assistant", "content": "Well, "}]
    assert (await prepare(tokenizer, messages=messages)).prompt.text.endswith("assistant\nWell,")
    new_turn = await prepare(tokenizer, messages=messages, continue_final_message=False)
    assert new_turn.prompt.text.endswith("<|im_start|>assistant\n")


async def test_templates_get_their_variables(tokenizer: TokenizerPool) -> None:
    wanted = await prepare(
        tokenizer,
        template="{{ enable_thinking }} {{ reasoning_effort }}",
        chat_template_kwargs={"enable_thinking": False},
        reasoning_effort="low",
    )
    assert wanted.prompt.text == "False low"


async def test_documents_reach_a_template_that_shows_them(tokenizer: TokenizerPool) -> None:
    documents = [{"title": "t", "text": "x"}]
    template = "{% for d in documents %}[{{ d.title }}: {{ d.text }}]{% endfor %}"
    wanted = await prepare(tokenizer, template=template, documents=documents)
    assert wanted.prompt.text == "[t: x]"


async def test_the_prompt_may_end_before_the_model_s_turn(tokenizer: TokenizerPool) -> None:
    closed = await prepare(tokenizer, add_generation_prompt=False)
    assert closed.prompt.text == "<|im_start|>user\nHi<|im_end|>\n"
    messages = [*MESSAGES, {"role": "assistant", "content": "So"}]
    opened = await prepare(tokenizer, messages=messages, add_generation_prompt=True)
    assert opened.prompt.text.endswith("So<|im_end|>\n<|im_start|>assistant\n")


async def test_switches_that_the_template_does_not_have_switch_nothing(
    tokenizer: TokenizerPool,
) -> None:
    wanted = await prepare(
        tokenizer, chat_template_kwargs={"enable_thinking": False}, reasoning_effort="low"
    )
    assert wanted.prompt == (await prepare(tokenizer)).prompt


async def test_tools_are_shown_and_parsed(tokenizer: TokenizerPool) -> None:
    wanted = await prepare(tokenizer, tools=[TOOL], parallel_tool_calls=False)
    assert '"name": "f"' in wanted.prompt.text
    assert wanted.tool_format is HERMES
    assert wanted.max_tool_calls == 1


@pytest.mark.parametrize("fields", [{"tools": []}, {"tools": [TOOL], "tool_choice": "none"}])
async def test_no_tools_are_shown(tokenizer: TokenizerPool, fields: dict[str, Any]) -> None:
    wanted = await prepare(tokenizer, **fields)
    assert wanted.tool_format is None
    assert wanted.prompt.text == (await prepare(tokenizer)).prompt.text


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages[0].content",
        ),
        (
            {"messages": [{"role": "assistant", "content": "x", "function_call": {"name": "f"}}]},
            "messages[0].function_call",
        ),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": 500}, "max_completion_tokens"),
        ({"top_logprobs": 6}, "top_logprobs"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format"),
        ({"response_format": "text"}, "response_format"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"function_call": {"name": "f"}}, "function_call"),
        ({"audio": {"voice": "x"}}, "audio"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"web_search_options": {}}, "web_search_options"),
        (
            {"add_generation_prompt": True, "continue_final_message": True},
            "add_generation_prompt",
        ),
        ({"documents": [{"title": "t", "text": "x"}]}, "documents"),
        ({"chat_template_kwargs": {"tenperature": 1}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"bos_token": "x"}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"raise_exception": "x"}}, "chat_template_kwargs"),
        ({"continue_final_message": True}, "continue_final_message"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"n": 9}, "n"),
    ],
)
async def test_refused_by_name(
    tokenizer: TokenizerPool, fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        await prepare(tokenizer, **fields)
    assert caught.value.param == param
    assert f"`{param.split('[', maxsplit=1)[0]}" in str(caught.value)


@pytest.mark.parametrize("choice", ["g", {"type": "function", "function": {}}, 5, ""])
async def test_tools_that_cannot_be_chosen(tokenizer: TokenizerPool, choice: Any) -> None:
    with pytest.raises(ToolError, match=r"not found|`tool_choice` must be"):
        await prepare(tokenizer, tools=[TOOL], tool_choice=choice)
    with pytest.raises(ToolError, match="needs `tools`"):
        await prepare(tokenizer, tool_choice=choice)


async def test_what_a_template_refuses(tokenizer: TokenizerPool) -> None:
    with pytest.raises(TemplateError, match="no"):
        await prepare(tokenizer, template="{{ raise_exception('no') }}")
    with pytest.raises(ToolError, match="`tools`"):
        await prepare(tokenizer, template="{{ messages }}{{ tools }}", tools=[TOOL])


def shown(message: dict[str, Any]) -> dict[str, Any]:
    return template_messages([msgspec.convert(message, Message)])[0]


def test_parts_are_joined() -> None:
    parts = [
        {"type": "text", "text": "a", "image_url": None},
        {"type": "text", "text": "b"},
    ]
    assert shown({"role": "user", "content": parts}) == {"role": "user", "content": "ab"}


def test_calls_of_the_history_have_objects_as_arguments() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    assert shown({"role": "assistant", "content": None, "tool_calls": [call]}) == {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}}
        ],
    }


def test_calls_keep_their_message_s_text() -> None:
    call = {"function": {"name": "f", "arguments": "not JSON"}}
    message = shown({"role": "assistant", "content": "", "tool_calls": [call]})
    assert message["tool_calls"][0]["function"]["arguments"] == "not JSON"


def test_a_tool_s_answer_keeps_its_id_and_name() -> None:
    message = {"role": "tool", "content": "21", "tool_call_id": "1", "name": "f"}
    assert shown(message) == message


def test_tools_without_parameters() -> None:
    body = msgspec.convert(
        {"messages": [], "tools": [{"type": "function", "function": {"name": "f"}}]}, ChatBody
    )
    assert template_tools(read_tool_choice(body).functions) == [
        {
            "type": "function",
            "function": {"name": "f", "parameters": {"type": "object", "properties": {}}},
        }
    ]
