"""Attention of one query token per sequence, by pieces of the contexts, then put together.

A program computes a piece (`context_pieces`) for all query heads of one KV head. A row that is one
piece is done then; of others the pieces are combined by the share of the softmax that each has.
"""

from dataclasses import dataclass
from typing import Any

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
from text_generation_shard.ops.triton.context_pieces import (
    locate_piece,
    num_pieces,
    piece_length,
    pieces_of_row,
    pieces_per_row,
)
from text_generation_shard.ops.triton.geometry import AttentionCall
from text_generation_shard.ops.triton.library import num_multiprocessors

# Pieces that are combined in one pass.
_PARTS = 16


def decode_attention(query: Tensor, output: Tensor, contexts: Tensor, call: AttentionCall) -> None:
    """Fill output for rows of one token each.

    query, output: [rows, num_heads, head_dim]; contexts: int32 [rows].
    """
    rows, num_kv_heads = len(query), call.num_kv_heads
    multiprocessors = num_multiprocessors(query.device)
    per_row = pieces_per_row(rows, num_kv_heads, call.max_visible, multiprocessors)
    programs = num_pieces(rows, per_row)
    parts = DecodeParts.of(output, programs) if per_row else None
    tile = call.tile(call.group_rows)
    _decode_kernel[(programs, num_kv_heads)](
        query,
        output,
        None if parts is None else parts.values,
        None if parts is None else parts.scales,
        contexts,
        rows,
        per_row,
        *call.tensors,
        *call.numbers,
        TILE=tile,
        ROWS=call.group_rows,
        **call.constants,
        num_warps=4,
        num_stages=_stages(tile * call.dim, query.dtype),
    )
    if parts is not None:
        is_chunked = isinstance(call.window, AttentionChunk)
        window = {"WINDOW": call.window_size, "IS_CHUNKED": is_chunked}
        parts.combine(output, contexts, per_row, TILE=tile, **window)


def _stages(tile_size: int, dtype: torch.dtype) -> int:
    """Of the pipeline through which tiles of so many elements come. Block tables are read before
    keys and values, so that these get (stages - 1) / 2 buffers: with two, a tile arrives while the
    one before it is computed. Float32 has no registers left for either.
    """
    if dtype.itemsize > 2:
        return 2
    return 5 if tile_size <= 8192 else 3


@dataclass(frozen=True, slots=True)
class DecodeParts:
    """What programs computed of rows of several pieces; float32.

    values: [pieces, num_heads, dim], not yet weighted; scales: [pieces, num_heads], the base 2
    logarithms of the pieces' shares of the softmax.
    """

    values: Tensor
    scales: Tensor

    @classmethod
    def of(cls, output: Tensor, programs: int) -> "DecodeParts":
        """Room for what goes into output, [rows, num_heads, dim]."""
        shape = (programs, *output.shape[1:])
        values = torch.empty(shape, dtype=torch.float32, device=output.device)
        return cls(values, torch.empty(shape[:2], dtype=torch.float32, device=output.device))

    def combine(self, output: Tensor, contexts: Tensor, per_row: int, **constants: Any) -> None:
        """Fill the rows of output that have several pieces. constants: TILE, WINDOW, IS_CHUNKED,
        as where the pieces were computed.
        """
        rows, num_heads, dim = output.shape
        _combine_kernel[(rows, num_heads)](
            self.values,
            self.scales,
            output,
            contexts,
            rows,
            per_row,
            **constants,
            PARTS=_PARTS,
            HEAD_DIM=dim,
            DIM=triton.next_power_of_2(dim),
            num_warps=1 if dim <= 128 else 4,
        )


