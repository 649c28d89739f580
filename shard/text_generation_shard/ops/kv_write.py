"""Writing new keys and values into the paged cache."""

from dataclasses import dataclass

import torch
from torch import Tensor

from text_generation_shard.ops.cpu.operators import CacheFields
from text_generation_shard.ops.rounded_rows import round_rows, spread


@dataclass(frozen=True, slots=True)
class KVScales:
    """What a layer's keys and values of 8 bits are multiplied by when they are read.

    Of 8-bit floats: numbers. Of int8: bfloat16 [num_blocks, num_kv_heads, block_size], written with
    the keys and values.
    """

    keys: float | Tensor = 1.0
    values: float | Tensor = 1.0

    def with_caches(self, key_cache: Tensor, value_cache: Tensor) -> CacheFields:
        """As the C++ operators take them, which know no scales but those of int8."""
        key_scales = self.keys if isinstance(self.keys, Tensor) else None
        value_scales = self.values if isinstance(self.values, Tensor) else None
        return key_cache, value_cache, key_scales, value_scales


UNSCALED = KVScales()


def is_float8(cache: Tensor) -> bool:
    """Whether keys or values are 8-bit floats."""
    return cache.dtype.itemsize == 1 and cache.dtype.is_floating_point


def write_keys(
    key: Tensor, key_cache: Tensor, slot_mapping: Tensor, scales: KVScales = UNSCALED
) -> None:
    """As `write_kv`, where values are a part of the keys."""
    is_spread = key_cache.dtype is torch.int8
    _write(spread(key) if is_spread else key, key_cache, slot_mapping, scales.keys)


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
    head_dim], changed in place, of the same dtype, bfloat16 (rounded to nearest, ties to even),
    8-bit floats or int8 (see `rounded_rows`); slot_mapping: [tokens], int64, block id * block_size
    + offset; scales: of 8-bit floats, which hold value / scale, or the largest number that they
    have; of int8 they are written, too.
    """
    write_keys(key, key_cache, slot_mapping, scales)
    _write(value, value_cache, slot_mapping, scales.values)


def _write(rows: Tensor, cache: Tensor, slot_mapping: Tensor, scale: float | Tensor) -> None:
    if cache.dtype is torch.int8:
        assert isinstance(scale, Tensor)
        rows, scales = round_rows(rows)
        block_size = cache.shape[1]
        scale[slot_mapping // block_size, :, slot_mapping % block_size] = scales
    elif is_float8(cache):
        limit = torch.finfo(cache.dtype).max
        rows = (rows.float() / scale).clamp_(-limit, limit).to(cache.dtype)
        # torch copies bytes on every device, 8-bit floats not.
        rows, cache = rows.view(torch.uint8), cache.view(torch.uint8)
    cache.flatten(0, 1).index_copy_(0, slot_mapping, rows.to(cache.dtype))
