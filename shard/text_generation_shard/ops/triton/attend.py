"""What the attention kernels have in common: the walk of query rows over a paged context.

The query heads that read one KV head are packed into the rows of one tile, so that each key and
value is read once for all of them. A softmax in base 2 runs along (Milakov and Gimelshein, 2018;
Dao et al., 2022): after every tile of keys, `largest` and `total` are those of the keys so far.
"""

import triton
import triton.language as tl

from text_generation_shard.ops.triton.activation import tanh

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def walk_context(
    query,
    heads,
    row_positions,
    first_position,
    end_position,
    key_cache,
    value_cache,
    block_table,
    kv_head,
    slopes,
    token_stride,
    scale,
    soft_cap,
    WINDOW: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    TILE: tl.constexpr,
):
    """Attention of rows over the keys at first_position .. end_position - 1.

    query: [ROWS, DIM], zero beyond HEAD_DIM; heads, row_positions: [ROWS]. Returns the sum of
    values, float32 [ROWS, DIM], not divided by `total`; `largest`, `total`: float32 [ROWS]. A row
    that sees nothing has largest = -inf and total = 0.
    """
    dims = tl.arange(0, query.shape[1])
    # Three products of rounded parts: the precision of float32, on the matrix units.
    PRECISION: tl.constexpr = "tf32x3" if query.dtype == tl.float32 else "tf32"
    largest = tl.full([query.shape[0]], float("-inf"), tl.float32)
    total = tl.zeros([query.shape[0]], tl.float32)
    values = tl.zeros(query.shape, tl.float32)
    for tile in tl.range(first_position, end_position, TILE):
        positions = tile + tl.arange(0, TILE)
        inside = positions < end_position
        blocks = tl.load(block_table + positions // BLOCK_SIZE, mask=inside, other=0)
        places = (blocks.to(tl.int64) * BLOCK_SIZE + positions % BLOCK_SIZE) * token_stride
        places = (places + kv_head * HEAD_DIM)[:, None] + dims[None, :]
        stored = inside[:, None] & (dims < HEAD_DIM)[None, :]
        key = tl.load(key_cache + places, mask=stored, other=0.0).to(query.dtype)
        scores = tl.dot(query, tl.trans(key), input_precision=PRECISION) * scale
        distances = positions[None, :] - row_positions[:, None]
        scores = _finished_scores(scores, distances, heads, slopes, soft_cap, WINDOW)
        scores = tl.where(inside[None, :], scores, float("-inf"))
        highest = tl.maximum(largest, tl.max(scores, axis=1))
        # Of a row that saw nothing yet, so that no difference of infinities is taken.
        base = tl.where(highest == float("-inf"), 0.0, highest)
        weights = tl.exp2(scores - base[:, None])
        shrink = tl.exp2(largest - base)
        largest = highest
        total = total * shrink + tl.sum(weights, axis=1)
        value = tl.load(value_cache + places, mask=stored, other=0.0).to(query.dtype)
        values *= shrink[:, None]
        values = tl.dot(weights.to(query.dtype), value, values, input_precision=PRECISION)
    return values, largest, total


@triton.jit
def _finished_scores(scores, distances, heads, slopes, soft_cap, WINDOW: tl.constexpr):
    """Scores with cap and slope, in base 2; -inf for what a row may not see.

    scores, distances (of the key from the query): [ROWS, TILE].
    """
    if soft_cap is not None:
        scores = soft_cap * tanh(scores / soft_cap)
    if slopes is not None:
        scores += tl.load(slopes + heads)[:, None] * distances.to(tl.float32)
    visible = distances <= 0
    if WINDOW > 0:
        visible &= distances > -WINDOW
    return tl.where(visible, scores * LOG2_E, float("-inf"))


@triton.jit
def divided(values, total):
    """values / total; zeros where a row saw nothing. values: [ROWS, DIM], total: [ROWS]."""
    return values / tl.where(total > 0, total, 1.0)[:, None]
