"""Text to token ids and back, off the event loop where it takes long."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TypeVar

from tokenizers import AddedToken, Encoding, Tokenizer

from text_generation_router.engine.detokenizer import new_detokenizer
from text_generation_router.engine.vocabulary import Vocabulary, is_panic
from text_generation_router.prompt.long_text_lane import LongTextLane
from text_generation_router.prompt.longest_token import longest_token
from text_generation_router.prompt.model_files import ModelFileError
from text_generation_router.prompt.python_tokenizer import (
    PythonEncoding,
    PythonTokenizer,
    load_python_tokenizer,
)

# The second is for models that have no other.
AnyTokenizer = Tokenizer | PythonTokenizer

ReadT = TypeVar("ReadT")

# Up to this many characters a tokenization takes well under a millisecond: less than a thread
# costs.
_INLINE_CHARACTERS = 2048
# Up to this many it takes some ten milliseconds. Longer ones, of which a few would keep all threads
# for seconds, have a lane of their own.
_MAX_SHARED_CHARACTERS = 1 << 16
# The same the other way.
_INLINE_TOKENS = 64


@dataclass(frozen=True, slots=True)
class TokenSpan:
    """One token of a text and the bytes [start, stop) of its UTF-8 that it stands for."""

    token_id: int
    text: str
    start: int
    stop: int


class TokenizerError(ValueError):
    """The tokenizer refused a text."""


def load_tokenizer(directory: Path, added_tokens: Sequence[AddedToken] = ()) -> AnyTokenizer:
    """The tokenizer of a model's directory, without truncation and padding.

    added_tokens: those that tokenizer.json lacks are added, those that it has otherwise changed.
    """
    path = directory / "tokenizer.json"
    if not path.is_file():
        return load_python_tokenizer(directory)
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise ModelFileError(f"{path}: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    present = {_identity(token) for token in tokenizer.get_added_tokens_decoder().values()}
    for token in added_tokens:
        if _identity(token) not in present:
            add = tokenizer.add_special_tokens if token.special else tokenizer.add_tokens
            add([token])
    return tokenizer


def _identity(token: AddedToken) -> tuple[str, bool, bool, bool, bool]:
    """What makes two tokens the same; `normalized` means nothing for one in the vocabulary."""
    return token.content, token.special, token.lstrip, token.rstrip, token.single_word


class TokenizerPool:
    """A tokenizer, and the threads that encode long texts with it. The library releases the
    interpreter lock for batches, and for them alone: a long text goes through it as a batch of one.
    """

    def __init__(self, tokenizer: AnyTokenizer, num_workers: int) -> None:
        self.tokenizer = tokenizer
        self.vocab_size: int = tokenizer.get_vocab_size(with_added_tokens=True)
        added_tokens = tokenizer.get_added_tokens_decoder()
        # Text of every special token by its id.
        self.special_texts: dict[int, str] = {
            token_id: token.content for token_id, token in added_tokens.items() if token.special
        }
        # Texts that always are one token, special or not, and its id.
        self.added_ids: dict[str, int] = {
            token.content: token_id for token_id, token in added_tokens.items()
        }
        # One more than the greatest id: some tokenizers leave ids out.
        self.num_ids = max([self.vocab_size, *(i + 1 for i in self.added_ids.values())])
        self._longest_token = (
            None if isinstance(tokenizer, PythonTokenizer) else longest_token(tokenizer)
        )
        self._executor = ThreadPoolExecutor(num_workers, thread_name_prefix="tokenizer")
        self._long_texts = LongTextLane()
        self._long_text_executor = ThreadPoolExecutor(1, thread_name_prefix="tokenizer-long")

    async def token_ids(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """The ids of a text."""
        return await self._encode(text, add_special_tokens, _ids)

    def fewest_tokens(self, text: str) -> int:
        """A bound that costs nothing, for texts that take long to encode; 0 for others, and where
        there is none.
        """
        if self._longest_token is None or len(text) <= _MAX_SHARED_CHARACTERS:
            return 0
        return -(-len(text) // self._longest_token)

    async def spans(self, text: str, *, add_special_tokens: bool) -> list[TokenSpan]:
        """The tokens of a text with their places in it; special tokens that were added have none:
        [0, 0).
        """
        return await self._encode(text, add_special_tokens, partial(_spans, text))

    async def pieces(self, token_ids: Sequence[int]) -> list[str]:
        """What each token adds to the text of all of them; the first tokens of a character add
        nothing.
        """
        if len(token_ids) <= _INLINE_TOKENS:
            return self._pieces(token_ids)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, self._pieces, token_ids)

    def text(self, token_ids: Iterable[int]) -> str:
        """The text of some tokens, special ones included."""
        return self._vocabulary.decode(list(token_ids))

    def close(self) -> None:
        """End the threads; what they still encode is not waited for."""
        for executor in (self._executor, self._long_text_executor):
            executor.shutdown(wait=False, cancel_futures=True)

    def _pieces(self, token_ids: Sequence[int]) -> list[str]:
        detokenizer = new_detokenizer(self._vocabulary, None)
        return [detokenizer.push(token_id) for token_id in token_ids]

    @cached_property
    def _vocabulary(self) -> Vocabulary:
        return Vocabulary(self.tokenizer)

    async def _encode(
        self,
        text: str,
        add_special_tokens: bool,
        read: Callable[[Encoding | PythonEncoding], list[ReadT]],
    ) -> list[ReadT]:
        """What `read` makes of the text's encoding, in the same thread."""
        try:
            if len(text) <= _INLINE_CHARACTERS:
                return read(self.tokenizer.encode(text, add_special_tokens=add_special_tokens))
            loop = asyncio.get_running_loop()
            encode = partial(self._encode_in_thread, text, add_special_tokens, read)
            if len(text) <= _MAX_SHARED_CHARACTERS:
                return await loop.run_in_executor(self._executor, encode)
            async with self._long_texts.turn(len(text)):
                return await loop.run_in_executor(self._long_text_executor, encode)
        except BaseException as error:  # the library raises bare Exception, or panics
            if not (isinstance(error, Exception) or is_panic(error)):
                raise
            raise TokenizerError(f"the tokenizer refused the text: {error}") from error

    def _encode_in_thread(
        self,
        text: str,
        add_special_tokens: bool,
        read: Callable[[Encoding | PythonEncoding], list[ReadT]],
    ) -> list[ReadT]:
        if isinstance(self.tokenizer, PythonTokenizer):
            return read(self.tokenizer.encode(text, add_special_tokens=add_special_tokens))
        return read(self.tokenizer.encode_batch([text], add_special_tokens=add_special_tokens)[0])


def _ids(encoding: Encoding | PythonEncoding) -> list[int]:
    ids: list[int] = encoding.ids
    return ids


def _spans(text: str, encoding: Encoding | PythonEncoding) -> list[TokenSpan]:
    byte_offsets = _byte_offsets(text)
    return [
        TokenSpan(token_id, text[start:stop], byte_offsets[start], byte_offsets[stop])
        for token_id, (start, stop) in zip(encoding.ids, encoding.offsets, strict=True)
    ]


def _byte_offsets(text: str) -> list[int] | range:
    """For each character position, and the end, the number of UTF-8 bytes before it."""
    if text.isascii():
        return range(len(text) + 1)
    offsets = [0]
    for character in text:
        offsets.append(offsets[-1] + len(character.encode()))
    return offsets
