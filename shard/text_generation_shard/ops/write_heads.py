"""From projected heads to queries and to cached keys and values, in one pass."""

from typing import NamedTuple

from torch import Tensor

from text_generation_shard.ops.cpu.library import native_operators
from text_generation_shard.ops.kv_write import UNSCALED, KVScales, is_float8, write_kv
from text_generation_shard.ops.norm import NormWeights, normed
from text_generation_shard.ops.rotary import Rotation, turn
from text_generation_shard.ops.triton import library as triton_library


class HeadOptions(NamedTuple):
    """What a model does to projected heads besides turning them.

    clip: the largest magnitude of queries, keys and values; 0: any. The norms are those of queries
    and of keys, before they are turned or, with norms_turned, after that.
    """

    clip: float = 0.0
    query_norm: NormWeights | None = None
    key_norm: NormWeights | None = None
    norms_turned: bool = False


PLAIN_HEADS = HeadOptions()


def write_heads(
    heads: Tensor,
    rotation: Rotation | None,
    key_cache: Tensor,
    value_cache: Tensor,
    slot_mapping: Tensor,
    *,
    options: HeadOptions = PLAIN_HEADS,
    temperature: Tensor | None = None,
    scales: KVScales = UNSCALED,
) -> Tensor:
    """Returns the queries, [tokens, num_heads, head_dim]; may change `heads`.

    heads: [tokens, num_heads + 2 * num_kv_heads, head_dim], contiguous: queries, keys, values;
    rotation: None where positions do not turn; temperature: float32 [tokens], what queries are
    multiplied by at last; the rest as `write_kv` has it.
    """
    num_kv_heads = key_cache.shape[2]
    num_heads = heads.shape[1] - 2 * num_kv_heads
    cache = (key_cache, value_cache)
    is_triton = triton_library.takes(heads)
    native = None if is_triton or is_float8(key_cache) else native_operators(heads)
    if native is not None:
        fields = scales.with_caches(*cache)
        native.store_heads(heads.flatten(1), options, rotation, temperature, fields, slot_mapping)
        return heads[:, :num_heads]
    if options.clip:
        heads = heads.clamp_(-options.clip, options.clip)
    if is_triton and rotation is not None and _has_kernel(options):
        query = _by_kernel(heads, rotation, cache, slot_mapping, options, scales)
    else:
        query, key = heads[:, :num_heads], heads[:, num_heads:-num_kv_heads]
        query = _norm_and_turn(query, options.query_norm, rotation, options)
        key = _norm_and_turn(key, options.key_norm, rotation, options)
        write_kv(key, heads[:, -num_kv_heads:], *cache, slot_mapping, scales)
    return query if temperature is None else query * temperature[:, None, None].to(query.dtype)


def _norm_and_turn(
    heads: Tensor, norm: NormWeights | None, rotation: Rotation | None, options: HeadOptions
) -> Tensor:
    if options.norms_turned:
        heads = turn(heads, rotation)
    if norm is not None:
        heads = normed(heads, norm)
    return heads if options.norms_turned else turn(heads, rotation)


def _has_kernel(options: HeadOptions) -> bool:
    """Whether the Triton kernel norms like this: by root mean square, before it turns."""
    norms = (options.query_norm, options.key_norm)
    return norms == (None, None) or not (
        options.norms_turned or any(norm is None or norm.is_centred for norm in norms)
    )


def _by_kernel(
    heads: Tensor,
    rotation: Rotation,
    cache: tuple[Tensor, Tensor],
    slot_mapping: Tensor,
    options: HeadOptions,
    scales: KVScales,
) -> Tensor:
    from text_generation_shard.ops.triton import rotary_kv

    query_norm, key_norm = options.query_norm, options.key_norm
    weights, eps = None, 0.0
    if query_norm is not None and key_norm is not None:
        assert query_norm.eps == key_norm.eps
        weights, eps = (query_norm.weight, key_norm.weight), query_norm.eps
    return rotary_kv.rotate_and_write(
        heads,
        rotation.cos,
        rotation.signed_sin,
        *cache,
        slot_mapping,
        interleaved=rotation.is_interleaved,
        norm_weights=weights,
        eps=eps,
        scales=scales,
    )
