"""Attention to latent vectors (DeepSeek-AI, 2024): one key for all heads, the value a part of it.

    key     [ latent | turned ]         value   [ latent ]

A tile of keys is read once for both products. All heads of all tokens of a request are rows of the
same kind, so that decodes and chunks are one kernel:

    rows of a request   token 0: head 0 .. h - 1 | token 1: head 0 .. h - 1 | ...
"""

from dataclasses import dataclass

import triton
import triton.language as tl
from torch import Tensor

from text_generation_shard.ops.triton.attend import LOG2_E, next_weights
from text_generation_shard.ops.triton.context_pieces import (
    locate_piece,
    num_pieces,
    pieces_per_row,
)
from text_generation_shard.ops.triton.decode_attention import DecodeParts, store_piece
from text_generation_shard.ops.triton.geometry import DeviceGeometry
from text_generation_shard.ops.triton.library import num_multiprocessors

# Rows of a program, which hold their sum of values in registers.
_MAX_ROWS = 32
_MIN_ROWS = 16


def latent_attention(
    query: Tensor, output: Tensor, cache: Tensor, geometry: DeviceGeometry, *, scale: float
) -> None:
    """Fill output. query: [tokens, num_heads, head_dim]; output: [tokens, num_heads, latent_dim];
    cache: [num_blocks, block_size, 1, head_dim].
    """
    count, num_heads = geometry.num_decodes, query.shape[1]
    if count:
        programs = triton.cdiv(num_heads, _MAX_ROWS)
        multiprocessors = num_multiprocessors(query.device)
        max_context = geometry.block_tables.shape[1] * cache.shape[1]
        per_row = pieces_per_row(count, programs, max_context, multiprocessors)
        parts = DecodeParts.of(output[:count], num_pieces(count, per_row)) if per_row else None
        requests = _Requests(geometry.block_tables, geometry.contexts, None, count, num_heads)
        _launch(query, output, cache, requests, parts, per_row, scale=scale)
        if parts is not None:
            window = {"WINDOW": 0, "IS_CHUNKED": False}
            parts.combine(output[:count], geometry.contexts, per_row, TILE=_tile(query), **window)
    chunks = geometry.chunks
    if chunks is not None:
        rows = chunks.max_tokens * num_heads
        where = (chunks.block_tables, chunks.contexts, chunks.first_rows)
        requests = _Requests(*where, chunks.count, rows)
        _launch(query, output, cache, requests, None, 0, scale=scale)


def _tile(query: Tensor) -> int:
    """Keys of a tile."""
    return 32 if query.dtype.itemsize == 2 else 16


@dataclass(frozen=True, slots=True)
class _Requests:
    """Decodes or chunks: `count`, none with more than max_rows heads of tokens; first_rows: of
    chunks. Shapes as `Chunks` has them.
    """

    block_tables: Tensor
    contexts: Tensor
    first_rows: Tensor | None
    count: int
    max_rows: int


def _launch(
    query: Tensor,
    output: Tensor,
    cache: Tensor,
    requests: _Requests,
    parts: DecodeParts | None,
    per_row: int,
    *,
    scale: float,
) -> None:
    """Fill output, or, of rows of several pieces, parts."""
    (num_heads, head_dim), latent = query.shape[1:], output.shape[2]
    is_narrow = query.dtype.itemsize == 2
    rows = _MIN_ROWS
    if is_narrow and num_heads > rows:
        rows = _MAX_ROWS
    pieces = num_pieces(requests.count, per_row)
    _latent_kernel[(triton.cdiv(requests.max_rows, rows), pieces)](
        query,
        output,
        None if parts is None else parts.values,
        None if parts is None else parts.scales,
        requests.first_rows,
        requests.contexts,
        requests.count,
        per_row,
        cache,
        requests.block_tables,
        requests.block_tables.stride(0),
        scale,
        HEADS=num_heads,
        LATENT=latent,
        TURNED=head_dim - latent,
        BLOCK_SIZE=cache.shape[1],
        TILE=_tile(query),
        ROWS=rows,
        DIM=max(_MIN_ROWS, triton.next_power_of_2(latent)),
        TURNED_DIM=max(_MIN_ROWS, triton.next_power_of_2(head_dim - latent)),
        num_warps=4 if is_narrow and rows == _MIN_ROWS else 8,
        num_stages=5 if is_narrow else 2,
    )


