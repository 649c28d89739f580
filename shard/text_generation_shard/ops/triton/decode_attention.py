"""Attention of one query token per sequence: split over the context, then combined.

    context      [ first visible ................ context )
    split         | 0 | 1 | 2 |           every program takes one, and the last may be shorter

A program computes its split for all query heads of one KV head. How long a split is, the kernels
derive from the context and the number of programs per sequence, so that a captured graph serves
every length: too short a context leaves programs idle (Flash-Decoding, Dao et al., 2023).
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from text_generation_shard.ops.attention_window import AttentionChunk
from text_generation_shard.ops.triton.attend import (
    divided,
    first_visible,
    walk_context,
)
from text_generation_shard.ops.triton.geometry import AttentionCall
from text_generation_shard.ops.triton.library import num_multiprocessors

# Context tokens that are worth a program of their own.
MIN_SPLIT = 256
_MAX_SPLITS = 64
# Programs per multiprocessor that hide each other's latency.
_PROGRAMS_PER_MULTIPROCESSOR = 2


def num_splits(num_rows: int, num_kv_heads: int, max_context: int, num_multiprocessors: int) -> int:
    """Programs per sequence and KV head: enough to fill the device, where the context allows it; a
    power of two, so that few variants are compiled.
    """
    wanted = -(-_PROGRAMS_PER_MULTIPROCESSOR * num_multiprocessors // (num_rows * num_kv_heads))
    useful = -(-max_context // MIN_SPLIT)
    return int(triton.next_power_of_2(max(1, min(wanted, useful, _MAX_SPLITS))))


def decode_attention(
    query: Tensor, output: Tensor, contexts: Tensor, max_context: int, call: AttentionCall
) -> None:
    """Fill output for rows of one token each.

    query, output: [rows, num_heads, head_dim]; contexts: int32 [rows]; max_context: none is longer,
    or the longest is computed in longer splits.
    """
    rows, num_heads, head_dim = query.shape
    num_kv_heads = call.num_kv_heads
    visible = min(max_context, call.window_size or max_context)
    splits = num_splits(rows, num_kv_heads, visible, num_multiprocessors(query.device))
    parts, scales = output, output
    if splits > 1:
        shape = (rows, num_heads, splits)
        parts = torch.empty(*shape, head_dim, dtype=torch.float32, device=query.device)
        scales = torch.empty(shape, dtype=torch.float32, device=query.device)
    tile = call.tile(call.group_rows)
    _decode_kernel[(rows, num_kv_heads, splits)](
        query,
        parts,
        scales,
        contexts,
        splits,
        *call.tensors,
        *call.numbers,
        IS_SPLIT=splits > 1,
        MIN_SPLIT=MIN_SPLIT,
        TILE=tile,
        ROWS=call.group_rows,
        **call.constants,
        num_warps=4,
        num_stages=_stages(tile * call.dim, query.dtype),
    )
    if splits > 1:
        combine_kernel[(rows, num_heads)](
            parts,
            scales,
            output,
            contexts,
            splits,
            WINDOW=call.window_size,
            IS_CHUNKED=isinstance(call.window, AttentionChunk),
            MIN_SPLIT=MIN_SPLIT,
            TILE=tile,
            SPLITS=splits,
            HEAD_DIM=head_dim,
            DIM=call.dim,
            num_warps=1 if splits * call.dim <= 2048 else 4,
        )


def _stages(tile_size: int, dtype: torch.dtype) -> int:
    """Of the pipeline through which tiles of so many elements come. Block tables are read before
    keys and values, so that these get (stages - 1) / 2 buffers: with two, a tile arrives while the
    one before it is computed. Float32 has no registers left for either.
    """
    if dtype.itemsize > 2:
        return 2
    return 5 if tile_size <= 8192 else 3


@triton.jit
def _split_length(visible, splits, MIN_SPLIT: tl.constexpr, TILE: tl.constexpr):
    """Tokens of a split: a multiple of TILE."""
    return tl.maximum(tl.cdiv(tl.cdiv(visible, splits), TILE) * TILE, MIN_SPLIT)


@triton.jit
def split_bounds(split, first, context, splits, MIN_SPLIT: tl.constexpr, TILE: tl.constexpr):
    """Of the context from `first` on, a split's first position, and the one behind its last."""
    length = _split_length(context - first, splits, MIN_SPLIT, TILE)
    begin = first + split * length
    return begin, tl.minimum(begin + length, context)


