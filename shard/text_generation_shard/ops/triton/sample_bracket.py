"""Where the thresholds of the filters lie, found by counting rather than by sorting.

    narrow   (rows)          chooses pivots between the keys that a threshold lies between
    survey   (rows, tiles)   what lies at or above each pivot: tokens for top-k, else their mass
    ... both again, `ROUNDS` times: each leaves an eighth of the bracket
    collect  (rows, tiles)   the few scores in the bracket, and the exact mass above it
    settle   (rows)          sorts those, and finds the thresholds, see `sample_settle`

A key is a score, or for typical-p a token's nearness to the expected surprise, which is known from
sums that the tiles made when they were adjusted: it takes no other pass. One bracket serves a row
that asks for several filters, the first of them's: it then reaches up to the best token, so that
all tokens kept are sorted together, for the filters that follow as well.

A row is done early, and no longer read, when few enough tokens lie in its bracket. What this does
not settle is left to `sample_cut`: more than `candidates` tokens equal or nearly so, top-k of more
than half of them, typical-p of more than these that top-p left.

Sums that decide are float64 and in a fixed order; the candidates come in any order, and are then
sorted.

Passes over the vocabulary by all programs, beside the two of `adjust` and `draw` that every row
needs: none for min-p alone; surveys and a collection, two to four in all, for every other choice of
filters. A flat distribution takes a survey more than a peaked one.

Cost, predicted and not yet measured: a pass over 256 rows of 128k float32 scores reads 131 MB, 31
us at 4.3 TB/s; a survey or the collection takes some 40 instructions per score, 45 us on an H100. A
row with top-k, or whose mass lies in few tokens, is read by one survey: with `adjust` and `draw`
0.16 to 0.19 ms. A flat distribution is read by two: 0.2 to 0.25 ms. A launch that no row needs
costs 2 to 3 us.
"""

import triton
import triton.language as tl

from text_generation_shard.ops.triton.sample_scores import (
    highest_score,
    highest_tempered,
    load_tempered,
    lowest_score,
    nearness,
    row_moments,
    surprise,
    tempered,
)

PIVOTS = 8
ROUNDS = 3
# What a row of `bounds` holds: the bracket (low <= threshold < high), whether it is narrow enough,
# the least key that a threshold can be, what all keys sum up to, and what those from `high` on; and
# what nearness is made of.
BOUNDS = 8
LOW = tl.constexpr(0)
HIGH = tl.constexpr(1)
_IS_DONE = tl.constexpr(2)
_FLOOR = tl.constexpr(3)
_TOTAL = tl.constexpr(4)
_ABOVE = tl.constexpr(5)
LOG_SUM = tl.constexpr(6)
ENTROPY = tl.constexpr(7)
# What a row's bracket is of: nothing, top-k, top-p, typical-p; or that there is none.
NONE = tl.constexpr(0)
COUNT = tl.constexpr(1)
MASS = tl.constexpr(2)
TYPICAL = tl.constexpr(3)
SEARCH = tl.constexpr(4)
# Surveys sum up in float32: what is this near to its target is not told from it.
_SLACK = tl.constexpr(1e-4)
_INFINITY = tl.constexpr(float("inf"))


@triton.jit
def goal(top_k, top_p, typical_p, vocab_size, CANDIDATES: tl.constexpr):
    """What a row's bracket is of: its first filter."""
    is_counted = (top_k > 0) & (top_k < vocab_size)
    kind = tl.where(top_p < 1, MASS, tl.where(typical_p < 1, TYPICAL, NONE))
    return tl.where(is_counted, tl.where(top_k * 2 <= CANDIDATES, COUNT, SEARCH), kind)


