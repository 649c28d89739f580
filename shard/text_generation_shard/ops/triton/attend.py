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
    first_position,
    end_position,
    row_positions,
    row_slopes,
    key_cache,
    value_cache,
    block_table,
    kv_head,
    block_stride,
    token_stride,
    scale,
    soft_cap,
    WINDOW: tl.constexpr,
    HAS_SOFT_CAP: tl.constexpr,
    HAS_SLOPES: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    TILE: tl.constexpr,
    ROWS: tl.constexpr,
    DIM: tl.constexpr,
):
    """Attention of rows over the keys at first_position .. end_position - 1.

    query: [ROWS, DIM], zero beyond HEAD_DIM; row_positions: [ROWS]; row_slopes: float32 [ROWS].
    Returns the sum of values, float32 [ROWS, DIM], not divided by `total`; `largest`, `total`:
    float32 [ROWS]. A row that sees nothing has largest = -inf and total = 0.
    """
    dims = tl.arange(0, DIM)
    # Three products of rounded parts: the precision of float32, on the matrix units.
    PRECISION: tl.constexpr = "tf32x3" if query.dtype == tl.float32 else "tf32"
    largest = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    values = tl.zeros([ROWS, DIM], tl.float32)
    for tile in tl.range(first_position, end_position, TILE):
        positions = tile + tl.arange(0, TILE)
        inside = positions < end_position
        blocks = tl.load(block_table + positions // BLOCK_SIZE, mask=inside, other=0)
        places = blocks.to(tl.int64) * block_stride + positions % BLOCK_SIZE * token_stride
        places += kv_head * HEAD_DIM
        key = tl.load(
            key_cache + places[None, :] + dims[:, None],
            mask=inside[None, :] & (dims < HEAD_DIM)[:, None],
            other=0.0,
        )
        scores = tl.dot(query, key.to(query.dtype), input_precision=PRECISION) * scale
        if HAS_SOFT_CAP:
            scores = soft_cap * tanh(scores / soft_cap)
        distances = positions[None, :] - row_positions[:, None]
        if HAS_SLOPES:
            scores += row_slopes[:, None] * distances.to(tl.float32)
        visible = inside[None, :] & (distances <= 0)
        if WINDOW > 0:
            visible &= distances > -WINDOW
        scores = tl.where(visible, scores * LOG2_E, float("-inf"))
        highest = tl.maximum(largest, tl.max(scores, axis=1))
        # Of a row that saw nothing yet, so that no difference of infinities is taken.
        base = tl.where(highest == float("-inf"), 0.0, highest)
        weights = tl.exp2(scores - base[:, None])
        shrink = tl.exp2(largest - base)
        largest = highest
        total = total * shrink + tl.sum(weights, axis=1)
        value = tl.load(
            value_cache + places[:, None] + dims[None, :],
            mask=inside[:, None] & (dims < HEAD_DIM)[None, :],
            other=0.0,
        ).to(query.dtype)
        values *= shrink[:, None]
        values = tl.dot(weights.to(query.dtype), value, values, input_precision=PRECISION)
    return values, largest, total


@triton.jit
def divided(values, total):
    """values / total; zeros where a row saw nothing. values: [ROWS, DIM], total: [ROWS]."""
    return values / tl.where(total > 0, total, 1.0)[:, None]
