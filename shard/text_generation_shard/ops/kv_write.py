"""Writing new keys and values into the paged cache."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class KVScales:
    """What a layer's keys and values of 8 bits are multiplied by when they are read."""

    keys: float = 1.0
    values: float = 1.0


UNSCALED = KVScales()


def is_eight_bit(cache: Tensor) -> bool:
    """Whether keys or values are 8-bit floats."""
    return cache.dtype.itemsize == 1


def write_keys(
    key: Tensor, key_cache: Tensor, slot_mapping: Tensor, scales: KVScales = UNSCALED
) -> None:
    """As `write_kv`, where values are a part of the keys."""
    _write(key, key_cache, slot_mapping, scales.keys)


def write_kv(
    key: Tensor,
    value: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    slot_mapping: Tensor,
    scales: KVScales = UNSCALED,
) -> None:
    """Store each token's key and value at its place in the cache.

    key, value: [tokens, num_kv_heads, head_dim]; caches: [num_blocks, block_size, num_kv_heads,
    head_dim], changed in place, of the same dtype, bfloat16 (rounded to nearest, ties to even) or
    8-bit floats; slot_mapping: [tokens], int64, block id * block_size + offset; scales: of 8-bit
    floats, which hold value / scale, or the largest number that they have.
    """
    write_keys(key, key_cache, slot_mapping, scales)
    _write(value, value_cache, slot_mapping, scales.values)


def _write(rows: Tensor, cache: Tensor, slot_mapping: Tensor, scale: float) -> None:
    if is_eight_bit(cache):
        limit = torch.finfo(cache.dtype).max
        rows = (rows.float() / scale).clamp_(-limit, limit).to(cache.dtype)
        # torch copies bytes on every device, 8-bit floats not.
        rows, cache = rows.view(torch.uint8), cache.view(torch.uint8)
    cache.flatten(0, 1).index_copy_(0, slot_mapping, rows.to(cache.dtype))
