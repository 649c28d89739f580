"""Makes a model's tokenizer.json where it has only older files, once.

transformers, which knows what each class of tokenizer adds to its files, makes it; what was a
sentencepiece model is then held against sentencepiece itself. A model that transformers serves by
Python code alone (ByT5, GPT-SW3) gets no tokenizer.json: the router runs that code.
"""

import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from text_generation_shard.errors import CheckpointError

logger = logging.getLogger(__name__)

TOKENIZER_FILE = "tokenizer.json"
# Files from which transformers makes a tokenizer.
_SENTENCEPIECE_FILES = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
SOURCE_FILES = (*_SENTENCEPIECE_FILES, "vocab.json", "vocab.txt", "merges.txt")

# Texts without special tokens, in scripts, spaces and characters that conversions tend to lose.
# None begins with a space: Llama's class puts no second one before it, sentencepiece does.
_PROBES = (
    "Hello world",
    "The quick (brown) fox can't jump 32.3 feet, right?",
    "two  spaces and\na line",
    "naïve café, größer",
    "日本語 русский 🎉",
)
# Pieces of the vocabulary that make one more.
_NUM_OWN_WORDS = 64


def has_only_sources(names: Iterable[str]) -> bool:
    """Whether a directory of these files has a tokenizer, but no tokenizer.json."""
    present = set(names)
    return TOKENIZER_FILE not in present and not present.isdisjoint(SOURCE_FILES)


def convert_tokenizer(source: Path, target: Path) -> None:
    """Write tokenizer.json into `target` from the files of `source`.

    CheckpointError if transformers cannot read them.
    """
    tokenizer = _load(source)
    kind = type(tokenizer).__name__
    if not tokenizer.is_fast:
        logger.info("%s has no fast form: the router runs transformers' code for it", kind)
        return
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    _compare(source, kind, backend)
    temporary = target / f".{TOKENIZER_FILE}.{os.getpid()}.tmp"
    try:
        temporary.write_text(backend.to_str(pretty=True), encoding="utf-8")
        temporary.replace(target / TOKENIZER_FILE)
    except OSError as error:
        raise CheckpointError(f"{target / TOKENIZER_FILE}: cannot be written: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)
    logger.info("Made %s from the files of a %s", target / TOKENIZER_FILE, kind)


def _load(source: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(source, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # whatever its many classes raise
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise CheckpointError(
            f"{source}: has no {TOKENIZER_FILE}, and transformers cannot make one of its files: "
            f"{reason}"
        ) from error


def _compare(source: Path, kind: str, backend: Any) -> None:
    """Say where a tokenizer differs from the sentencepiece model that it was made from."""
    path = next((source / n for n in _SENTENCEPIECE_FILES if (source / n).is_file()), None)
    if path is None:
        return
    from sentencepiece import SentencePieceProcessor

    try:
        original = SentencePieceProcessor(model_file=str(path))
    except RuntimeError as error:  # also not a sentencepiece model: tiktoken has such names too
        logger.info("%s is no sentencepiece model to compare with: %s", path.name, error)
        return
    for text in (*_PROBES, _own_words(original)):
        pieces = [original.id_to_piece(token_id) for token_id in original.encode(text)]
        ids = backend.encode(text, add_special_tokens=False).ids
        tokens = [backend.id_to_token(token_id) for token_id in ids]
        if tokens != pieces:
            logger.warning(
                "The tokenizer made from %s as a %s differs from sentencepiece: %r becomes %s, not "
                "%s. If that is not meant, name the right tokenizer_class in tokenizer_config.json",
                path.name,
                kind,
                text,
                tokens,
                pieces,
            )
            return


def _own_words(original: Any) -> str:
    """A text of the vocabulary's longest pieces: there unigrams and merges come apart."""
    pieces = [
        original.id_to_piece(token_id)
        for token_id in range(original.get_piece_size())
        if not (
            original.is_control(token_id)
            or original.is_unknown(token_id)
            or original.is_unused(token_id)
            or original.is_byte(token_id)
        )
    ]
    longest = sorted(pieces, key=len)[-_NUM_OWN_WORDS:]
    return "".join(longest).replace("\u2581", " ").strip()
