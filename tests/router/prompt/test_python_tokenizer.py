"""Tokenizers without tokenizer.json: in the router, without torch, with streamed text."""

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import transformers
from text_generation_router.engine.detokenizer import new_detokenizer
from text_generation_router.engine.vocabulary import Vocabulary
from text_generation_router.prompt.model_files import ModelFileError
from text_generation_router.prompt.python_tokenizer import PythonTokenizer
from text_generation_router.prompt.tokenizer import TokenizerPool, load_tokenizer

from tests.shard.weights_download.tokenizers import (
    VERBATIM,
    write_gpt2,
    write_sentencepiece,
    write_settings,
)

TEXT = "The quick brown fox: größer 日本 🎉, naïve café"


def write_byt5(directory: Path) -> Path:
    """Bytes are its tokens: there is no file of a vocabulary."""
    return write_settings(directory, "ByT5Tokenizer")


def write_gpt_sw3(directory: Path) -> Path:
    return write_sentencepiece(directory, "spiece.model", "bpe", "GPTSw3Tokenizer", **VERBATIM)


@pytest.fixture(params=[write_byt5, write_gpt_sw3])
def directory(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    return request.param(tmp_path)


async def test_encodings_are_those_of_transformers(directory: Path) -> None:
    expected = transformers.AutoTokenizer.from_pretrained(directory)
    tokenizer = load_tokenizer(directory)
    assert isinstance(tokenizer, PythonTokenizer)
    pool = TokenizerPool(tokenizer, 1)
    for special in (True, False):
        ids = await pool.token_ids(TEXT, add_special_tokens=special)
        assert ids == expected.encode(TEXT, add_special_tokens=special)
    assert await pool.token_ids(TEXT * 100, add_special_tokens=True) == expected.encode(TEXT * 100)
    assert pool.text(ids) == TEXT == expected.decode(ids)
    assert pool.vocab_size == len(expected)
    assert set(pool.special_texts.values()) == set(expected.all_special_tokens)
    pool.close()


async def test_spans_lie_one_after_the_other(directory: Path) -> None:
    pool = TokenizerPool(load_tokenizer(directory), 1)
    spans = await pool.spans(TEXT, add_special_tokens=True)
    placed = [span for span in spans if span.stop]
    assert "".join(span.text for span in placed) == TEXT
    for before, after in pairwise(placed):
        assert before.stop == after.start
    assert placed[-1].stop == len(TEXT.encode())
    pool.close()


def test_text_is_streamed_without_half_characters(directory: Path) -> None:
    tokenizer = load_tokenizer(directory)
    vocabulary = Vocabulary(tokenizer)
    prompt = tokenizer.encode("A fox", add_special_tokens=False).ids
    ids = tokenizer.encode(TEXT, add_special_tokens=False).ids
    detokenizer = new_detokenizer(vocabulary, prompt)
    pieces = [detokenizer.push(token_id) for token_id in ids]
    assert "".join(pieces).strip() == TEXT
    assert not any("\ufffd" in piece for piece in pieces)


def test_ids_beyond_the_vocabulary_stand_for_nothing(directory: Path) -> None:
    tokenizer = load_tokenizer(directory)
    detokenizer = new_detokenizer(Vocabulary(tokenizer), [])
    beyond = tokenizer.get_vocab_size() + 7
    assert tokenizer.id_to_token(beyond) is None
    ids = tokenizer.encode("fox", add_special_tokens=False).ids
    text = "".join(detokenizer.push(token_id) for token_id in [beyond, *ids])
    assert text.strip() == "fox"


def test_torch_stays_outside(tmp_path: Path) -> None:
    """In a process of its own, as the router is: this one has torch already."""
    write_byt5(tmp_path)
    code = (
        "import sys; from pathlib import Path;"
        "from text_generation_router.prompt.tokenizer import load_tokenizer;"
        "tokenizer = load_tokenizer(Path(sys.argv[1]));"
        "assert tokenizer.decode(tokenizer.encode('fox').ids) == 'fox';"
        "assert 'transformers' in sys.modules;"
        "assert not [name for name in sys.modules if name.startswith('torch.')]"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        env=dict(os.environ),
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_what_has_no_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"tokenizer\.json is missing, and so is"):
        load_tokenizer(tmp_path)
    write_gpt2(tmp_path)
    with pytest.raises(ModelFileError, match=r"download-weights` makes it from the other files"):
        load_tokenizer(tmp_path)
    (tmp_path / "merges.txt").unlink()
    write_settings(tmp_path, "NoSuchTokenizer")
    (tmp_path / "vocab.json").write_text("{")
    with pytest.raises(ModelFileError, match="transformers reads no tokenizer"):
        load_tokenizer(tmp_path)
