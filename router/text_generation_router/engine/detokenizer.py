"""Text of tokens as they come, never half a character.

The pieces put together are the text that decoding all tokens at once gives after the prompt,
without a character that the last token leaves unfinished.
"""

import codecs
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from text_generation_router.engine.vocabulary import Vocabulary

# Prompt tokens that the first pieces are decoded after, and pieces that later ones are decoded
# after: what a piece looks like depends on at most a few neighbours.
_NUM_CONTEXT_TOKENS = 6
_NUM_CONTEXT_PIECES = 3
# A character has at most four bytes, so at most four tokens; more unfinished ones will never become
# a character.
_MAX_UNFINISHED_TOKENS = 8
_UTF8_DECODER = codecs.getincrementaldecoder("utf-8")


class Detokenizer(Protocol):
    """One generation's text."""

    def push(self, token_id: int) -> str:
        """Text that became certain with this token, special tokens included."""


def new_detokenizer(vocabulary: Vocabulary, prompt_ids: Sequence[int] | None) -> Detokenizer:
    """A detokenizer for what follows a prompt; None: the text begins with the first token."""
    if vocabulary.is_byte_level:
        return ByteLevelDetokenizer(vocabulary)
    return WindowDetokenizer(vocabulary, prompt_ids)


class ByteLevelDetokenizer:
    """For vocabularies whose tokens are byte strings: a table, and a UTF-8 decoder in between."""

    __slots__ = ("_decoder", "_is_unfinished", "_vocabulary", "_whole_texts")

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._whole_texts = vocabulary.whole_texts
        self._decoder = _UTF8_DECODER(errors="replace")
        self._is_unfinished = False

    def push(self, token_id: int) -> str:
        if not self._is_unfinished:
            text = self._whole_texts.get(token_id)
            if text is not None:
                return text
        return self._decode(token_id)

    def _decode(self, token_id: int) -> str:
        was_unfinished = self._is_unfinished
        text = self._decoder.decode(self._vocabulary.token_bytes(token_id))
        self._is_unfinished = bool(self._decoder.getstate()[0])
        if not was_unfinished and not self._is_unfinished:
            self._whole_texts[token_id] = text
        return text


class WindowDetokenizer:
    """For all others: decodes a window of the last tokens with and without the new one.

        token_ids     | piece | piece | piece | unfinished, new |
                      |---- before -----------|
                                      text is out up to here

    The window begins where a piece began, never inside of a character.
    """

    def __init__(self, vocabulary: Vocabulary, prompt_ids: Sequence[int] | None) -> None:
        self._vocabulary = vocabulary
        context = [] if prompt_ids is None else _context(vocabulary, prompt_ids)
        self._pieces: deque[list[int]] = deque([context], maxlen=_NUM_CONTEXT_PIECES)
        self._before = self._pieces[0]
        self._text_before = vocabulary.decode(self._before)
        self._unfinished: list[int] = []

    def push(self, token_id: int) -> str:
        self._unfinished.append(token_id)
        text = self._vocabulary.decode(self._before + self._unfinished)
        is_whole = len(text) > len(self._text_before) and not text.endswith("\ufffd")
        if is_whole:
            self._pieces.append(self._unfinished)
        elif len(self._unfinished) == _MAX_UNFINISHED_TOKENS:
            # Not a character, and nothing that follows should be read together with it.
            self._pieces = deque([_context(self._vocabulary, ())], maxlen=_NUM_CONTEXT_PIECES)
        else:
            return ""
        piece = text[len(self._text_before) :]
        self._unfinished = []
        self._before = [token_id for tokens in self._pieces for token_id in tokens]
        self._text_before = self._vocabulary.decode(self._before)
        return piece


def _context(vocabulary: Vocabulary, prompt_ids: Sequence[int]) -> list[int]:
    """Tokens to decode the first ones after: the end of the prompt, from the first place where no
    character is cut; if there is none, any word.
    """
    for start in range(max(0, len(prompt_ids) - _NUM_CONTEXT_TOKENS), len(prompt_ids)):
        context = list(prompt_ids[start:])
        if "\ufffd" not in vocabulary.decode(context):
            return context
    return [] if vocabulary.neighbour is None else [vocabulary.neighbour]
