"""Keys and values kept as 8-bit floats, on CPU."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from text_generation_shard.errors import CapacityError
from text_generation_shard.kv_cache import KVCacheSpec
from text_generation_shard.ops import kv_write
from text_generation_shard.ops.cpu import library as cpu_library
from text_generation_shard.ops.kv_write import KVScales, write_kv
from torch import Tensor

from tests.shard.checkpoints import Checkpoint
from tests.shard.engines import record, running_shard
from tests.shard.models.families import PROMPT, greedy_script, write_model

DTYPES = {"fp8_e4m3fn": torch.float8_e4m3fn, "fp8_e5m2": torch.float8_e5m2}


def scores(path: Path, *, chunk: int = len(PROMPT), **settings: str) -> Tensor:
    """The logits behind the prompt and six tokens after it, float32 [7, vocab]."""
    with running_shard(path, **settings) as shard:
        assert shard._engine is not None
        sampler = record(shard)
        for request in greedy_script(chunk, 7).requests:
            shard._engine.step(request)
        return torch.cat(sampler.logits)[:7]


def relative(difference: Tensor, to: Tensor) -> float:
    return float(difference.norm() / to.norm())


@pytest.mark.parametrize("name", list(DTYPES))
def test_scores_are_those_of_rounded_keys_and_values(
    checkpoint: Checkpoint, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else is rounded: as if keys and values were rounded before they are kept wide."""
    actual = scores(checkpoint.path, kv_cache_dtype=name)
    write = kv_write._write

    def write_rounded(rows: Tensor, cache: Tensor, slots: Tensor, scale: float) -> None:
        assert scale == 1 and cache.dtype == torch.float32
        write(rows.to(DTYPES[name]).float(), cache, slots, scale)

    monkeypatch.setattr(kv_write, "_write", write_rounded)
    monkeypatch.setattr(cpu_library, "operators", lambda: None)
    torch.testing.assert_close(scores(checkpoint.path), actual, atol=1e-3, rtol=1e-3)


def test_a_prompt_read_in_chunks_is_the_same(checkpoint: Checkpoint) -> None:
    """Also its own tokens are read as they are kept."""
    whole = scores(checkpoint.path, kv_cache_dtype="fp8_e4m3fn")
    cut = scores(checkpoint.path, kv_cache_dtype="fp8_e4m3fn", chunk=5)
    torch.testing.assert_close(cut, whole, atol=1e-3, rtol=1e-3)


@pytest.fixture
def with_scales(checkpoint: Checkpoint, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the checkpoint whose attentions have such tensors as well."""

    def write(**scales: Tensor) -> Path:
        for source in checkpoint.path.iterdir():
            (tmp_path / source.name).write_bytes(source.read_bytes())
        tensors = load_file(tmp_path / "model.safetensors")
        prefixes = {name.split("q_proj")[0] for name in tensors if "q_proj.weight" in name}
        tensors |= {
            prefix + name: scale.clone() for prefix in prefixes for name, scale in scales.items()
        }
        save_file(tensors, tmp_path / "model.safetensors")
        return tmp_path

    return write


def test_scales_of_the_checkpoint(checkpoint: Checkpoint, with_scales: Callable[..., Path]) -> None:
    """So large that hardly a digit is left of any value, they take effect; and in e4m3 alone."""
    path = with_scales(k_scale=torch.tensor(1.0), v_scale=torch.tensor([512.0]))
    plain = scores(checkpoint.path, kv_cache_dtype="fp8_e4m3fn")[0]
    assert relative(scores(path, kv_cache_dtype="fp8_e4m3fn")[0] - plain, plain) > 0.1
    for settings in ({}, {"kv_cache_dtype": "fp8_e5m2"}):
        assert torch.equal(scores(path, **settings), scores(checkpoint.path, **settings))


def test_one_scale_for_both(checkpoint: Checkpoint, with_scales: Callable[..., Path]) -> None:
    """Of a power of two only the smallest numbers notice."""
    path = with_scales(kv_scale=torch.tensor(0.5))
    plain = scores(checkpoint.path, kv_cache_dtype="fp8_e4m3fn")[0]
    scaled = scores(path, kv_cache_dtype="fp8_e4m3fn")[0]
    assert relative(scaled - plain, plain) < 0.01


@pytest.mark.parametrize("family", ["deepseek_v2", "mamba"])
def test_refused_where_there_are_no_keys_and_values(family: str, tmp_path: Path) -> None:
    write_model(family, tmp_path)
    with (
        pytest.raises(CapacityError, match="--kv-cache-dtype"),
        running_shard(tmp_path, kv_cache_dtype="fp8_e5m2"),
    ):
        pass


@pytest.mark.parametrize("dtype", list(DTYPES.values()), ids=list(DTYPES))
def test_numbers_too_large_become_the_largest(dtype: torch.dtype) -> None:
    largest = torch.finfo(dtype).max
    values = torch.tensor([3.0, -1e9, 2 * largest, float("inf")]).view(1, 1, 4)
    caches = [torch.zeros(2, 3, 1, 4, dtype=dtype) for _ in range(2)]
    write_kv(values, values, *caches, torch.tensor([4]), KVScales(0.5, 2.0))
    assert caches[0][1, 1, 0].tolist() == [6, -largest, largest, largest]
    assert caches[1][1, 1, 0].tolist() == [1.5, -largest, largest, largest]
    assert not caches[0].float()[0].any() and not caches[1].float()[1, 0].any()


def test_memory() -> None:
    """A number is a byte; what attention gathers is wide."""
    spec = KVCacheSpec(
        num_layers=3,
        num_kv_heads=2,
        head_dim=5,
        dtype=torch.bfloat16,
        device=torch.device("cpu"),
        cache_dtype=torch.float8_e4m3fn,
    )
    assert spec.token_bytes == 3 * 2 * 2 * 5
    assert spec.workspace_bytes(100) == spec.workspace_tokens(100) * 2 * 2 * 5 * 2
