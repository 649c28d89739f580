"""The cache of latent attention: values are stored with the keys."""

import torch
from text_generation_shard.kv_cache import KVCache, KVCacheSpec

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
