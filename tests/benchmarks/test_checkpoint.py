"""The random-weight checkpoint is what transformers and safetensors read."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from tokenizers import Tokenizer

from benchmarks.checkpoint import SHAPES, write_checkpoint
from benchmarks.vocabulary import SPECIAL_TOKENS, make_vocabulary


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_weights_have_their_shapes_and_spread(tmp_path: Path, dtype: str) -> None:
    shape = SHAPES["tiny"]
    write_checkpoint(tmp_path, shape, dtype=dtype, seed=3)
    with safe_open(tmp_path / "model.safetensors", framework="pt") as weights:
        assert set(weights.keys()) == {name for name, _ in shape.tensors()}
        for name, dimensions in shape.tensors():
            tensor = weights.get_tensor(name)
            assert tensor.dtype == getattr(torch, dtype)
            assert tuple(tensor.shape) == dimensions
            if len(dimensions) == 2:
                assert 0.018 < tensor.float().std() < 0.022
            else:
                assert (tensor == 1).all()


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_checkpoint(tmp_path / name, SHAPES["tiny"], dtype="bfloat16", seed=seed)
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_bfloat16_is_the_rounded_float32(tmp_path: Path) -> None:
    tensors = {}
    for dtype in ("float32", "bfloat16"):
        write_checkpoint(tmp_path / dtype, SHAPES["tiny"], dtype=dtype)
        with safe_open(tmp_path / dtype / "model.safetensors", framework="pt") as weights:
            tensors[dtype] = weights.get_tensor("lm_head.weight")
    assert torch.equal(tensors["float32"].bfloat16(), tensors["bfloat16"])


def test_named_sizes_have_their_parameters() -> None:
    counts = {name: shape.num_parameters() / 1e6 for name, shape in SHAPES.items()}
    assert counts["135m"] == pytest.approx(134.5, abs=0.1)
    assert counts["398m"] == pytest.approx(397.7, abs=0.1)
    assert counts["llama-3.2-1b"] == pytest.approx(1235.8, abs=0.1)
    assert counts["llama-3.1-8b"] == pytest.approx(8030.3, abs=0.1)


def test_tokenizer_knows_every_text(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, SHAPES["tiny"], dtype="float32")
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert tokenizer.get_vocab_size() == SHAPES["tiny"].vocab_size
    text = "the quick fox, größer 😀\n\tand more"
    encoding = tokenizer.encode(text)
    assert encoding.ids[0] == SPECIAL_TOKENS.index("<s>")
    assert tokenizer.decode(encoding.ids) == text


@pytest.mark.parametrize("size", [261, 1024, 32000])
def test_vocabulary_is_full_and_without_doubles(size: int) -> None:
    vocabulary = make_vocabulary(size)
    assert len(vocabulary.tokens) == len(set(vocabulary.tokens)) == size
    known = set(vocabulary.tokens)
    assert all({left, right, left + right} <= known for left, right in vocabulary.merges)


def test_vocabulary_has_at_least_the_bytes() -> None:
    with pytest.raises(ValueError, match="at least 261"):
        make_vocabulary(260)