@triton.jit(
    do_not_specialize=["num_rows", "per_row", "table_stride"],
    do_not_specialize_on_alignment=["contexts", "block_tables"],
)
def _decode_kernel(
    query,
    output,
    parts,
    scales,
    contexts,
    num_rows,
    per_row,
    key_cache,
    value_cache,
    block_tables,
    slopes,
    distance_bias,
    sinks,
    table_stride,
    scale,
    soft_cap,
    num_distances,
    GROUP: tl.constexpr,
    WINDOW: tl.constexpr,
    IS_CHUNKED: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    TILE: tl.constexpr,
    ROWS: tl.constexpr,
    DIM: tl.constexpr,
):
    piece, kv_head = tl.program_id(0), tl.program_id(1)
    request, first_piece, length = locate_piece(
        parts, contexts, num_rows, per_row, piece, WINDOW, IS_CHUNKED, TILE
    )
    if request >= num_rows:
        return
    context = tl.load(contexts + request)
    first = first_visible(context - 1, WINDOW, IS_CHUNKED)
    begin = first + (piece - first_piece) * length
    rows, dims = tl.arange(0, ROWS), tl.arange(0, DIM)
    # Rows beyond the group repeat its last head, and are not stored.
    heads = kv_head * GROUP + tl.minimum(rows, GROUP - 1)
    inside = (rows < GROUP)[:, None] & (dims < HEAD_DIM)[None, :]
    num_heads = tl.num_programs(1) * GROUP
    places = (request.to(tl.int64) * num_heads + heads)[:, None] * HEAD_DIM + dims[None, :]
    values, largest, total = walk_context(
        tl.load(query + places, mask=inside, other=0.0),
        heads,
        tl.zeros([ROWS], tl.int32) + (context - 1),
        piece - first_piece,
        begin,
        tl.minimum(begin + length, context),
        (key_cache, value_cache, block_tables + request.to(tl.int64) * table_stride),
        (slopes, distance_bias, sinks, scale, soft_cap, num_distances),
        WINDOW,
        IS_CHUNKED,
        BLOCK_SIZE,
        HEAD_DIM,
        TILE,
    )
    part, is_whole = piece.to(tl.int64) * num_heads + heads, context - first <= length
    out = (output, parts, scales)
    store_piece(values, largest, total, out, places, part, rows < GROUP, dims, is_whole, HEAD_DIM)


@triton.jit
def store_piece(
    values, largest, total, out, places, part, is_row, dims, is_whole, HEAD_DIM: tl.constexpr
):
    """Store what `walk_context` returns: of rows of one piece behind output, as places say; of the
    others as a part. out: output, parts, scales; places: [ROWS, DIM]; part, is_row: [ROWS].
    """
    output, parts, scales = out
    values = divided(values, total)
    is_dim = dims < HEAD_DIM
    if parts is not None:
        is_part = tl.where(is_whole, False, is_row)
        tl.store(scales + part, largest + tl.log2(total), mask=is_part)
        part_places = part[:, None] * HEAD_DIM + dims[None, :]
        tl.store(parts + part_places, values, mask=is_part[:, None] & is_dim[None, :])
    stored = tl.where(is_whole, is_row, False)[:, None] & is_dim[None, :]
    tl.store(output + places, values.to(output.dtype.element_ty), mask=stored)


@triton.jit(do_not_specialize=["num_rows", "per_row"], do_not_specialize_on_alignment=["contexts"])
def _combine_kernel(
    parts,
    scales,
    output,
    contexts,
    num_rows,
    per_row,
    WINDOW: tl.constexpr,
    IS_CHUNKED: tl.constexpr,
    TILE: tl.constexpr,
    PARTS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    DIM: tl.constexpr,
):
    """The mean of a row's parts, weighted by 2^scale: the share of the softmax that each one has.
    A row of one piece is done already.
    """
    row, head = tl.program_id(0), tl.program_id(1)
    length = piece_length(contexts, num_rows, per_row, WINDOW, IS_CHUNKED, TILE)
    first, count = pieces_of_row(contexts, num_rows, row, length, WINDOW, IS_CHUNKED)
    if count == 1:
        return
    dims = tl.arange(0, DIM)
    values = tl.zeros([DIM], tl.float32)
    largest = tl.full([], float("-inf"), tl.float32)
    total = tl.full([], 0.0, tl.float32)
    for begin in range(0, count, PARTS):
        part = begin + tl.arange(0, PARTS)
        inside = part < count
        places = (first + part).to(tl.int64) * tl.num_programs(1) + head
        share = tl.load(scales + places, mask=inside, other=float("-inf"))
        highest = tl.maximum(largest, tl.max(share))
        # Of a row that saw nothing yet, so that no difference of infinities is taken.
        base = tl.where(highest == float("-inf"), 0.0, highest)
        weights, shrink = tl.exp2(share - base), tl.exp2(largest - base)
        part_values = tl.load(
            parts + places[:, None] * HEAD_DIM + dims[None, :],
            mask=inside[:, None] & (dims < HEAD_DIM)[None, :],
            other=0.0,
        )
        values = values * shrink + tl.sum(part_values * weights[:, None], axis=0)
        total = total * shrink + tl.sum(weights)
        largest = highest
    values /= tl.where(total > 0, total, 1.0)
    place = (row.to(tl.int64) * tl.num_programs(1) + head) * HEAD_DIM + dims
    tl.store(output + place, values.to(output.dtype.element_ty), mask=dims < HEAD_DIM)