@triton.jit
def _walk(
    latent_query,
    turned_query,
    row_positions,
    begin,
    end,
    cache,
    block_table,
    scale,
    LATENT: tl.constexpr,
    TURNED: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    TILE: tl.constexpr,
):
    """As `attend.walk_context`; latent_query: [ROWS, DIM]; turned_query: [ROWS, TURNED_DIM]."""
    dims = tl.arange(0, latent_query.shape[1])
    turned_dims = tl.arange(0, turned_query.shape[1])
    PRECISION: tl.constexpr = "tf32x3" if latent_query.dtype == tl.float32 else "tf32"
    largest = tl.full(row_positions.shape, float("-inf"), tl.float32)
    total = tl.zeros(row_positions.shape, tl.float32)
    values = tl.zeros(latent_query.shape, tl.float32)
    for tile in tl.range(begin, end, TILE):
        positions = tile + tl.arange(0, TILE)
        inside = positions < end
        blocks = tl.load(block_table + positions // BLOCK_SIZE, mask=inside, other=0)
        places = blocks.to(tl.int64) * BLOCK_SIZE + positions % BLOCK_SIZE
        keys = cache + places[:, None] * (LATENT + TURNED)
        stored = inside[:, None] & (dims < LATENT)[None, :]
        latent = tl.load(keys + dims[None, :], mask=stored, other=0.0)
        stored = inside[:, None] & (turned_dims < TURNED)[None, :]
        turned = tl.load(keys + LATENT + turned_dims[None, :], mask=stored, other=0.0)
        scores = tl.dot(latent_query, tl.trans(latent), input_precision=PRECISION)
        scores = tl.dot(turned_query, tl.trans(turned), scores, input_precision=PRECISION)
        visible = inside[None, :] & (positions[None, :] <= row_positions[:, None])
        scores = tl.where(visible, scores * (scale * LOG2_E), float("-inf"))
        weights, shrink, largest, total = next_weights(scores, largest, total)
        values *= shrink[:, None]
        values = tl.dot(weights.to(latent.dtype), latent, values, input_precision=PRECISION)
    return values, largest, total


@triton.jit
def _tokens_of_request(first_rows, request):
    """First row and number; without first_rows every request has one, at its own place."""
    first_row = request
    tokens = 1
    if first_rows is not None:
        first_row = tl.load(first_rows + request)
        tokens = tl.load(first_rows + request + 1) - first_row
    return first_row, tokens


@triton.jit(
    do_not_specialize=["num_requests", "per_row", "table_stride"],
    do_not_specialize_on_alignment=["first_rows", "contexts", "block_tables"],
)
def _latent_kernel(
    query,
    output,
    parts,
    scales,
    first_rows,
    contexts,
    num_requests,
    per_row,
    cache,
    block_tables,
    table_stride,
    scale,
    HEADS: tl.constexpr,
    LATENT: tl.constexpr,
    TURNED: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    TILE: tl.constexpr,
    ROWS: tl.constexpr,
    DIM: tl.constexpr,
    TURNED_DIM: tl.constexpr,
):
    piece = tl.program_id(1)
    request, first_piece, length = locate_piece(
        parts, contexts, num_requests, per_row, piece, 0, False, TILE
    )
    if request >= num_requests:
        return
    context = tl.load(contexts + request)
    first_token, tokens = _tokens_of_request(first_rows, request)
    first = tl.program_id(0) * ROWS
    if first >= tokens * HEADS:
        return
    # Up to the last token of these rows.
    end = context - tokens + tl.minimum(tokens, (first + ROWS - 1) // HEADS + 1)
    begin = (piece - first_piece) * length
    rows = first + tl.arange(0, ROWS)
    dims, turned_dims = tl.arange(0, DIM), tl.arange(0, TURNED_DIM)
    is_row = rows < tokens * HEADS
    row = first_token.to(tl.int64) * HEADS + rows
    inside = is_row[:, None] & (dims < LATENT)[None, :]
    starts = query + row[:, None] * (LATENT + TURNED)
    turned_inside = is_row[:, None] & (turned_dims < TURNED)[None, :]
    values, largest, total = _walk(
        tl.load(starts + dims[None, :], mask=inside, other=0.0),
        tl.load(starts + LATENT + turned_dims[None, :], mask=turned_inside, other=0.0),
        context - tokens + rows // HEADS,
        begin,
        tl.minimum(begin + length, end),
        cache,
        block_tables + request.to(tl.int64) * table_stride,
        scale,
        LATENT,
        TURNED,
        BLOCK_SIZE,
        TILE,
    )
    places = row[:, None] * LATENT + dims[None, :]
    part, out = piece.to(tl.int64) * HEADS + rows, (output, parts, scales)
    store_piece(values, largest, total, out, places, part, is_row, dims, context <= length, LATENT)
