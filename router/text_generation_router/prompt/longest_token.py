"""How much text one token can stand for: what says at once that a text has too many of them."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers

# Parts of a tokenizer that leave out nothing of a text.
_KEEPING = {"ByteLevel", "Digits", "Metaspace", "Prepend"}
# Characters that the composition of Unicode (NFC) makes one of, at most.
_COMPOSED = 4


def longest_token(tokenizer: Tokenizer) -> int | None:
    """Characters of a text that become one token, at most; None where there is no such bound: parts
    of a text may be dropped, or what is unknown become one token whatever its length.
    """
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    if not isinstance(tokenizer.model, models.BPE):
        return None
    parts = [*_parts(tokenizer.normalizer), *_parts(tokenizer.pre_tokenizer)]
    kinds = {part["type"] for part in parts}
    bytes_are_known = (
        "ByteLevel" in kinds and vocabulary.keys() >= set(pre_tokenizers.ByteLevel.alphabet())
    ) or (
        tokenizer.model.byte_fallback
        and all(f"<0x{byte:02X}>" in vocabulary for byte in range(256))
    )
    # These take the white space around them with them.
    strips = any(
        token.lstrip or token.rstrip for token in tokenizer.get_added_tokens_decoder().values()
    )
    if strips or not bytes_are_known or not all(map(_keeps_all, parts)):
        return None
    return max(map(len, vocabulary)) * (_COMPOSED if "NFC" in kinds else 1)


def _parts(component: Any) -> Iterator[Mapping[str, Any]]:
    """What a normalizer or pre-tokenizer does, one after the other; as tokenizer.json has it."""
    if component is None:
        return
    state = json.loads(component.__getstate__())
    nested = state.get("normalizers", state.get("pretokenizers"))
    yield from [state] if nested is None else nested


def _keeps_all(part: Mapping[str, Any]) -> bool:
    if part["type"] == "Split":
        return bool(part["behavior"] != "Removed")
    if part["type"] == "Replace":
        found = part["pattern"].get("String")
        return found is not None and len(found) <= len(part["content"])
    return part["type"] == "NFC" or part["type"] in _KEEPING
