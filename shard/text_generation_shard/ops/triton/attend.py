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
def first_visible(position, WINDOW: tl.constexpr, IS_CHUNKED: tl.constexpr):
    """Position of the first key that a query at `position` sees; see `ops.attention_window`."""
    first = 0
    if WINDOW > 0:
        first = position // WINDOW * WINDOW if IS_CHUNKED else position - WINDOW + 1
        first = tl.maximum(first, 0)
    return first


@triton.jit
def _before_context(sinks, heads, split):
    """`largest` and `total` of rows before the first key of a split: the first one holds the sink.

    heads: [ROWS]; split: its number. Returns float32 [ROWS] each.
    """
    largest = tl.full(heads.shape, float("-inf"), tl.float32)
    total = tl.zeros(heads.shape, tl.float32)
    if sinks is not None:
        is_first = tl.zeros_like(heads) + split == 0
        largest = tl.where(is_first, tl.load(sinks + heads) * LOG2_E, largest)
        total = tl.where(is_first, 1.0, total)
    return largest, total


@triton.jit
def walk_context(
    query,
    heads,
    row_positions,
    split,
    first_position,
    end_position,
    caches,
    scoring,
    WINDOW: tl.constexpr,
    IS_CHUNKED: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    TILE: tl.constexpr,
):
    """Attention of rows over the keys at first_position .. end_position - 1.

    query: [ROWS, DIM], zero beyond HEAD_DIM; heads, row_positions: [ROWS]; split: which part of the
    context it is; caches: of keys and of values, and the block table; the program's second number
    is the KV head. Returns the sum of values, float32 [ROWS, DIM], not divided by `total`;
    `largest`, `total`: float32 [ROWS]. A row that sees nothing has -inf and 0, without a sink.
    """
    key_cache, value_cache, block_table = caches
    slopes, distance_bias, sinks, scale, soft_cap, num_distances = scoring
    largest, total = _before_context(sinks, heads, split)
    dims = tl.arange(0, query.shape[1])
    # Three products of rounded parts: the precision of float32, on the matrix units.
    PRECISION: tl.constexpr = "tf32x3" if query.dtype == tl.float32 else "tf32"
    values = tl.zeros(query.shape, tl.float32)
    for tile in tl.range(first_position, end_position, TILE):
        positions = tile + tl.arange(0, TILE)
        inside = positions < end_position
        blocks = tl.load(block_table + positions // BLOCK_SIZE, mask=inside, other=0)
        places = blocks.to(tl.int64) * BLOCK_SIZE + positions % BLOCK_SIZE
        places = places * (tl.num_programs(1) * HEAD_DIM) + tl.program_id(1) * HEAD_DIM
        places = places[:, None] + dims[None, :]
        stored = inside[:, None] & (dims < HEAD_DIM)[None, :]
        key = tl.load(key_cache + places, mask=stored, other=0.0).to(query.dtype)
        scores = tl.dot(query, tl.trans(key), input_precision=PRECISION) * scale
        if soft_cap is not None:
            scores = soft_cap * tanh(scores / soft_cap)
        distances = positions[None, :] - row_positions[:, None]
        if slopes is not None:
            scores += tl.load(slopes + heads)[:, None] * distances.to(tl.float32)
        if distance_bias is not None:
            columns = tl.minimum(tl.maximum(-distances, 0), num_distances - 1)
            scores += tl.load(distance_bias + heads[:, None] * num_distances + columns)
        visible = inside[None, :] & (distances <= 0)
        if WINDOW > 0:
            first = first_visible(row_positions, WINDOW, IS_CHUNKED)
            visible &= positions[None, :] >= first[:, None]
        scores = tl.where(visible, scores * LOG2_E, float("-inf"))
        weights, shrink, largest, total = next_weights(scores, largest, total)
        value = tl.load(value_cache + places, mask=stored, other=0.0).to(query.dtype)
        values *= shrink[:, None]
        values = tl.dot(weights.to(query.dtype), value, values, input_precision=PRECISION)
    return values, largest, total


@triton.jit
def next_weights(scores, largest, total):
    """The weights of a tile's scores in base 2, [ROWS, TILE]; what values so far shrink by;
    `largest` and `total` with the tile.
    """
    highest = tl.maximum(largest, tl.max(scores, axis=1))
    # Of a row that saw nothing yet, so that no difference of infinities is taken.
    base = tl.where(highest == float("-inf"), 0.0, highest)
    weights = tl.exp2(scores - base[:, None])
    shrink = tl.exp2(largest - base)
    return weights, shrink, highest, total * shrink + tl.sum(weights, axis=1)


@triton.jit
def divided(values, total):
    """values / total; zeros where a row saw nothing. values: [ROWS, DIM], total: [ROWS]."""
    return values / tl.where(total > 0, total, 1.0)[:, None]
