"""A byte-level BPE tokenizer of any size, made without a corpus and without network.

Its entries are the 256 bytes, then strings of letters in order of length, with and without a space
in front, until the vocabulary is full: words are cut into pieces of two to four letters.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from string import ascii_lowercase
from typing import Any

SPACE = "\u0120"  # how byte-level BPE writes a space: the letter Ġ
SPECIAL_TOKENS = ("<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True)
class Vocabulary:
    """Token strings by id, and the merges that make those of several letters."""

    tokens: list[str]
    merges: list[tuple[str, str]]


def make_vocabulary(size: int) -> Vocabulary:
    """Exactly `size` entries; special tokens come first.

    Raises ValueError when not even the bytes fit.
    """
    tokens = [*SPECIAL_TOKENS, *_byte_letters()]
    if size < len(tokens):
        raise ValueError(f"a byte-level vocabulary has at least {len(tokens)} entries, got {size}")
    merges: list[tuple[str, str]] = []
    for left, right in _merges():
        if len(tokens) == size:
            break
        tokens.append(left + right)
        merges.append((left, right))
    return Vocabulary(tokens, merges)


def write_tokenizer(folder: Path, size: int, max_length: int) -> None:
    """tokenizer.json and tokenizer_config.json, with a ChatML template."""
    vocabulary = make_vocabulary(size)
    (folder / "tokenizer.json").write_text(
        json.dumps(_tokenizer(vocabulary), ensure_ascii=False), encoding="utf-8"
    )
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "model_max_length": max_length,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def _byte_letters() -> list[str]:
    """The printable stand-in of every byte, in byte order (GPT-2's table)."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    letters, num_others = [], 0
    for byte in range(256):
        if byte in printable:
            letters.append(chr(byte))
        else:
            letters.append(chr(256 + num_others))
            num_others += 1
    return letters


def _merges() -> Iterator[tuple[str, str]]:
    """Pairs whose parts are bytes or were yielded joined before, without end."""
    level = [SPACE, *ascii_lowercase]
    while True:
        grown = []
        for left in level:
            for right in ascii_lowercase:
                yield left, right
                grown.append(left + right)
        level = grown


def _tokenizer(vocabulary: Vocabulary) -> dict[str, Any]:
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": True,
    }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": index,
                "content": token,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for index, token in enumerate(SPECIAL_TOKENS)
        ],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "<s>", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
            ],
            "pair": [
                {"SpecialToken": {"id": "<s>", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
                {"Sequence": {"id": "B", "type_id": 1}},
            ],
            "special_tokens": {
                "<s>": {"id": "<s>", "ids": [SPECIAL_TOKENS.index("<s>")], "tokens": ["<s>"]}
            },
        },
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: index for index, token in enumerate(vocabulary.tokens)},
            "merges": [list(pair) for pair in vocabulary.merges],
        },
    }
