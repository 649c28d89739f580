"""How much text one token can stand for."""

import random
from typing import Any

import pytest
from text_generation_demo import MODEL_DIR
from text_generation_router.prompt.longest_token import longest_token
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

from tests.fakes.byte_tokenizer import byte_tokenizer

ALPHABET = "ab  \n\t<|im_end|>é\u0301\u1112\u1161\u11ab\u03b1\u0313\u0300\u0345€😀0"


def with_nfc() -> Tokenizer:
    tokenizer = byte_tokenizer()
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Prepend("_")])
    return tokenizer


def with_fallback() -> Tokenizer:
    """As Llama 2's."""
    names = [*(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", "a", "b", "<unk>", "ab"]
    model = models.BPE(
        vocab={name: index for index, name in enumerate(names)},
        merges=[("a", "b")],
        byte_fallback=True,
        unk_token="<unk>",
        fuse_unk=True,
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    return tokenizer


@pytest.mark.parametrize(
    ("tokenizer", "length"),
    [
        (byte_tokenizer(), 12),
        (with_nfc(), 48),
        (with_fallback(), 6),
        (Tokenizer.from_file(str(MODEL_DIR / "tokenizer.json")), 16),
    ],
    ids=["bytes", "nfc", "fallback", "demo"],
)
def test_no_token_stands_for_more(tokenizer: Tokenizer, length: int) -> None:
    assert longest_token(tokenizer) == length
    generator = random.Random(1)
    for _ in range(200):
        text = "".join(generator.choices(ALPHABET, k=generator.randrange(1, 60)))
        run = text[:1] * 200 + text[:2] * 100
        for each in (text, run):
            count = len(tokenizer.encode(each, add_special_tokens=False).ids)
            assert count * length >= len(each), each


def _words(pre_tokenizer: Any) -> Tokenizer:
    tokenizer = byte_tokenizer()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizer, tokenizer.pre_tokenizer])
    return tokenizer


def _stripping() -> Tokenizer:
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True)])
    return tokenizer


def _normalized(normalizer: Any) -> Tokenizer:
    tokenizer = byte_tokenizer()
    tokenizer.normalizer = normalizer
    return tokenizer


@pytest.mark.parametrize(
    "tokenizer",
    [
        _words(pre_tokenizers.WhitespaceSplit()),
        _words(pre_tokenizers.Split(" ", "removed")),
        _stripping(),
        _normalized(normalizers.Strip()),
        _normalized(normalizers.NFKC()),
        _normalized(normalizers.Replace(Regex(" +"), " ")),
        Tokenizer(models.BPE(vocab={"a": 0, "<unk>": 1}, merges=[], unk_token="<unk>")),
        Tokenizer(models.WordPiece(vocab={"a": 0, "[UNK]": 1}, unk_token="[UNK]")),
        Tokenizer(models.Unigram([("a", 0.0)], 0)),
    ],
    ids=lambda tokenizer: type(tokenizer.model).__name__,
)
def test_where_text_may_vanish_there_is_no_bound(tokenizer: Tokenizer) -> None:
    assert longest_token(tokenizer) is None