# Parameters are rows of one table, whose alignment depends on how many rows a step has.
@triton.jit(do_not_specialize_on_alignment=["temperatures", "top_ks", "top_ps", "typical_ps"])
def narrow_kernel(
    highest,
    lowest,
    moments,
    temperatures,
    top_ks,
    top_ps,
    typical_ps,
    pivots,
    above,
    bounds,
    counts,
    vocab_size,
    num_tiles,
    IS_FIRST: tl.constexpr,
    IS_LAST: tl.constexpr,
    PIVOTS: tl.constexpr,
    BOUNDS: tl.constexpr,
    CANDIDATES: tl.constexpr,
    TILES: tl.constexpr,
):
    """pivots: float32 [rows, PIVOTS], ascending; above: float32 [rows, tiles, PIVOTS], what a tile
    has from each pivot on; bounds: float32 [rows, BOUNDS]; counts: int32 [rows], set to 0.
    """
    row = tl.program_id(0).to(tl.int64)
    bounds, pivots = bounds + row * BOUNDS, pivots + row * PIVOTS
    top_p, typical_p = tl.load(top_ps + row), tl.load(typical_ps + row)
    kind = goal(tl.load(top_ks + row), top_p, typical_p, vocab_size, CANDIDATES)
    temperature = tl.load(temperatures + row)
    best = highest_score(highest, row, num_tiles, TILES)
    peak = highest_tempered(best, temperature)
    if IS_FIRST:
        tl.store(counts + row, 0)
        least = tempered(lowest_score(lowest, row, num_tiles, TILES), best, temperature)
        total, moment = row_moments(moments, highest, row, num_tiles, temperature, best, TILES)
        log_sum, entropy = surprise(total, moment)
        share = tl.where(kind == TYPICAL, typical_p, top_p)
        floor = _floor(kind, share, least, peak, log_sum, entropy, vocab_size)
        _open(bounds, kind, floor, log_sum, entropy)
        _store_pivots(pivots, -_INFINITY, _INFINITY, floor, kind, peak, PIVOTS)
        return
    if tl.load(bounds + _IS_DONE) == 0:
        share = tl.where(kind == TYPICAL, typical_p, top_p)
        target = tl.where(kind == COUNT, tl.load(top_ks + row).to(tl.float32), share)
        sums = _sums(above, row, num_tiles, PIVOTS, TILES)
        # Those that follow look at all that is kept.
        is_last_filter = (kind == TYPICAL) | ((kind == MASS) & (typical_p >= 1))
        _narrow(sums, pivots, bounds, kind, target, peak, is_last_filter, IS_LAST, CANDIDATES)


@triton.jit
def _floor(kind, share, least, peak, log_sum, entropy, vocab_size):
    """The least key that a threshold can be: all tokens below this together are not as likely as
    what the filter may remove.
    """
    removed = tl.log(vocab_size / (1.0 - share))
    # Nearness falls to both sides of the expected surprise, and the best token's is the least.
    distance = tl.maximum(entropy - log_sum, removed - entropy)
    ends = tl.minimum(
        nearness(least, peak, log_sum, entropy), nearness(peak, peak, log_sum, entropy)
    )
    floor = tl.where(kind == MASS, tl.maximum(least, peak - removed), least)
    return tl.where(kind == TYPICAL, tl.maximum(ends, -distance), floor)


@triton.jit
def _open(bounds, kind, floor, log_sum, entropy):
    """The bracket before the first survey."""
    tl.store(bounds + LOW, -_INFINITY)
    tl.store(bounds + HIGH, _INFINITY)
    tl.store(bounds + _IS_DONE, tl.where((kind == NONE) | (kind == SEARCH), 1.0, 0.0))
    tl.store(bounds + _FLOOR, floor)
    tl.store(bounds + _TOTAL, 0.0)
    tl.store(bounds + _ABOVE, 0.0)
    tl.store(bounds + LOG_SUM, log_sum)
    tl.store(bounds + ENTROPY, entropy)


