"""Turning queries and keys by their positions, and writing keys and values, in one pass."""

from dataclasses import dataclass

from torch import Tensor

from text_generation_shard.ops.cpu.library import native_operators
from text_generation_shard.ops.kv_write import UNSCALED, KVScales, is_eight_bit, write_kv
from text_generation_shard.ops.rms_norm import rms_norm
from text_generation_shard.ops.rotary import apply_rotary
from text_generation_shard.ops.triton import library as triton_library


@dataclass(frozen=True, slots=True)
class HeadNorms:
    """Root mean square norms of every query and every key; weights: [head_dim]."""

    query_weight: Tensor
    key_weight: Tensor
    eps: float


def rotate_and_write(
    heads: Tensor,
    cos: Tensor,
    signed_sin: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    slot_mapping: Tensor,
    *,
    interleaved: bool = False,
    norms: HeadNorms | None = None,
    scales: KVScales = UNSCALED,
) -> Tensor:
    """Returns the turned queries, [tokens, num_heads, head_dim]; may change `heads`.

    heads: [tokens, num_heads + 2 * num_kv_heads, head_dim], contiguous: queries, keys, values. cos,
    signed_sin, interleaved: as `apply_rotary` has them; norms: applied before; the rest as
    `write_kv` has it.
    """
    num_kv_heads = key_cache.shape[2]
    num_heads = heads.shape[1] - 2 * num_kv_heads
    if triton_library.takes(heads):
        from text_generation_shard.ops.triton import rotary_kv

        return rotary_kv.rotate_and_write(
            heads,
            cos,
            signed_sin,
            key_cache,
            value_cache,
            slot_mapping,
            interleaved=interleaved,
            norm_weights=None if norms is None else (norms.query_weight, norms.key_weight),
            eps=0.0 if norms is None else norms.eps,
            scales=scales,
        )
    values = heads[:, -num_kv_heads:]
    places = (key_cache, value_cache, slot_mapping, scales)
    if norms is not None:
        query = rms_norm(heads[:, :num_heads], norms.query_weight, norms.eps)
        key = rms_norm(heads[:, num_heads:-num_kv_heads], norms.key_weight, norms.eps)
        query, key = (
            apply_rotary(part, cos, signed_sin, interleaved=interleaved) for part in (query, key)
        )
        write_kv(key, values, *places)
        return query
    is_native = not interleaved and not is_eight_bit(key_cache)
    native = native_operators(heads) if is_native else None
    if native is not None:
        native.rotate_and_store(
            heads.flatten(1), cos, signed_sin, key_cache, value_cache, slot_mapping
        )
        return heads[:, :num_heads]
    turned = apply_rotary(heads[:, :-num_kv_heads], cos, signed_sin, interleaved=interleaved)
    write_kv(turned[:, num_heads:], values, *places)
    return turned[:, :num_heads]