@triton.jit(
    do_not_specialize=["splits"], do_not_specialize_on_alignment=["contexts", "block_tables"]
)
def _decode_kernel(
    query,
    parts,
    scales,
    contexts,
    splits,
    key_cache,
    value_cache,
    block_tables,
    slopes,
    sinks,
    table_stride,
    scale,
    soft_cap,
    IS_SPLIT: tl.constexpr,
    MIN_SPLIT: tl.constexpr,
    GROUP: tl.constexpr,
    WINDOW: tl.constexpr,
    IS_CHUNKED: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    TILE: tl.constexpr,
    ROWS: tl.constexpr,
    DIM: tl.constexpr,
):
    request, kv_head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    context = tl.load(contexts + request)
    first = first_visible(context - 1, WINDOW, IS_CHUNKED)
    begin, end = split_bounds(split, first, context, splits, MIN_SPLIT, TILE)
    if IS_SPLIT and begin >= context:
        return
    rows, dims = tl.arange(0, ROWS), tl.arange(0, DIM)
    # Rows beyond the group repeat its last head, and are not stored.
    heads = kv_head * GROUP + tl.minimum(rows, GROUP - 1)
    inside = (rows < GROUP)[:, None] & (dims < HEAD_DIM)[None, :]
    part = request.to(tl.int64) * tl.num_programs(1) * GROUP + heads
    places = part[:, None] * HEAD_DIM + dims[None, :]
    values, largest, total = walk_context(
        tl.load(query + places, mask=inside, other=0.0),
        heads,
        tl.zeros([ROWS], tl.int32) + (context - 1),
        split,
        begin,
        end,
        (key_cache, value_cache, block_tables + request.to(tl.int64) * table_stride),
        slopes,
        sinks,
        scale,
        soft_cap,
        WINDOW,
        IS_CHUNKED,
        BLOCK_SIZE,
        HEAD_DIM,
        TILE,
    )
    if IS_SPLIT:
        part = part * splits + split
        tl.store(scales + part, largest + tl.log2(total), mask=rows < GROUP)
    places = part[:, None] * HEAD_DIM + dims[None, :]
    tl.store(parts + places, divided(values, total).to(parts.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["splits"], do_not_specialize_on_alignment=["contexts"])
def combine_kernel(
    parts,
    scales,
    output,
    contexts,
    splits,
    WINDOW: tl.constexpr,
    IS_CHUNKED: tl.constexpr,
    MIN_SPLIT: tl.constexpr,
    TILE: tl.constexpr,
    SPLITS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    DIM: tl.constexpr,
):
    """The mean of the parts, weighted by 2^scale: the share of the softmax that each one has."""
    request, head = tl.program_id(0), tl.program_id(1)
    context = tl.load(contexts + request)
    visible = context - first_visible(context - 1, WINDOW, IS_CHUNKED)
    used = tl.cdiv(visible, _split_length(visible, splits, MIN_SPLIT, TILE))
    row = request.to(tl.int64) * tl.num_programs(1) + head
    split, dims = tl.arange(0, SPLITS), tl.arange(0, DIM)
    inside = split < used
    share = tl.load(scales + row * splits + split, mask=inside, other=float("-inf"))
    # With no split at all (a row without context) the result is zero.
    share = tl.where(inside, tl.exp2(share - tl.max(share)), 0.0)
    part = tl.load(
        parts + (row * splits + split)[:, None] * HEAD_DIM + dims[None, :],
        mask=inside[:, None] & (dims < HEAD_DIM)[None, :],
        other=0.0,
    )
    total = tl.maximum(tl.sum(share), 1e-30)
    values = tl.sum(part * share[:, None], axis=0) / total
    tl.store(
        output + row * HEAD_DIM + dims, values.to(output.dtype.element_ty), mask=dims < HEAD_DIM
    )
