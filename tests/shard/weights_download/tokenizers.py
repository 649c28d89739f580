"""Tokenizers in the formats from before tokenizer.json, trained on the text of this file."""

import json
from pathlib import Path
from typing import Any

import sentencepiece
from tokenizers import ByteLevelBPETokenizer

CORPUS = [
    *Path(__file__).read_text().splitlines(),
    "The quick brown fox jumps over the lazy dog, can't it?",
    "two  spaces, three   spaces and größer naïve café",
]
# As Llama's and Gemma's were trained: every byte and every space counts.
VERBATIM = {
    "byte_fallback": True,
    "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False,
}
T5_IDS = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}


def write_sentencepiece(
    directory: Path, name: str, kind: str, tokenizer_class: str, **options: Any
) -> Path:
    """A directory with one sentencepiece model and the class that reads it."""
    directory.mkdir(parents=True, exist_ok=True)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_prefix=str(directory / "trained"),
        model_type=kind,
        vocab_size=380,
        hard_vocab_limit=False,
        minloglevel=2,
        **options,
    )
    (directory / "trained.model").rename(directory / name)
    (directory / "trained.vocab").unlink()
    return write_settings(directory, tokenizer_class)


def write_llama(directory: Path) -> Path:
    return write_sentencepiece(directory, "tokenizer.model", "bpe", "LlamaTokenizer", **VERBATIM)


def write_gemma(directory: Path) -> Path:
    settings = {**VERBATIM, "add_dummy_prefix": False, "pad_id": 0, "eos_id": 1, "bos_id": 2}
    return write_sentencepiece(
        directory, "tokenizer.model", "bpe", "GemmaTokenizer", unk_id=3, **settings
    )


def write_t5(directory: Path) -> Path:
    return write_sentencepiece(directory, "spiece.model", "unigram", "T5Tokenizer", **T5_IDS)


def write_gpt2(directory: Path) -> Path:
    """vocab.json and merges.txt."""
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(CORPUS, 400, special_tokens=["<|endoftext|>"])
    tokenizer.save_model(str(directory))
    return write_settings(directory, "GPT2Tokenizer")


def write_bert(directory: Path) -> Path:
    """vocab.txt."""
    directory.mkdir(parents=True, exist_ok=True)
    words = sorted({word.lower() for line in CORPUS for word in line.split() if word.isalpha()})
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    (directory / "vocab.txt").write_text("\n".join([*special, *words, "##s"]) + "\n")
    return write_settings(directory, "BertTokenizer")


def write_settings(directory: Path, tokenizer_class: str) -> Path:
    settings = {"tokenizer_class": tokenizer_class}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    return directory
