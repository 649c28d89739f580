"""Older tokenizer files become a tokenizer.json that says the same."""

import json
import logging
import os
from pathlib import Path

import pytest
import transformers
from sentencepiece import SentencePieceProcessor
from text_generation_shard.errors import CheckpointError
from text_generation_shard.weights.download import DownloadConfig, prepare
from tokenizers import Tokenizer

from tests.shard.weights_download.checkpoints import write_safetensors
from tests.shard.weights_download.tokenizers import (
    VERBATIM,
    write_bert,
    write_gemma,
    write_gpt2,
    write_llama,
    write_sentencepiece,
    write_settings,
    write_t5,
)

TEXTS = [
    "",
    "The quick brown fox",
    "spaces  between,   and after  ",
    "lines\nand\r\n\ttabs",
    "größer, naïve café; 日本語 🎉\u200d",
    "def write(directory: Path) -> Path:",
]
WRITERS = {
    "tokenizer.model": write_llama,
    "gemma": write_gemma,
    "spiece.model": write_t5,
    "merges.txt": write_gpt2,
    "vocab.txt": write_bert,
}


def prepared(directory: Path) -> Path:
    return prepare(DownloadConfig(model_id=str(directory)), {})


@pytest.mark.parametrize("name", WRITERS)
def test_encodings_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    write_safetensors(WRITERS[name](tmp_path / "model"))
    expected = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    assert prepared(tmp_path / "model") == tmp_path / "model"
    actual = Tokenizer.from_file(str(tmp_path / "model" / "tokenizer.json"))
    for text in TEXTS:
        for special in (True, False):
            ids = actual.encode(text, add_special_tokens=special).ids
            assert ids == expected.encode(text, add_special_tokens=special), text
        text = actual.decode(ids, skip_special_tokens=False)
        assert text == expected.decode(ids, clean_up_tokenization_spaces=False)
    assert actual.get_vocab_size() == len(expected)


@pytest.mark.parametrize("name", ["tokenizer.model", "gemma", "spiece.model"])
def test_encodings_are_those_of_sentencepiece(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_safetensors(WRITERS[name](tmp_path))
    file = "tokenizer.model" if name == "gemma" else name
    original = SentencePieceProcessor(model_file=str(tmp_path / file))
    prepared(tmp_path)
    assert "differs" not in caplog.text
    actual = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in TEXTS:
        ids = actual.encode(text, add_special_tokens=False).ids
        pieces = [original.id_to_piece(token_id) for token_id in original.encode(text)]
        assert [actual.id_to_token(token_id) for token_id in ids] == pieces, text
        if name != "spiece.model":  # which loses spaces and unknown characters
            assert actual.decode(ids, skip_special_tokens=False) == original.decode(ids), text


def test_a_class_that_does_not_fit_its_file_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """transformers reads every Llama tokenizer as BPE, whatever the file says."""
    write_sentencepiece(tmp_path, "tokenizer.model", "unigram", "LlamaTokenizer", **VERBATIM)
    prepared(write_safetensors(tmp_path))
    (record,) = (record for record in caplog.records if "differs" in record.message)
    assert record.levelno == logging.WARNING
    assert "LlamaTokenizer differs from sentencepiece" in record.message


def test_it_is_made_once(tmp_path: Path) -> None:
    prepared(write_safetensors(write_gpt2(tmp_path)))
    (tmp_path / "tokenizer.json").write_text("mine")
    prepared(tmp_path)
    assert (tmp_path / "tokenizer.json").read_text() == "mine"
    assert not list(tmp_path.glob(".*.tmp"))


def test_a_directory_that_cannot_be_written_gets_a_twin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_safetensors(write_gpt2(tmp_path / "model"))
    before = sorted(model.iterdir())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "access", lambda path, _: not Path(path).samefile(model))
    twin = prepared(model)
    assert twin.is_relative_to(tmp_path / "cache")
    assert sorted(model.iterdir()) == before
    Tokenizer.from_file(str(twin / "tokenizer.json"))
    for path in before:
        assert (twin / path.name).samefile(path)
    made = (twin / "tokenizer.json").stat().st_mtime_ns
    assert prepared(model) == twin
    assert (twin / "tokenizer.json").stat().st_mtime_ns == made
    write_settings(model, "GPT2TokenizerFast")
    assert prepared(model) != twin, "another model now"


def test_files_that_are_no_tokenizer(tmp_path: Path) -> None:
    write_safetensors(write_settings(tmp_path, "LlamaTokenizer"))
    (tmp_path / "tokenizer.model").write_bytes(b"nothing of the kind")
    with pytest.raises(CheckpointError, match=f"{tmp_path}: has no tokenizer.json, and transf"):
        prepared(tmp_path)


def test_a_tokenizer_in_python_stays_as_it_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    write_safetensors(tmp_path)
    write_sentencepiece(tmp_path, "spiece.model", "bpe", "GPTSw3Tokenizer", **VERBATIM)
    assert prepared(tmp_path) == tmp_path
    assert "GPTSw3Tokenizer has no fast form" in caplog.text
    assert not (tmp_path / "tokenizer.json").exists()
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())
