"""Tokenizers that exist as Python code of transformers alone, such as ByT5's and GPT-SW3's.

They offer here what the router uses of a `tokenizers.Tokenizer`, without the speed: encoding holds
the interpreter. transformers is imported only when a model needs it, and without torch, which is
hidden from it: the router computes nothing.
"""

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import AddedToken

from text_generation_router.prompt.model_files import ModelFileError

logger = logging.getLogger(__name__)


class PythonEncoding:
    """Ids of a text, and for each the range of characters [start, stop) that it stands for."""

    def __init__(self, ids: list[int], offsets: Callable[[], list[tuple[int, int]]]) -> None:
        """offsets: asked at most when somebody wants them, for they take long."""
        self.ids = ids
        self._offsets = offsets

    @property
    def offsets(self) -> list[tuple[int, int]]:
        """[0, 0) for special tokens that were added."""
        return self._offsets()


def load_python_tokenizer(directory: Path) -> "PythonTokenizer":
    """The tokenizer of a directory without tokenizer.json; ModelFileError if there is none."""
    path = directory / "tokenizer.json"
    if not (directory / "tokenizer_config.json").is_file():
        raise ModelFileError(f"{path} is missing, and so is tokenizer_config.json")
    # None in place of a module means that it cannot be imported, also if it is installed.
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # that torch is not there
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            directory, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # whatever its many classes raise
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ModelFileError(
            f"{path} is missing, and transformers reads no tokenizer from the other files: {reason}"
        ) from error
    if tokenizer.is_fast:
        raise ModelFileError(
            f"{path} is missing: `text-generation-server download-weights` makes it from the "
            "other files"
        )
    logger.warning(
        "The model's tokenizer is Python code (%s): reading prompts is slow, and grammars are "
        "refused",
        type(tokenizer).__name__,
    )
    return PythonTokenizer(tokenizer)


class PythonTokenizer:
    """A tokenizer of transformers behind the interface of `tokenizers.Tokenizer`."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._ids: dict[str, int] = tokenizer.get_vocab()
        # Whether a token has a text at all, by id, as they are seen: models pad their vocabulary.
        self._has_text: dict[int, bool] = {}
        # No decoder whose parts could be looked at: texts depend on neighbours.
        self.decoder = None

    def encode(self, text: str, *, add_special_tokens: bool = True) -> PythonEncoding:
        """The ids of a text."""
        ids = self._tokenizer.encode(text, add_special_tokens=add_special_tokens)
        return PythonEncoding(ids, lambda: self._offsets(text, ids))

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        """The text of consecutive tokens; ids that stand for nothing are left out."""
        known = [token_id for token_id in ids if self._stands_for_something(token_id)]
        return self._decode(known, skip_special_tokens)

    def get_vocab_size(self, with_added_tokens: bool = True) -> int:
        """Number of tokens."""
        return len(self._tokenizer) if with_added_tokens else self._tokenizer.vocab_size

    def id_to_token(self, id: int) -> str | None:  # noqa: A002
        """The token as the vocabulary writes it."""
        if not self._stands_for_something(id):
            return None
        return str(self._tokenizer.convert_ids_to_tokens(id))

    def token_to_id(self, token: str) -> int | None:
        """The id of a token of the vocabulary."""
        return self._ids.get(token)

    def get_added_tokens_decoder(self) -> dict[int, Any]:
        """Added tokens with `content` and `special`, by id."""
        special = zip(
            self._tokenizer.all_special_ids, self._tokenizer.all_special_tokens, strict=True
        )
        return {
            **self._tokenizer.added_tokens_decoder,
            **{token_id: AddedToken(token, special=True) for token_id, token in special},
        }

    def _offsets(self, text: str, ids: list[int]) -> list[tuple[int, int]]:
        """As far as the growing text of the first tokens tells; the last part of a character has
        it, the parts before have nothing.
        """
        plain = self._tokenizer.encode(text, add_special_tokens=False)
        first = _find(ids, plain)
        offsets, start = [], 0
        for count in range(1, len(plain) + 1):
            grown = len(self._decode(plain[:count], False).rstrip("\ufffd"))
            stop = max(start, min(len(text), grown))
            offsets.append((start, stop))
            start = stop
        after = len(ids) - first - len(plain)
        return [(0, 0)] * first + offsets + [(0, 0)] * after

    def _stands_for_something(self, token_id: int) -> bool:
        known = self._has_text.get(token_id)
        if known is None:
            try:
                self._decode([token_id], False)
                known = True
            except (ValueError, TypeError, KeyError, IndexError):
                known = False
            self._has_text[token_id] = known
        return known

    def _decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        return str(
            self._tokenizer.decode(
                ids, skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False
            )
        )


def _find(ids: list[int], part: list[int]) -> int:
    """Where a part begins that special tokens were put around."""
    for start in range(len(ids) - len(part) + 1):
        if ids[start : start + len(part)] == part:
            return start
    raise ValueError("it reads a text differently when it adds special tokens")
