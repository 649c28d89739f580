"""Incremental text against decoding everything at once."""

import functools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from text_generation_router.engine.detokenizer import (
    ByteLevelDetokenizer,
    WindowDetokenizer,
    new_detokenizer,
)
from text_generation_router.engine.vocabulary import Vocabulary
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers import normalizers as normal

CORPUS = [
    "The quick brown fox jumps over the lazy dog. It's 12,345 o'clock!",
    "深层学习是机器学习的一个分支。 深層学習とは何ですか。",
    "Ünïcödé, naïve café, 👩‍👩‍👧‍👦 family 🇩🇪 flags 🤖🚀🚀",
    "مرحبا بالعالم नमस्ते दुनिया",
    "def f(x):\n    return x + 1\n\n\n",
] * 3
TEXT = st.text(
    st.one_of(
        st.sampled_from("aeiou thn.,'\n "),
        st.sampled_from("深层学習は何🚀🇩🇪👩‍👧éü"),
        st.characters(exclude_categories=["Cs"]),
    ),
    max_size=40,
)


@functools.cache
def byte_level():
    """As GPT-2's and Llama 3's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=["</s>", "<|im_start|>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


@functools.cache
def byte_fallback():
    """As Llama 2's: spaces are written as a character, unknown characters as byte tokens."""
    trained = Tokenizer(models.BPE())
    trained.normalizer = normal.Sequence([normal.Prepend("▁"), normal.Replace(" ", "▁")])
    trainer = trainers.BpeTrainer(
        vocab_size=150, limit_alphabet=40, show_progress=False, special_tokens=["<unk>"]
    )
    trained.train_from_iterator(CORPUS[:1], trainer)
    vocabulary = [name for name, _ in sorted(trained.get_vocab().items(), key=lambda item: item[1])]
    vocabulary[1:1] = [f"<0x{byte:02X}>" for byte in range(256)]
    ids = {name: i for i, name in enumerate(vocabulary)}
    letters = {name for name in vocabulary if len(name) == 1}
    merges = [("▁", letter) for letter in sorted(letters) if f"▁{letter}" in ids]
    tokenizer = Tokenizer(
        models.BPE(vocab=ids, merges=merges, byte_fallback=True, unk_token="<unk>")
    )
    tokenizer.normalizer = trained.normalizer
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens(["<s>", "</s>"])
    return tokenizer


@functools.cache
def metaspace():
    """As T5's."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<unk>", "</s>"], show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


TOKENIZERS = {"byte level": byte_level, "byte fallback": byte_fallback, "metaspace": metaspace}


def stream(tokenizer, prompt_ids, token_ids):
    """The pieces, each of them checked for halves of characters."""
    detokenizer = new_detokenizer(Vocabulary(tokenizer), prompt_ids)
    return [detokenizer.push(token_id) for token_id in token_ids]


def whole(tokenizer, prompt_ids, token_ids):
    """What all tokens at once give behind the prompt."""
    before = tokenizer.decode(prompt_ids, skip_special_tokens=False)
    return tokenizer.decode([*prompt_ids, *token_ids], skip_special_tokens=False)[len(before) :]


def test_each_vocabulary_gets_its_detokenizer():
    kinds = {
        name: type(new_detokenizer(Vocabulary(make()), [])) for name, make in TOKENIZERS.items()
    }
    assert kinds == {
        "byte level": ByteLevelDetokenizer,
        "byte fallback": WindowDetokenizer,
        "metaspace": WindowDetokenizer,
    }


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(text=TEXT, cut=st.integers(0, 60))
def test_pieces_add_up_to_the_whole(kind, text, cut):
    tokenizer = TOKENIZERS[kind]()
    prompt_ids = tokenizer.encode("The fox", add_special_tokens=False).ids
    token_ids = tokenizer.encode(text, add_special_tokens=False).ids
    decoded = whole(tokenizer, prompt_ids, token_ids)
    unfinished = decoded[len(decoded.rstrip("\ufffd")) :]
    pieces = stream(tokenizer, prompt_ids, token_ids)
    assert decoded in ("".join(pieces), "".join(pieces) + unfinished)
    # Broken off anywhere, half a character is never out.
    text_so_far = "".join(stream(tokenizer, prompt_ids, token_ids[:cut]))
    assert decoded.startswith(text_so_far)


@given(token_ids=st.lists(st.integers(0, 399), max_size=40))
def test_any_tokens_of_a_byte_level_vocabulary_add_up(token_ids):
    """Also those that are no text: broken UTF-8, special tokens inside of characters."""
    tokenizer = byte_level()
    streamed = "".join(stream(tokenizer, [], token_ids))
    decoded = tokenizer.decode(token_ids, skip_special_tokens=False)
    assert decoded.startswith(streamed)
    assert set(decoded[len(streamed) :]) <= {"\ufffd"}


def test_a_character_of_several_tokens_comes_whole_with_the_last_one():
    tokenizer = byte_level()
    token_ids = tokenizer.encode("🀄").ids
    assert len(token_ids) > 1
    assert stream(tokenizer, [], token_ids) == [""] * (len(token_ids) - 1) + ["🀄"]


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_the_space_before_the_first_word_is_kept(kind):
    """What is generated continues the prompt."""
    tokenizer = TOKENIZERS[kind]()
    token_ids = tokenizer.encode("The quick fox", add_special_tokens=False).ids
    prompt_ids = tokenizer.encode("The", add_special_tokens=False).ids
    assert token_ids[: len(prompt_ids)] == prompt_ids
    pieces = stream(tokenizer, prompt_ids, token_ids[len(prompt_ids) :])
    assert "".join(pieces) == " quick fox"


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(text=TEXT)
def test_the_output_of_an_encoder_decoder_begins_a_text(kind, text):
    """It continues nothing: no space before its first word."""
    tokenizer = TOKENIZERS[kind]()
    token_ids = tokenizer.encode(text, add_special_tokens=False).ids
    decoded = tokenizer.decode(token_ids, skip_special_tokens=False)
    streamed = "".join(stream(tokenizer, None, token_ids))
    assert decoded.startswith(streamed)
    assert set(decoded[len(streamed) :]) <= {"\ufffd"}


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_special_tokens_are_kept(kind):
    tokenizer = TOKENIZERS[kind]()
    end = tokenizer.token_to_id("</s>")
    prompt_ids = tokenizer.encode("The", add_special_tokens=False).ids
    assert stream(tokenizer, prompt_ids, [end])[-1].strip() == "</s>"


def test_endless_nonsense_is_not_held_back_for_ever():
    tokenizer = byte_fallback()
    broken = tokenizer.token_to_id("<0xE6>")
    assert any(stream(tokenizer, [], [broken] * 20))


def test_ids_beyond_the_tokenizer_have_no_text():
    """Models pad their vocabulary."""
    assert stream(byte_level(), [], [5000]) == [""]
    assert Vocabulary(byte_level()).token_text(5000) == ""
    assert stream(metaspace(), [5], [5000]) == [""]


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_the_text_of_a_lone_token_is_that_in_the_middle_of_a_text(kind):
    tokenizer = TOKENIZERS[kind]()
    vocabulary = Vocabulary(tokenizer)
    the, quick = (
        tokenizer.encode(text, add_special_tokens=False).ids for text in ("The", "The quick")
    )
    texts = [vocabulary.token_text(token_id) for token_id in quick[len(the) :]]
    assert "".join(texts) == " quick"
    assert vocabulary.token_text(tokenizer.token_to_id("</s>")) == "</s>"
