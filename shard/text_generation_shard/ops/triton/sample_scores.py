"""Scores before the filters: penalties for what a sequence holds already, and a mask.

A row's occurrences are counted into one word per token: bit 31 is set by a token of the prompt, the
bits below count those of the output.
"""

import triton
import triton.language as tl

_IN_PROMPT = tl.constexpr(-(1 << 31))
_COUNT = tl.constexpr((1 << 31) - 1)


# Parameters are rows of one table, whose alignment depends on how many rows a step has.
@triton.jit(
    do_not_specialize=["history_stride"],
    do_not_specialize_on_alignment=[
        "repetition",
        "frequency",
        "presence",
        "history_rows",
        "output_starts",
        "lengths",
    ],
)
def count_kernel(
    counts,
    repetition,
    frequency,
    presence,
    history,
    history_rows,
    output_starts,
    lengths,
    history_stride,
    vocab_size,
    TILE: tl.constexpr,
):
    """A program takes a piece of a row's history; rows without a penalty are left out."""
    row = tl.program_id(0).to(tl.int64)
    is_repeated = tl.load(repetition + row) != 1.0
    is_counted = (tl.load(frequency + row) != 0.0) | (tl.load(presence + row) != 0.0)
    if (is_repeated | is_counted) == 0:
        return
    length = tl.load(lengths + row)
    if tl.program_id(1) * TILE >= length:
        return
    columns = tl.program_id(1) * TILE + tl.arange(0, TILE)
    known = columns < length
    start = tl.load(history_rows + row) * history_stride
    tokens = tl.load(history + start + columns, mask=known, other=0).to(tl.int64)
    places = counts + row * vocab_size + tokens
    is_output = columns >= tl.load(output_starts + row)
    tl.atomic_or(places, tl.full([TILE], _IN_PROMPT, tl.int32), mask=known & (is_output == 0))
    tl.atomic_add(places, tl.full([TILE], 1, tl.int32), mask=known & is_output)


@triton.jit(
    do_not_specialize_on_alignment=[
        "temperatures",
        "typical_ps",
        "repetition",
        "frequency",
        "presence",
        "mask_index",
    ]
)
def adjust_kernel(
    logits,
    scores,
    highest,
    lowest,
    moments,
    temperatures,
    typical_ps,
    counts,
    repetition,
    frequency,
    presence,
    allowed,
    mask_index,
    vocab_size,
    TILE: tl.constexpr,
):
    """A tile of a row: its scores, where they are not the logits, the largest of them, and, where
    it is asked for, the least that is not masked, inf if all are, and of rows with typical-p the
    moments, see `row_moments`.
    """
    row = tl.program_id(0).to(tl.int64)
    tokens = tl.program_id(1) * TILE + tl.arange(0, TILE)
    inside = tokens < vocab_size
    places = row * vocab_size + tokens
    score = tl.load(logits + places, mask=inside, other=float("-inf"))
    if counts is not None:
        count = tl.load(counts + places, mask=inside, other=0)
        penalty = tl.load(repetition + row)
        penalised = tl.where(score < 0, score * penalty, tl.div_rn(score, penalty))
        score = tl.where(count != 0, penalised, score)
        in_output = count & _COUNT
        score -= in_output.to(tl.float32) * tl.load(frequency + row)
        score -= tl.where(in_output > 0, tl.load(presence + row), 0.0)
    if allowed is not None:
        index = tl.load(mask_index + row).to(tl.int64)
        words = allowed + index * tl.cdiv(vocab_size, 32) + tokens // 32
        word = tl.load(words, mask=inside & (tl.broadcast_to(index, [TILE]) >= 0), other=-1)
        score = tl.where((word >> (tokens % 32)) & 1 != 0, score, float("-inf"))
    if scores is not None:
        tl.store(scores + places, score, mask=inside)
    place = row * tl.num_programs(1) + tl.program_id(1)
    best = tl.max(score)
    tl.store(highest + place, best)
    if lowest is not None:
        tl.store(lowest + place, tl.min(tl.where(score > float("-inf"), score, float("inf"))))
        if tl.load(typical_ps + row) < 1:
            shifted = tl.div_rn(score - best, tl.load(temperatures + row))
            weight = tl.where(score > float("-inf"), tl.exp(shifted), 0.0)
            tl.store(moments + place * 2, tl.sum(weight.to(tl.float64)))
            tl.store(moments + place * 2 + 1, tl.sum(weighted(weight, shifted)))


@triton.jit
def highest_score(highest, row, num_tiles, TILES: tl.constexpr):
    """The largest score of a row."""
    tiles = tl.arange(0, TILES)
    scores = tl.load(highest + row * num_tiles + tiles, mask=tiles < num_tiles, other=float("-inf"))
    return tl.max(scores)


@triton.jit
def lowest_score(lowest, row, num_tiles, TILES: tl.constexpr):
    """The least score of a row that is not masked."""
    tiles = tl.arange(0, TILES)
    scores = tl.load(lowest + row * num_tiles + tiles, mask=tiles < num_tiles, other=float("inf"))
    return tl.min(scores)


@triton.jit
def load_tempered(row_scores, tokens, vocab_size, temperature, best):
    """Tempered scores of some tokens; -inf where there are none."""
    scores = tl.load(row_scores + tokens, mask=tokens < vocab_size, other=float("-inf"))
    return tempered(scores, best, temperature)


@triton.jit
def tempered(scores, best, temperature):
    """scores / temperature, up to a constant that keeps tiny temperatures finite."""
    return tl.where(temperature == 1.0, scores, tl.div_rn(scores - best, temperature))


@triton.jit
def highest_tempered(best, temperature):
    """What `tempered` makes of a row's largest score."""
    return tl.where(temperature == 1.0, best, 0.0)


@triton.jit
def row_moments(moments, highest, row, num_tiles, temperature, best, TILES: tl.constexpr):
    """Over all tokens of a row: the sum of exp(score - peak), and of the same times (score - peak).

    moments: float64 [rows, tiles, 2], the same of each tile, whose peak is its own best score.
    """
    tiles = tl.arange(0, TILES)
    inside, places = tiles < num_tiles, row * num_tiles + tiles
    own_best = tl.load(highest + places, mask=inside, other=float("-inf"))
    shift = tempered(own_best, best, temperature) - highest_tempered(best, temperature)
    scale = tl.exp(shift).to(tl.float64)
    total = tl.load(moments + places * 2, mask=inside, other=0.0)
    moment = tl.load(moments + places * 2 + 1, mask=inside, other=0.0)
    moment = tl.where(scale > 0, (moment + total * shift.to(tl.float64)) * scale, 0.0)
    return tl.sum(total * scale), tl.sum(moment)


@triton.jit
def weighted(weight, shifted):
    """weight * shifted in float64, where shifted may be -inf if the weight is 0."""
    return tl.where(weight > 0, weight * shifted, 0.0).to(tl.float64)


@triton.jit
def surprise(total, moment):
    """The logarithm of the softmax's sum, and the entropy: all that `nearness` needs of a row."""
    log_sum = tl.log(total.to(tl.float32))
    return log_sum, log_sum - (moment / total).to(tl.float32)


@triton.jit
def nearness(score, peak, log_sum, entropy):
    """How near a token's surprise is to the expected one; 0 is nearest, -inf what was removed."""
    return -tl.abs(log_sum - (score - peak) - entropy)
