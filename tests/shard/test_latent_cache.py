"""The cache of latent attention: values are stored with the keys."""

from dataclasses import replace

import pytest
import torch
from text_generation_shard.kv_cache import KVCache, KVCacheSpec
from text_generation_shard.ops.cpu import library
from text_generation_shard.ops.kv_write import write_keys, write_kv
from text_generation_shard.ops.paged_attention import paged_attention, plan_attention
from torch import Tensor

SPEC = KVCacheSpec(
    num_layers=3,
    num_kv_heads=1,
    head_dim=20,
    dtype=torch.bfloat16,
    device=torch.device("cpu"),
    latent_dim=12,
)


def test_nothing_is_stored_twice() -> None:
    cache = KVCache.allocate(SPEC, num_blocks=5, block_size=4, max_total_tokens=32, num_slots=1)
    stored = {layer.keys.untyped_storage().data_ptr(): layer.keys.nbytes for layer in cache.layers}
    stored |= {
        layer.values.untyped_storage().data_ptr(): layer.values.untyped_storage().nbytes()
        for layer in cache.layers
    }
    assert sum(stored.values()) == cache.num_bytes == 5 * 4 * 3 * 20 * 2


def test_values_are_the_first_part_of_keys() -> None:
    cache = KVCache.allocate(SPEC, num_blocks=5, block_size=4, max_total_tokens=32, num_slots=1)
    layer = cache.layers[1]
    layer.keys[2, 1, 0] = torch.arange(20)
    assert layer.values[2, 1, 0].tolist() == list(range(12))
    assert layer.workspace.is_shared and layer.workspace.values.shape[-1] == 12


@pytest.mark.parametrize("latent_dim", [12, None])
@pytest.mark.parametrize("is_native", [True, False])
def test_rounded_keys_are_read_as_if_they_were_wide(
    latent_dim: int | None, is_native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, by decode rows and by a chunk, by operators that do not round queries as well;
    rounding is to nearest, ties to even.
    """
    operators = library.operators() if is_native else None
    if operators is not None and operators.rounds_to_bfloat16:
        operators = library.operators_for("avx512")
    monkeypatch.setattr(library, "operators", lambda: operators)
    spec = replace(SPEC, dtype=torch.float32, latent_dim=latent_dim)
    keys, values = torch.randn(2, 11, 1, 20)
    keys[0, 0, :2] = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8])
    rounded = keys.bfloat16().float(), values.bfloat16().float()
    assert rounded[0][0, 0, :2].tolist() == [1, 1 + 2**-6]
    expected = attend(spec, *rounded)
    actual = attend(replace(spec, cache_dtype=torch.bfloat16), keys, values)
    assert torch.equal(actual, expected)


def attend(spec: KVCacheSpec, keys: Tensor, values: Tensor) -> Tensor:
    """Of one row and of three over all of 11 tokens, with queries that are always the same."""
    cache = KVCache.allocate(spec, num_blocks=5, block_size=4, max_total_tokens=32, num_slots=1)
    layer = cache.layers[1]
    assert layer.keys.dtype == spec.stored_dtype
    slots = torch.arange(4, 15)
    if spec.latent_dim is None:
        write_kv(keys, values, layer.keys, layer.values, slots)
    else:
        write_keys(keys, layer.keys, slots)
    plan = plan_attention(
        block_tables=torch.tensor([[1, 2, 3], [1, 2, 3]], dtype=torch.int32),
        query_lengths=[1, 3],
        context_lengths=[11, 11],
        block_size=4,
        sliding_window=None,
    )
    query = torch.randn(4, 2, 20, generator=torch.Generator().manual_seed(1))
    return paged_attention(query, layer.keys, layer.values, plan, layer.workspace, scale=0.3)
