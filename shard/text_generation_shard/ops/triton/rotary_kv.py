"""One pass over a step's heads: norm of queries and keys, rotation, and the write to the cache."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from text_generation_shard.ops.kv_write import KVScales

# Elements that one program turns.
_TILE = 1024


def rotate_and_write(
    heads: Tensor,
    cos: Tensor,
    signed_sin: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    slot_mapping: Tensor,
    *,
    interleaved: bool,
    norm_weights: tuple[Tensor, Tensor] | None,
    eps: float,
    scales: KVScales,
) -> Tensor:
    """Arguments and result as `ops.rotary_kv.rotate_and_write` has them."""
    tokens, total_heads, head_dim = heads.shape
    num_kv_heads = key_cache.shape[2]
    num_heads = total_heads - 2 * num_kv_heads
    query = torch.empty(tokens, num_heads, head_dim, dtype=heads.dtype, device=heads.device)
    if tokens == 0:
        return query
    query_weight, key_weight = norm_weights or (None, None)
    dim = triton.next_power_of_2(head_dim)
    group = max(1, min(triton.next_power_of_2(total_heads), _TILE // dim))
    _rotate_kernel[(tokens, triton.cdiv(total_heads, group))](
        heads,
        cos,
        signed_sin,
        query_weight,
        key_weight,
        eps,
        query,
        key_cache,
        value_cache,
        slot_mapping,
        heads.stride(0),
        cos.stride(0),
        key_cache.stride(1),
        scales.keys,
        scales.values,
        NUM_HEADS=num_heads,
        NUM_KV_HEADS=num_kv_heads,
        HEAD_DIM=head_dim,
        ROTARY_DIM=cos.shape[-1],
        IS_INTERLEAVED=interleaved,
        GROUP=group,
        DIM=dim,
        num_warps=4,
    )
    return query


@triton.jit
def _rotate_kernel(
    heads,
    cos,
    signed_sin,
    query_weight,
    key_weight,
    eps,
    query,
    key_cache,
    value_cache,
    slot_mapping,
    heads_stride,
    cos_stride,
    cache_stride,
    key_scale,
    value_scale,
    NUM_HEADS: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    ROTARY_DIM: tl.constexpr,
    IS_INTERLEAVED: tl.constexpr,
    GROUP: tl.constexpr,
    DIM: tl.constexpr,
):
    """Heads of a token: [ queries | keys | values ], all [GROUP, DIM] here."""
    token = tl.program_id(0).to(tl.int64)
    head = (tl.program_id(1) * GROUP + tl.arange(0, GROUP))[:, None]
    dims = tl.arange(0, DIM)
    inside = (head < NUM_HEADS + 2 * NUM_KV_HEADS) & (dims < HEAD_DIM)[None, :]
    is_query = head < NUM_HEADS
    is_value = head >= NUM_HEADS + NUM_KV_HEADS
    partner = _partner(dims, ROTARY_DIM, IS_INTERLEAVED)

    row = heads + token * heads_stride + head * HEAD_DIM
    x = tl.load(row + dims[None, :], mask=inside, other=0.0).to(tl.float32)
    other = tl.load(row + partner[None, :], mask=inside, other=0.0).to(tl.float32)
    if query_weight is not None:
        scale = tl.rsqrt(tl.sum(x * x, axis=1) / HEAD_DIM + eps)[:, None]
        factor = _norm_weights(query_weight, key_weight, is_query, dims, HEAD_DIM)
        x = tl.where(is_value, x, x * scale * factor)
        factor = _norm_weights(query_weight, key_weight, is_query, partner, HEAD_DIM)
        other = tl.where(is_value, other, other * scale * factor)
    turns = dims < ROTARY_DIM
    c = tl.load(cos + token * cos_stride + dims, mask=turns, other=1.0).to(tl.float32)
    s = tl.load(signed_sin + token * cos_stride + dims, mask=turns, other=0.0).to(tl.float32)
    turned = tl.where(is_value, x, x * c[None, :] + other * s[None, :])

    out = query + (token * NUM_HEADS + head) * HEAD_DIM + dims[None, :]
    tl.store(out, turned.to(query.dtype.element_ty), mask=inside & is_query)
    place = tl.load(slot_mapping + token).to(tl.int64) * cache_stride
    key = key_cache + place + (head - NUM_HEADS) * HEAD_DIM + dims[None, :]
    is_key = (head >= NUM_HEADS) & (head < NUM_HEADS + NUM_KV_HEADS)
    stored = narrowed(turned, key_scale, key_cache.dtype.element_ty)
    tl.store(key, stored, mask=inside & is_key)
    value = value_cache + place + (head - NUM_HEADS - NUM_KV_HEADS) * HEAD_DIM + dims[None, :]
    stored = narrowed(turned, value_scale, value_cache.dtype.element_ty)
    tl.store(value, stored, mask=inside & is_value)


@triton.jit
def narrowed(x, scale, DTYPE: tl.constexpr):
    """x as a cache of this dtype holds it: of 8 bits, x / scale, or the largest number there is."""
    if DTYPE.primitive_bitwidth == 8:
        LIMIT: tl.constexpr = 448.0 if tl.float8e4nv == DTYPE else 57344.0
        x = tl.clamp(x / scale, -LIMIT, LIMIT, propagate_nan=tl.PropagateNan.ALL)
    return x.to(DTYPE)


@triton.jit
def _partner(dims, ROTARY_DIM: tl.constexpr, IS_INTERLEAVED: tl.constexpr):
    """The dimension that each one turns with; itself where nothing turns."""
    if IS_INTERLEAVED:
        partner = dims ^ 1
    else:
        partner = tl.where(dims < ROTARY_DIM // 2, dims + ROTARY_DIM // 2, dims - ROTARY_DIM // 2)
    return tl.where(dims < ROTARY_DIM, partner, dims)


@triton.jit
def _norm_weights(query_weight, key_weight, is_query, dims, HEAD_DIM: tl.constexpr):
    """[GROUP, DIM]: the weight of the query's or the key's norm in each head."""
    inside = dims < HEAD_DIM
    of_query = tl.load(query_weight + dims, mask=inside, other=0.0).to(tl.float32)
    of_key = tl.load(key_weight + dims, mask=inside, other=0.0).to(tl.float32)
    return tl.where(is_query, of_query[None, :], of_key[None, :])
