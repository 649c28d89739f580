"""Prompts of an exact number of tokens."""

import random
from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from text_generation_router.prompt.model_files import ModelFileError
from text_generation_router.prompt.tokenizer import load_tokenizer

from text_generation_benchmark.errors import BenchmarkError

# The text that TGI's tool reads too.
_TEXT = """
Lorem ipsum dolor sit amet, consectetur adipiscing elit, sed do eiusmod tempor incididunt ut labore
et dolore magna aliqua. Ut enim ad minim veniam, quis nostrud exercitation ullamco laboris nisi ut
aliquip ex ea commodo consequat. Duis aute irure dolor in reprehenderit in voluptate velit esse
cillum dolore eu fugiat nulla pariatur. Excepteur sint occaecat cupidatat non proident, sunt in
culpa qui officia deserunt mollit anim id est laborum.
"""
_WORDS = tuple(_TEXT.replace(",", "").replace(".", "").split())


def random_words(source: random.Random, num_tokens: int) -> str:
    """A text of at least so many tokens: a word has one or more."""
    return " ".join(source.choices(_WORDS, k=num_tokens))


def random_ids(source: random.Random, num_tokens: int, vocab_size: int) -> list[int]:
    """Any tokens of the vocabulary."""
    return source.choices(range(vocab_size), k=num_tokens)


def text_ids(name: str, revision: str, num_tokens: int) -> list[int]:
    """The first tokens of a text, repeated as often as need be, by the tokenizer of a local
    directory or of a model on the hub.
    """
    directory = Path(name)
    if not directory.is_dir():
        directory = _download(name, revision)
    try:
        tokenizer = load_tokenizer(directory)
    except (ModelFileError, OSError) as error:
        raise BenchmarkError(f"--tokenizer-name {name}: {error}") from error
    text = _TEXT
    while len(ids := list(tokenizer.encode(text).ids)) < num_tokens:
        text += text
    return ids[:num_tokens]


def _download(name: str, revision: str) -> Path:
    try:
        return Path(hf_hub_download(name, "tokenizer.json", revision=revision)).parent
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise BenchmarkError(
            f"--tokenizer-name {name} is no local directory, and not on the hub: {reason}"
        ) from error
