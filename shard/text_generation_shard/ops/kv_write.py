"""Writing new keys and values into the paged cache."""

from torch import Tensor


def write_keys(key: Tensor, key_cache: Tensor, slot_mapping: Tensor) -> None:
    """As `write_kv`, where values are a part of the keys."""
    key_cache.flatten(0, 1).index_copy_(0, slot_mapping, key)


def write_kv(
    key: Tensor, value: Tensor, key_cache: Tensor, value_cache: Tensor, slot_mapping: Tensor
) -> None:
    """Store each token's key and value at its place in the cache.

    key, value: [tokens, num_kv_heads, head_dim]; caches: [num_blocks, block_size, num_kv_heads,
    head_dim], changed in place; slot_mapping: [tokens], int64, block id * block_size + offset.
    """
    write_keys(key, key_cache, slot_mapping)
    value_cache.flatten(0, 1).index_copy_(0, slot_mapping, value)
