"""What the files of a model's directory say."""

import json
from pathlib import Path
from typing import Any

import pytest
from text_generation_router.prompt.conversation import (
    ChatTemplates,
    Conversation,
    ToolsUnsupportedError,
)
from text_generation_router.prompt.model_files import (
    ModelFileError,
    PromptFiles,
    read_prompt_files,
)

CONVERSATION = Conversation(messages=[{"role": "user", "content": "Hi"}])


def write(directory: Path, **files: Any) -> Path:
    for name, content in files.items():
        path = directory / name.replace("__", ".")
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return directory


def test_an_empty_directory_has_nothing(tmp_path: Path) -> None:
    assert read_prompt_files(tmp_path) == PromptFiles()


def test_special_tokens_as_string_or_object(tmp_path: Path) -> None:
    config = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "unk_token": None}
    files = read_prompt_files(write(tmp_path, tokenizer_config__json=config))
    assert files.special_tokens == {"bos_token": "<s>", "eos_token": "</s>"}


@pytest.mark.parametrize(
    ("generation", "config", "ids"),
    [
        ({"eos_token_id": 2}, {"eos_token_id": 9}, {2}),
        ({"eos_token_id": [2, 3]}, {}, {2, 3}),
        ({}, {"eos_token_id": 9}, {9}),
        ({"eos_token_id": None}, {"eos_token_id": True}, set()),
    ],
)
def test_eos_ids(
    tmp_path: Path, generation: dict[str, Any], config: dict[str, Any], ids: set[int]
) -> None:
    write(tmp_path, generation_config__json=generation, config__json=config)
    assert read_prompt_files(tmp_path).eos_token_ids == ids


def test_templates_in_files_of_their_own_come_first(tmp_path: Path) -> None:
    write(tmp_path, tokenizer_config__json={"chat_template": "config"})
    assert read_prompt_files(tmp_path).chat_templates == {"default": "config"}
    write(tmp_path, chat_template__json={"chat_template": "json"})
    assert read_prompt_files(tmp_path).chat_templates == {"default": "json"}
    write(tmp_path, chat_template__jinja="jinja")
    assert read_prompt_files(tmp_path).chat_templates == {"default": "jinja"}


def test_a_named_file_comes_before_the_directory(tmp_path: Path) -> None:
    write(tmp_path, chat_template__jinja="jinja", other__json={"chat_template": "other"})
    files = read_prompt_files(tmp_path, tmp_path / "other.json")
    assert files.chat_templates == {"default": "other"}


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="--tokenizer-config-path"):
        read_prompt_files(tmp_path, tmp_path / "missing.json")


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"tokenizer_config\.json"):
        read_prompt_files(write(tmp_path, tokenizer_config__json="{"))


async def test_named_templates(tmp_path: Path) -> None:
    named = [
        {"name": "default", "template": "plain"},
        {"name": "tool_use", "template": "{{ tools }} <tool_call>"},
    ]
    files = read_prompt_files(write(tmp_path, tokenizer_config__json={"chat_template": named}))
    templates = ChatTemplates(files)
    tools = [{"type": "function", "function": {"name": "f"}}]
    assert await templates.render(CONVERSATION) == "plain"
    with_tools = Conversation(messages=CONVERSATION.messages, tools=tools)
    assert "'f'" in await templates.render(with_tools)


@pytest.mark.parametrize(
    ("template", "reason"),
    [("plain", "does not support tools"), ("{{ tools }}", "not supported yet")],
)
async def test_tools_need_a_template_for_them(template: str, reason: str) -> None:
    templates = ChatTemplates(PromptFiles(chat_templates={"default": template}))
    with pytest.raises(ToolsUnsupportedError, match=reason):
        await templates.render(
            Conversation(messages=CONVERSATION.messages, tools=[{"type": "function"}])
        )


def test_a_template_that_does_not_compile_stops_the_start() -> None:
    with pytest.raises(ModelFileError, match="default"):
        ChatTemplates(PromptFiles(chat_templates={"default": "{% if %}"}))
