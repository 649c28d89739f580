"""What every token stands for, read once from the tokenizer and shared by all generations.

Byte-level vocabularies (GPT-2, Llama 3, Qwen and most others) give every token its own bytes: a
token's text comes from a table. Others (sentencepiece with its spaces and byte tokens, WordPiece)
decide by a token's neighbours: there the tokenizer's own decoder is asked, over a short window.
"""

import json
from typing import Any, Protocol

# Regular tokens tried as `neighbour`.
_MAX_PROBES = 1000


class TokenizerPanicError(Exception):
    """The tokenizers library broke in itself; the text is its own."""


def is_panic(error: BaseException) -> bool:
    """Whether the tokenizers library broke in itself. Such an error is no `Exception`, so whoever
    catches one lets it pass, and its class cannot be imported.
    """
    return type(error).__name__ == "PanicException"


class TextTokenizer(Protocol):
    """What is needed of `tokenizers.Tokenizer`."""

    @property
    def decoder(self) -> Any: ...

    def get_vocab_size(self, with_added_tokens: bool = True) -> int: ...

    def id_to_token(self, id: int) -> str | None: ...  # noqa: A002

    def get_added_tokens_decoder(self) -> dict[int, Any]: ...

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str: ...


class Vocabulary:
    """Token ids to text; immutable but for its tables, which fill as tokens are seen."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._tokenizer = tokenizer
        self.is_byte_level = _is_byte_level(tokenizer.decoder)
        added = tokenizer.get_added_tokens_decoder()
        # Text of the special tokens, by id.
        self.special_texts: dict[int, str] = {
            token_id: token.content for token_id, token in added.items() if token.special
        }
        # Texts of tokens that are whole characters by themselves (byte-level only), by id.
        self.whole_texts: dict[int, str] = {}
        self._middle_texts: dict[int, str] = {}
        # A token with text of its own, to decode others after (where neighbours matter).
        self.neighbour = None if self.is_byte_level else self._find_neighbour()

    def token_bytes(self, token_id: int) -> bytes:
        """UTF-8, possibly broken off, of a token of a byte-level vocabulary; nothing for an id that
        the tokenizer does not know (models pad their vocabulary).
        """
        token = self._tokenizer.id_to_token(token_id)
        if token is None:
            return b""
        if token_id in self.special_texts:
            return self.special_texts[token_id].encode()
        try:
            return bytes(_BYTE_OF_CHARACTER[character] for character in token)
        except KeyError:  # an added token that is not written in byte characters
            return token.encode()

    def decode(self, token_ids: list[int]) -> str:
        """Text of consecutive tokens, special ones included. Raises `TokenizerPanicError`."""
        try:
            return self._tokenizer.decode(token_ids, skip_special_tokens=False)
        except BaseException as error:
            if not is_panic(error):
                raise
            raise TokenizerPanicError(str(error)) from error

    def token_text(self, token_id: int) -> str:
        """Text of a token that stands in the middle of a text; empty if it is not whole."""
        text = self._middle_texts.get(token_id)
        if text is None:
            text = self._middle_texts[token_id] = self._middle_text(token_id)
        return text

    def _middle_text(self, token_id: int) -> str:
        if token_id in self.special_texts:
            return self.special_texts[token_id]
        if self.is_byte_level:
            text = self.token_bytes(token_id).decode(errors="replace")
        elif self.neighbour is None:
            text = self.decode([token_id])
        else:
            before = self.decode([self.neighbour])
            text = self.decode([self.neighbour, token_id])[len(before) :]
        return "" if "\ufffd" in text else text

    def _find_neighbour(self) -> int | None:
        """A token with text of its own."""
        for token_id in range(min(self._tokenizer.get_vocab_size(), _MAX_PROBES)):
            if token_id not in self.special_texts and self.decode([token_id]).isalnum():
                return token_id
        return None


def _is_byte_level(decoder: Any) -> bool:
    """Whether the tokenizer's decoder does nothing but map byte characters to bytes."""
    if decoder is None:
        return False
    state = json.loads(decoder.__getstate__())
    parts = state["decoders"] if state["type"] == "Sequence" else [state]
    kinds = [part["type"] for part in parts if part["type"] != "Fuse"]
    return kinds == ["ByteLevel"]


def _byte_characters() -> dict[str, int]:
    """The characters by which byte-level vocabularies write bytes (GPT-2): printable Latin-1 stands
    for itself, every other byte for the next character from U+0100 on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(byte): byte for byte in printable}
    others = (byte for byte in range(256) if byte not in printable)
    table.update({chr(0x100 + index): byte for index, byte in enumerate(others)})
    return table


_BYTE_OF_CHARACTER = _byte_characters()
