"""Turning queries and keys by their positions, and writing keys and values, in one pass."""

from torch import Tensor

from text_generation_shard.ops.cpu.library import native_operators
from text_generation_shard.ops.kv_write import write_kv
from text_generation_shard.ops.rotary import apply_rotary


def rotate_and_write(
    heads: Tensor,
    cos: Tensor,
    signed_sin: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    slot_mapping: Tensor,
) -> Tensor:
    """Returns the turned queries, [tokens, num_heads, head_dim]; may change `heads`.

    heads: [tokens, num_heads + 2 * num_kv_heads, head_dim], contiguous: queries, keys, values. cos,
    signed_sin: as `apply_rotary` has them, not interleaved; the rest as `write_kv` has it.
    """
    num_kv_heads = key_cache.shape[2]
    num_heads = heads.shape[1] - 2 * num_kv_heads
    native = native_operators(heads)
    if native is not None:
        native.rotate_and_store(
            heads.flatten(1), cos, signed_sin, key_cache, value_cache, slot_mapping
        )
        return heads[:, :num_heads]
    turned = apply_rotary(heads[:, :-num_kv_heads], cos, signed_sin)
    values = heads[:, -num_kv_heads:]
    write_kv(turned[:, num_heads:], values, key_cache, value_cache, slot_mapping)
    return turned[:, :num_heads]
