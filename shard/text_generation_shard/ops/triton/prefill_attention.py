"""Attention of prompt chunks against everything before them, which the cache holds already.

A program takes a tile of a chunk's tokens, with all query heads that read one KV head:

    rows of a tile   token 0: head 0 .. g - 1 | token 1: head 0 .. g - 1 | ...
"""

import triton
import triton.language as tl
from torch import Tensor

from text_generation_shard.ops.triton.attend import (
    divided,
    first_visible,
    walk_context,
)
from text_generation_shard.ops.triton.geometry import AttentionCall, Chunks

# Query rows of a tile.
_ROWS = 128


def prefill_attention(query: Tensor, output: Tensor, chunks: Chunks, call: AttentionCall) -> None:
    """Fill output for the rows of chunks; query, output: [tokens, num_heads, head_dim]."""
    rows = max(_ROWS // 2 if call.is_wide(query.dtype) else _ROWS, call.group_rows)
    tokens = rows // call.group
    grid = (triton.cdiv(chunks.max_tokens, tokens), call.num_kv_heads, chunks.count)
    _prefill_kernel[grid](
        query,
        output,
        chunks.first_rows,
        chunks.contexts,
        *call.tensors_of(chunks.block_tables),
        *call.numbers,
        TOKENS=tokens,
        TILE=call.tile(rows),
        ROWS=rows,
        **call.constants,
        num_warps=4 if rows <= 64 and query.dtype.itemsize == 2 else 8,
        # Tiles come ahead, see `decode_attention`; wide heads have no registers left for that.
        num_stages=2 if call.is_wide(query.dtype) else 5,
    )


# Slices, which begin anywhere: a variant for every alignment would be compiled while serving. So
# would one for tables of another width than those of the steps before it.
@triton.jit(
    do_not_specialize=["table_stride"],
    do_not_specialize_on_alignment=["first_rows", "contexts", "block_tables"],
)
def _prefill_kernel(
    query,
    output,
    first_rows,
    contexts,
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
    TOKENS: tl.constexpr,
    GROUP: tl.constexpr,
    WINDOW: tl.constexpr,
    IS_CHUNKED: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    TILE: tl.constexpr,
    ROWS: tl.constexpr,
    DIM: tl.constexpr,
):
    """Tiles with the longest contexts come first, so that short ones fill the gaps at the end."""
    kv_head, chunk = tl.program_id(1), tl.program_id(2)
    first_row = tl.load(first_rows + chunk)
    num_tokens = tl.load(first_rows + chunk + 1) - first_row
    first_token = (tl.num_programs(0) - 1 - tl.program_id(0)) * TOKENS
    if first_token >= num_tokens:
        return
    start = tl.load(contexts + chunk) - num_tokens + first_token
    rows, dims = tl.arange(0, ROWS), tl.arange(0, DIM)
    tokens, heads = rows // GROUP, kv_head * GROUP + rows % GROUP
    is_row = (tokens < TOKENS) & (first_token + tokens < num_tokens)
    inside = is_row[:, None] & (dims < HEAD_DIM)[None, :]
    row = (first_row + first_token + tokens).to(tl.int64) * tl.num_programs(1) * GROUP + heads
    places = row[:, None] * HEAD_DIM + dims[None, :]
    values, _, total = walk_context(
        tl.load(query + places, mask=inside, other=0.0),
        heads,
        start + tokens,
        0,
        first_visible(start, WINDOW, IS_CHUNKED),
        start + tl.minimum(TOKENS, num_tokens - first_token),
        (key_cache, value_cache, block_tables + chunk.to(tl.int64) * table_stride),
        (slopes, distance_bias, sinks, scale, soft_cap, num_distances),
        WINDOW,
        IS_CHUNKED,
        BLOCK_SIZE,
        HEAD_DIM,
        TILE,
    )
    tl.store(
        output + places,
        divided(values, total).to(output.dtype.element_ty),
        mask=inside,
    )