@triton.jit
def _sums(above, row, num_tiles, PIVOTS: tl.constexpr, TILES: tl.constexpr):
    """What a row has from each pivot on; float32 [PIVOTS]."""
    places, tiles = tl.arange(0, PIVOTS), tl.arange(0, TILES)
    sums = above + (row * num_tiles + tiles)[:, None] * PIVOTS + places[None, :]
    return tl.sum(tl.load(sums, mask=(tiles < num_tiles)[:, None], other=0.0), axis=0)


@triton.jit
def _narrow(
    sums,
    pivots,
    bounds,
    kind,
    target,
    peak,
    is_last_filter,
    IS_LAST: tl.constexpr,
    CANDIDATES: tl.constexpr,
):
    """The bracket after a survey, and the pivots of the next one.

    target: tokens for top-k, else a share of what all keys sum up to.
    """
    PIVOTS: tl.constexpr = sums.shape[0]
    pivot = tl.load(pivots + tl.arange(0, PIVOTS))
    is_counted = kind == COUNT
    # The first pivot of the first survey lies below all keys.
    total = tl.max(tl.where(pivot == -_INFINITY, sums, tl.load(bounds + _TOTAL)))
    target = tl.where(is_counted, target, target * total)
    slack = tl.where(is_counted, 0.0, _SLACK)
    is_enough, is_short = sums >= target * (1 + slack), sums < target * (1 - slack)
    low = tl.maximum(tl.load(bounds + LOW), tl.max(tl.where(is_enough, pivot, -_INFINITY)))
    high = tl.minimum(tl.load(bounds + HIGH), tl.min(tl.where(is_short, pivot, _INFINITY)))
    from_low = tl.min(tl.where(is_enough, sums, total))
    from_high = tl.max(tl.where(is_short, sums, tl.load(bounds + _ABOVE)))
    # Of mass: none of the tokens is less likely than one at the lower end.
    rarest = tl.where(
        kind == TYPICAL, tl.load(bounds + LOG_SUM) - tl.load(bounds + ENTROPY) + low, low - peak
    )
    most = CANDIDATES * tl.where(is_counted, 1.0, tl.exp(rarest))
    are_few = from_low <= most
    is_done = are_few | (is_last_filter & (from_low - from_high <= most))
    _store_pivots(pivots, low, high, tl.load(bounds + _FLOOR), kind, peak, PIVOTS)
    # All that may be kept is collected, if it is not too much or must be ordered.
    if IS_LAST:
        are_few |= is_last_filter == 0
    tl.store(bounds + LOW, low)
    tl.store(bounds + HIGH, tl.where(are_few, _INFINITY, high))
    tl.store(bounds + _IS_DONE, is_done.to(tl.float32))
    tl.store(bounds + _TOTAL, total)
    tl.store(bounds + _ABOVE, from_high)


@triton.jit
def _store_pivots(pivots, low, high, floor, kind, peak, PIVOTS: tl.constexpr):
    """The lower end of the bracket, and evenly spaced ones within."""
    places = tl.arange(0, PIVOTS)
    # The greatest key, where the nearest token is that expected.
    first, last = tl.maximum(low, floor), tl.minimum(high, tl.where(kind == TYPICAL, 0.0, peak))
    inner = first + (last - first) * (places.to(tl.float32) / PIVOTS)
    tl.store(pivots + places, tl.where(places == 0, low, inner))


