"""Texts to ids, in place or in a thread."""

import asyncio
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
from text_generation_router.prompt.model_files import ModelFileError
from text_generation_router.prompt.tokenizer import (
    TokenizerError,
    TokenizerPool,
    load_tokenizer,
)
from tokenizers import Regex, Tokenizer, normalizers

from tests.fakes.byte_tokenizer import byte_tokenizer, save_byte_tokenizer


@pytest.fixture
def pool() -> Iterator[TokenizerPool]:
    pool = TokenizerPool(byte_tokenizer(), 1)
    yield pool
    pool.close()


async def test_special_tokens_are_added_where_asked(pool: TokenizerPool) -> None:
    assert (await pool.token_ids("a", add_special_tokens=True))[0] == 1
    assert len(await pool.token_ids("a", add_special_tokens=False)) == 1


async def test_long_texts_give_the_same_ids_as_short_ones(pool: TokenizerPool) -> None:
    short = await pool.token_ids("ab", add_special_tokens=False)
    assert await pool.token_ids("ab" * 3000, add_special_tokens=False) == short * 3000


class BatchesOnly:
    """A tokenizer whose `encode` keeps the interpreter lock, as the library's does: everybody's
    tokens waited for a long prompt, seconds for one of a megabyte.
    """

    def __init__(self) -> None:
        self._tokenizer = byte_tokenizer()

    def __getattr__(self, name: str) -> Any:
        assert name != "encode"
        return getattr(self._tokenizer, name)


async def test_a_long_text_leaves_the_interpreter_to_others(pool: TokenizerPool) -> None:
    unlocked = TokenizerPool(cast("Tokenizer", BatchesOnly()), 1)
    text = "aé" * 3000
    for add in (False, True):
        ids = await unlocked.token_ids(text, add_special_tokens=add)
        assert ids == pool.tokenizer.encode(text, add_special_tokens=add).ids
        spans = await unlocked.spans(text, add_special_tokens=add)
        assert [span.token_id for span in spans] == ids
        assert spans[-1].stop == 9000
    unlocked.close()


async def test_a_text_on_which_the_library_breaks_is_refused() -> None:
    """Its panic is no `Exception`: the connection was closed without an answer."""
    tokenizer = byte_tokenizer()
    normalizer = normalizers.Replace(Regex("^(?=b)"), " ")
    tokenizer.normalizer = normalizers.Sequence([normalizer, normalizers.NFKC()])
    pool = TokenizerPool(tokenizer, 1)
    for text in ("b", "b" * 3000):
        with pytest.raises(TokenizerError, match="index out of bounds"):
            await pool.token_ids(text, add_special_tokens=False)
    assert len(await pool.token_ids("a", add_special_tokens=False)) == 1
    pool.close()


class Blocking:
    """A tokenizer that does not come to an end with texts of some length before it may."""

    def __init__(self) -> None:
        self._tokenizer = byte_tokenizer()
        self.may_end = threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def encode_batch(self, texts: list[str], **options: Any) -> Any:
        if len(texts[0]) > 100_000:
            assert self.may_end.wait(20)
        return self._tokenizer.encode_batch(texts, **options)


async def test_long_texts_do_not_hold_up_others() -> None:
    """Four of 1.9 MB did, for ten seconds: they had all the threads."""
    tokenizer = Blocking()
    pool = TokenizerPool(cast("Tokenizer", tokenizer), 2)
    encode = partial(pool.token_ids, add_special_tokens=False)
    long = [asyncio.create_task(encode("a" * 200_000)) for _ in range(4)]
    try:
        await asyncio.sleep(0)
        ids = await asyncio.wait_for(encode("b" * 10_000), 10)
        assert ids == ids[:1] * 10_000
        assert not any(task.done() for task in long)
        tokenizer.may_end.set()
        assert [len(ids) for ids in await asyncio.gather(*long)] == [200_000] * 4
    finally:
        tokenizer.may_end.set()
        pool.close()


async def test_spans_count_bytes(pool: TokenizerPool) -> None:
    spans = await pool.spans("aé", add_special_tokens=True)
    assert [(span.start, span.stop, span.text) for span in spans] == [
        (0, 0, ""),
        (0, 1, "a"),
        (1, 3, "é"),
        (1, 3, "é"),
    ]


def test_text_keeps_special_tokens(pool: TokenizerPool) -> None:
    assert pool.text([1, 2]) == "<s></s>"
    assert pool.special_texts[3] == "<|im_start|>"


def test_truncation_of_the_file_is_switched_off(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=9)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert len(load_tokenizer(tmp_path).encode("abcdef").ids) == 7


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"tokenizer\.json is missing"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelFileError, match=r"tokenizer\.json"):
        load_tokenizer(tmp_path)
    save_byte_tokenizer(tmp_path)
    load_tokenizer(tmp_path)
