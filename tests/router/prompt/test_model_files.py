"""What the files of a model's directory say."""

import json
from pathlib import Path
from typing import Any

import pytest
import transformers
from text_generation_router.prompt.conversation import (
    ChatTemplates,
    Conversation,
    TemplateVariableError,
    ToolsUnsupportedError,
)
from text_generation_router.prompt.model_files import (
    ModelFileError,
    PromptFiles,
    read_prompt_files,
)
from text_generation_router.prompt.tokenizer import TokenizerPool, load_tokenizer

from tests.fakes.byte_tokenizer import save_byte_tokenizer

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


def test_templates_beside_the_main_one(tmp_path: Path) -> None:
    """As transformers: files take the place of all templates in the settings, also without a main
    one.
    """
    write(tmp_path, tokenizer_config__json={"chat_template": "config"})
    write(tmp_path, chat_template__json={"chat_template": "json"})
    (tmp_path / "additional_chat_templates").mkdir()
    write(tmp_path / "additional_chat_templates", rag__jinja="rag", tool_use__jinja="tools")
    assert read_prompt_files(tmp_path).chat_templates == {"rag": "rag", "tool_use": "tools"}
    write(tmp_path, chat_template__jinja="jinja")
    expected = {"default": "jinja", "rag": "rag", "tool_use": "tools"}
    assert read_prompt_files(tmp_path).chat_templates == expected
    reference = reference_tokenizer(tmp_path)
    assert reference.chat_template == expected


async def test_a_template_chosen_by_name(tmp_path: Path) -> None:
    named = [
        {"name": "default", "template": "plain"},
        {"name": "rag", "template": "{{ documents[0].text }}: {{ messages[0].content }}"},
    ]
    write(tmp_path, tokenizer_config__json={"chat_template": named})
    templates = ChatTemplates(read_prompt_files(tmp_path))
    documents = [{"title": "a", "text": "page"}]
    chosen = Conversation(
        messages=CONVERSATION.messages, documents=documents, variables={"chat_template": "rag"}
    )
    assert await templates.render(CONVERSATION) == "plain"
    assert await templates.render(chosen) == "page: Hi"
    assert reference_tokenizer(tmp_path).apply_chat_template(
        CONVERSATION.messages, tokenize=False, chat_template="rag", documents=documents
    ) == await templates.render(chosen)
    for name in ("no", ["rag"]):
        unknown = Conversation(messages=CONVERSATION.messages, variables={"chat_template": name})
        with pytest.raises(TemplateVariableError, match=r"is none of the model's \(default, rag\)"):
            await templates.render(unknown)


def test_a_broken_template_is_named_though_nobody_uses_it(tmp_path: Path) -> None:
    (tmp_path / "additional_chat_templates").mkdir()
    write(tmp_path / "additional_chat_templates", rag__jinja="{% for %}")
    with pytest.raises(ModelFileError, match="chat template 'rag'"):
        ChatTemplates(read_prompt_files(tmp_path))


SPECIAL = {
    "bos_token": "<s>",
    "eos_token": {"__type": "AddedToken", "content": "<end>"},
    "extra_special_tokens": {"image_token": "<image>"},
    "added_tokens_decoder": {
        "261": {"content": "<end>", "special": True},
        "262": {"content": "<tool>", "special": False, "normalized": False},
        "0": {"content": "<pad>", "special": True},
    },
}


def test_tokens_that_the_settings_add(tmp_path: Path) -> None:
    """Two that tokenizer.json lacks, one of them special, get the ids that transformers gives."""
    save_byte_tokenizer(tmp_path)
    write(tmp_path, tokenizer_config__json=SPECIAL)
    files = read_prompt_files(tmp_path)
    assert files.special_tokens == {
        "bos_token": "<s>",
        "eos_token": "<end>",
        "image_token": "<image>",
    }
    tokenizer = load_tokenizer(tmp_path, files.added_tokens)
    reference = reference_tokenizer(tmp_path)
    text = "a<end>b <tool>c<s>"
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert ids == reference.encode(text, add_special_tokens=False)
    assert [ids[1], ids[4]] == [261, 262]
    decoded = tokenizer.decode(ids, skip_special_tokens=True)
    assert decoded == reference.decode(ids, skip_special_tokens=True) == "ab <tool>c"


def test_a_flag_that_the_settings_change(tmp_path: Path) -> None:
    save_byte_tokenizer(tmp_path)
    entry = {"content": "<|im_start|>", "special": False, "normalized": False}
    write(tmp_path, tokenizer_config__json={"added_tokens_decoder": {"3": entry}})
    pool = TokenizerPool(load_tokenizer(tmp_path, read_prompt_files(tmp_path).added_tokens), 1)
    assert 3 not in pool.special_texts
    assert pool.added_ids["<|im_start|>"] == 3
    pool.close()


def test_special_tokens_of_older_checkpoints(tmp_path: Path) -> None:
    write(tmp_path, special_tokens_map__json={"eos_token": {"content": "</s>"}, "sep_token": "|"})
    write(tmp_path, tokenizer_config__json={"eos_token": "old", "bos_token": "<s>"})
    tokens = read_prompt_files(tmp_path).special_tokens
    assert tokens == {"eos_token": "</s>", "sep_token": "|", "bos_token": "<s>"}


def test_added_tokens_that_are_none(tmp_path: Path) -> None:
    write(tmp_path, tokenizer_config__json={"added_tokens_decoder": {"x": {}}})
    with pytest.raises(ModelFileError, match="added_tokens_decoder of tokenizer_config"):
        read_prompt_files(tmp_path)


def reference_tokenizer(directory: Path) -> Any:
    """transformers' reading of the same files."""
    if not (directory / "tokenizer.json").exists():
        save_byte_tokenizer(directory)
    return transformers.PreTrainedTokenizerFast.from_pretrained(directory)


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


async def test_a_template_with_an_unknown_format_of_calls_gets_no_tools() -> None:
    templates = ChatTemplates(PromptFiles(chat_templates={"default": "{{ tools }}"}))
    conversation = Conversation(messages=CONVERSATION.messages, tools=[{"type": "function"}])
    with pytest.raises(ToolsUnsupportedError, match=r"not supported yet \(supported: .*Hermes"):
        await templates.render(conversation)


def test_a_template_that_does_not_compile_stops_the_start() -> None:
    with pytest.raises(ModelFileError, match="default"):
        ChatTemplates(PromptFiles(chat_templates={"default": "{% if %}"}))