@triton.jit(do_not_specialize_on_alignment=["temperatures", "top_ks", "top_ps", "typical_ps"])
def survey_kernel(
    scores,
    highest,
    temperatures,
    top_ks,
    top_ps,
    typical_ps,
    pivots,
    above,
    bounds,
    vocab_size,
    num_tiles,
    PIVOTS: tl.constexpr,
    BOUNDS: tl.constexpr,
    CANDIDATES: tl.constexpr,
    TILES: tl.constexpr,
    TILE: tl.constexpr,
    PIECE: tl.constexpr,
):
    """Fill `above`, see `narrow_kernel`, for rows that are not done."""
    row, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    bounds += row * BOUNDS
    if tl.load(bounds + _IS_DONE) != 0:
        return
    kind = goal(
        tl.load(top_ks + row),
        tl.load(top_ps + row),
        tl.load(typical_ps + row),
        vocab_size,
        CANDIDATES,
    )
    temperature = tl.load(temperatures + row)
    best = highest_score(highest, row, num_tiles, TILES)
    peak = highest_tempered(best, temperature)
    log_sum, entropy = tl.load(bounds + LOG_SUM), tl.load(bounds + ENTROPY)
    places = tl.arange(0, PIVOTS)
    pivot = tl.load(pivots + row * PIVOTS + places)
    sums = tl.zeros([PIVOTS, PIECE], tl.float32)
    for piece in range(0, TILE, PIECE):
        tokens = tile * TILE + piece + tl.arange(0, PIECE)
        score = load_tempered(scores + row * vocab_size, tokens, vocab_size, temperature, best)
        key, weight = score, tl.where(score > -_INFINITY, 1.0, 0.0)
        if kind != COUNT:
            weight = tl.exp(score - peak)
        if kind == TYPICAL:
            key = nearness(score, peak, log_sum, entropy)
        sums += tl.where(key[None, :] >= pivot[:, None], weight[None, :], 0.0)
    tl.store(above + (row * num_tiles + tile) * PIVOTS + places, tl.sum(sums, axis=1))


@triton.jit(do_not_specialize_on_alignment=["temperatures", "top_ks", "top_ps", "typical_ps"])
def collect_kernel(
    scores,
    highest,
    temperatures,
    top_ks,
    top_ps,
    typical_ps,
    bounds,
    counts,
    candidates,
    masses,
    vocab_size,
    num_tiles,
    BOUNDS: tl.constexpr,
    CANDIDATES: tl.constexpr,
    TILES: tl.constexpr,
    TILE: tl.constexpr,
):
    """candidates: float32 [rows, CANDIDATES], the scores whose keys lie in the bracket, as many as
    counts, int32 [rows], says, if there is room. masses: float64 [rows, tiles, 3], where the mass
    decides: of all tokens, of those above the bracket, and the best score of these.
    """
    row, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    bounds += row * BOUNDS
    kind = goal(
        tl.load(top_ks + row),
        tl.load(top_ps + row),
        tl.load(typical_ps + row),
        vocab_size,
        CANDIDATES,
    )
    if (kind == NONE) | (kind == SEARCH):
        return
    temperature = tl.load(temperatures + row)
    best = highest_score(highest, row, num_tiles, TILES)
    peak = highest_tempered(best, temperature)
    tokens = tile * TILE + tl.arange(0, TILE)
    score = load_tempered(scores + row * vocab_size, tokens, vocab_size, temperature, best)
    key = score
    if kind == TYPICAL:
        key = nearness(score, peak, tl.load(bounds + LOG_SUM), tl.load(bounds + ENTROPY))
    low, high = tl.load(bounds + LOW), tl.load(bounds + HIGH)
    if kind != COUNT:
        weight, is_above = tl.exp(score - peak).to(tl.float64), key >= high
        place = masses + (row * num_tiles + tile) * 3
        tl.store(place, tl.sum(weight))
        tl.store(place + 1, tl.sum(tl.where(is_above, weight, 0.0)))
        tl.store(place + 2, tl.max(tl.where(is_above, score, -_INFINITY)).to(tl.float64))
    is_candidate = (key >= low) & (key < high) & (score > -_INFINITY)
    found = tl.sum(is_candidate.to(tl.int32))
    if found > 0:
        start = tl.atomic_add(counts + row, found)
        places = start + tl.cumsum(is_candidate.to(tl.int32)) - 1
        has_room = is_candidate & (places < CANDIDATES)
        tl.store(candidates + row * CANDIDATES + places, score, mask=has_room)
