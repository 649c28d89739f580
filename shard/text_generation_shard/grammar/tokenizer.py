"""llguidance's view of the vocabulary: the bytes of every token, as a tree to walk along."""

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llguidance import LLTokenizer

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class GrammarTokenizer:
    """The tokenizer, or in one line why there is none."""

    tokenizer: "LLTokenizer | None" = None
    error: str = ""


NOT_ASKED_FOR = GrammarTokenizer(error="grammars were not asked for at warmup")


def load_grammar_tokenizer(
    model_path: Path, *, vocab_size: int, eos_token_ids: Sequence[int]
) -> GrammarTokenizer:
    """Read tokenizer.json; the interpreter waits meanwhile, up to a second for a large vocabulary.

    vocab_size: entries of the model's vocabulary, of which the tokenizer may name fewer.
    """
    if not eos_token_ids:
        return NOT_ASKED_FOR
    started = time.monotonic()
    path = model_path / "tokenizer.json"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        return GrammarTokenizer(error=f"{path.name} cannot be read: {error}")
    # Not at the top: a process that never sees a grammar does without.
    from llguidance import LLTokenizer

    try:
        text = _with_known_decoder(text)
        tokenizer = LLTokenizer(text, n_vocab=vocab_size, eos_token=list(eos_token_ids))
    except ValueError as error:
        return GrammarTokenizer(error=f"{path.name}: {' '.join(str(error).split())}")
    seconds = round(time.monotonic() - started, 3)
    logger.info("Prepared grammars", extra={"fields": {"seconds": seconds}})
    return GrammarTokenizer(tokenizer)


def _with_known_decoder(text: str) -> str:
    """A tokenizer.json that llguidance reads. It has no word for a decoder that is Metaspace alone
    (T5): every token is its text, with a space for each replacement. Raises ValueError for what is
    not JSON.
    """
    if '"Metaspace"' not in text:
        return text
    tokenizer = json.loads(text)
    decoder = tokenizer.get("decoder") or {}
    if decoder.get("type") != "Metaspace":
        return text
    space = {"type": "Replace", "pattern": {"String": decoder["replacement"]}, "content": " "}
    tokenizer["decoder"] = {
        "type": "Sequence",
        "decoders": [space, {"type": "ByteFallback"}, {"type": "Fuse"}],
    }
    return json.dumps(tokenizer)
