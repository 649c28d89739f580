"""Where the thresholds of top-k and top-p lie, found by counting rather than by sorting.

    narrow   (rows)          chooses pivots between the scores that a threshold lies between
    survey   (rows, tiles)   what lies at or above each pivot: tokens for top-k, else their mass
    ... both again, `ROUNDS` times: each leaves an eighth of the bracket
    collect  (rows, tiles)   the few scores in the bracket, and the exact mass above it
    settle   (rows)          sorts those, and finds the thresholds among them

A row is done early, and no longer read, when few enough tokens lie in its bracket. With top-k the
bracket reaches up to the best token, so that all tokens kept are sorted together, top-p included.
What this does not settle (more than `candidates` tokens equal or nearly so, top-k of more than half
of them, typical-p) is left to `sample_cut`.

Sums that decide are float64 and in a fixed order; the candidates come in any order, and are then
sorted.

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
    tempered,
)

PIVOTS = 8
ROUNDS = 3
# What a row of `bounds` holds: the bracket (low <= threshold < high), whether it is narrow enough,
# the least score that a threshold can be, what all scores sum up to, and what those from `high` on.
BOUNDS = 8
_LOW = tl.constexpr(0)
_HIGH = tl.constexpr(1)
_IS_DONE = tl.constexpr(2)
_FLOOR = tl.constexpr(3)
_TOTAL = tl.constexpr(4)
_ABOVE = tl.constexpr(5)
# How a row's thresholds are found.
_NONE = tl.constexpr(0)
_COUNT = tl.constexpr(1)
_MASS = tl.constexpr(2)
_SEARCH = tl.constexpr(3)
# Surveys sum up in float32: what is this near to its target is not told from it.
_SLACK = tl.constexpr(1e-4)
_INFINITY = tl.constexpr(float("inf"))


@triton.jit
def _goal(top_k, top_p, typical_p, vocab_size, CANDIDATES: tl.constexpr):
    """How a row's thresholds are found."""
    is_counted = (top_k > 0) & (top_k < vocab_size)
    kind = tl.where(top_p < 1, _MASS, _NONE)
    kind = tl.where(is_counted, tl.where(top_k * 2 <= CANDIDATES, _COUNT, _SEARCH), kind)
    return tl.where(typical_p < 1, _SEARCH, kind)


# Parameters are rows of one table, whose alignment depends on how many rows a step has.
@triton.jit(do_not_specialize_on_alignment=["temperatures", "top_ks", "top_ps", "typical_ps"])
def narrow_kernel(
    highest,
    lowest,
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
    bounds += row * BOUNDS
    places, tiles = tl.arange(0, PIVOTS), tl.arange(0, TILES)
    top_k, top_p = tl.load(top_ks + row), tl.load(top_ps + row)
    kind = _goal(top_k, top_p, tl.load(typical_ps + row), vocab_size, CANDIDATES)
    is_counted = kind == _COUNT
    temperature = tl.load(temperatures + row)
    best = highest_score(highest, row, num_tiles, TILES)
    peak = highest_tempered(best, temperature)
    if IS_FIRST:
        floor = tempered(lowest_score(lowest, row, num_tiles, TILES), best, temperature)
        if kind == _MASS:
            # All tokens below this together are not as likely as what top-p may remove.
            floor = tl.maximum(floor, peak - tl.log(vocab_size / (1.0 - top_p)))
        total, from_high, low, high = 0.0, 0.0, -_INFINITY, _INFINITY
        is_done = (kind != _COUNT) & (kind != _MASS)
        are_few = is_done
        tl.store(counts + row, 0)
    else:
        if tl.load(bounds + _IS_DONE) != 0:
            return
        floor = tl.load(bounds + _FLOOR)
        sums = above + (row * num_tiles + tiles)[:, None] * PIVOTS + places[None, :]
        sums = tl.sum(tl.load(sums, mask=(tiles < num_tiles)[:, None], other=0.0), axis=0)
        pivot = tl.load(pivots + row * PIVOTS + places)
        total, from_low, from_high, low, high = _narrowed(
            sums, pivot, bounds, top_k, top_p, is_counted
        )
        # Of mass: none of the tokens is less likely than one at the lower end.
        per_token = tl.where(is_counted, 1.0, tl.exp(low - peak))
        are_few = from_low <= CANDIDATES * per_token
        is_done = are_few | ((is_counted == 0) & (from_low - from_high <= CANDIDATES * per_token))
    _store_pivots(pivots + row * PIVOTS, low, high, floor, peak, PIVOTS)
    # All that may be kept is collected, if it is not too much or must be ordered.
    if are_few | (IS_LAST & is_counted):
        high = _INFINITY
    _store_bounds(bounds, low, high, is_done, floor, total, from_high)


@triton.jit
def _store_pivots(pivots, low, high, floor, peak, PIVOTS: tl.constexpr):
    """The lower end of the bracket, and evenly spaced ones within."""
    places = tl.arange(0, PIVOTS)
    first, last = tl.maximum(low, floor), tl.minimum(high, peak)
    inner = first + (last - first) * (places.to(tl.float32) / PIVOTS)
    tl.store(pivots + places, tl.where(places == 0, low, inner))


@triton.jit
def _store_bounds(bounds, low, high, is_done, floor, total, from_high):
    tl.store(bounds + _LOW, low)
    tl.store(bounds + _HIGH, high)
    tl.store(bounds + _IS_DONE, is_done.to(tl.float32))
    tl.store(bounds + _FLOOR, floor)
    tl.store(bounds + _TOTAL, total)
    tl.store(bounds + _ABOVE, from_high)


@triton.jit
def _narrowed(sums, pivot, bounds, top_k, top_p, is_counted):
    """What all scores sum up to, those from the lower and from the upper end of the bracket on, and
    the bracket, after a survey.
    """
    # The first pivot of the first survey lies below all scores.
    total = tl.max(tl.where(pivot == -_INFINITY, sums, tl.load(bounds + _TOTAL)))
    target = tl.where(is_counted, top_k.to(tl.float32), top_p * total)
    slack = tl.where(is_counted, 0.0, _SLACK)
    is_enough, is_short = sums >= target * (1 + slack), sums < target * (1 - slack)
    low = tl.maximum(tl.load(bounds + _LOW), tl.max(tl.where(is_enough, pivot, -_INFINITY)))
    high = tl.minimum(tl.load(bounds + _HIGH), tl.min(tl.where(is_short, pivot, _INFINITY)))
    from_low = tl.min(tl.where(is_enough, sums, total))
    from_high = tl.max(tl.where(is_short, sums, tl.load(bounds + _ABOVE)))
    return total, from_low, from_high, low, high


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
    if tl.load(bounds + row * BOUNDS + _IS_DONE) != 0:
        return
    kind = _goal(
        tl.load(top_ks + row),
        tl.load(top_ps + row),
        tl.load(typical_ps + row),
        vocab_size,
        CANDIDATES,
    )
    temperature = tl.load(temperatures + row)
    best = highest_score(highest, row, num_tiles, TILES)
    peak = highest_tempered(best, temperature)
    places = tl.arange(0, PIVOTS)
    pivot = tl.load(pivots + row * PIVOTS + places)
    sums = tl.zeros([PIVOTS, PIECE], tl.float32)
    for piece in range(0, TILE, PIECE):
        tokens = tile * TILE + piece + tl.arange(0, PIECE)
        score = load_tempered(scores + row * vocab_size, tokens, vocab_size, temperature, best)
        weight = tl.where(score > -_INFINITY, 1.0, 0.0)
        if kind == _MASS:
            weight = tl.exp(score - peak)
        sums += tl.where(score[None, :] >= pivot[:, None], weight[None, :], 0.0)
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
    """candidates: float32 [rows, CANDIDATES], the scores in the bracket, as many as counts, int32
    [rows], says, if there is room. masses: float64 [rows, tiles, 2], of all tokens and of those
    above the bracket, where the mass decides.
    """
    row, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    kind = _goal(
        tl.load(top_ks + row),
        tl.load(top_ps + row),
        tl.load(typical_ps + row),
        vocab_size,
        CANDIDATES,
    )
    if (kind != _COUNT) & (kind != _MASS):
        return
    temperature = tl.load(temperatures + row)
    best = highest_score(highest, row, num_tiles, TILES)
    tokens = tile * TILE + tl.arange(0, TILE)
    score = load_tempered(scores + row * vocab_size, tokens, vocab_size, temperature, best)
    low, high = tl.load(bounds + row * BOUNDS + _LOW), tl.load(bounds + row * BOUNDS + _HIGH)
    if kind == _MASS:
        weight = tl.exp(score - highest_tempered(best, temperature)).to(tl.float64)
        place = masses + (row * num_tiles + tile) * 2
        tl.store(place, tl.sum(weight))
        tl.store(place + 1, tl.sum(tl.where(score >= high, weight, 0.0)))
    is_candidate = (score >= low) & (score < high) & (score > -_INFINITY)
    found = tl.sum(is_candidate.to(tl.int32))
    if found > 0:
        start = tl.atomic_add(counts + row, found)
        places = start + tl.cumsum(is_candidate.to(tl.int32)) - 1
        has_room = is_candidate & (places < CANDIDATES)
        tl.store(candidates + row * CANDIDATES + places, score, mask=has_room)


@triton.jit(
    do_not_specialize_on_alignment=["temperatures", "top_ks", "top_ps", "typical_ps", "min_ps"]
)
def settle_kernel(
    highest,
    temperatures,
    top_ks,
    top_ps,
    typical_ps,
    min_ps,
    counts,
    candidates,
    masses,
    thresholds,
    is_settled,
    vocab_size,
    num_tiles,
    CANDIDATES: tl.constexpr,
    TILES: tl.constexpr,
):
    """thresholds: as `cut_kernel` has them, where is_settled, int32 [rows], becomes 1, not 0."""
    row = tl.program_id(0).to(tl.int64)
    top_k, top_p = tl.load(top_ks + row), tl.load(top_ps + row)
    kind = _goal(top_k, top_p, tl.load(typical_ps + row), vocab_size, CANDIDATES)
    count = tl.load(counts + row)
    is_searched = (kind == _COUNT) | (kind == _MASS)
    tl.store(is_settled + row, 0)
    if (kind == _SEARCH) | (is_searched & ((count == 0) | (count > CANDIDATES))):
        return
    temperature = tl.load(temperatures + row)
    peak = highest_tempered(highest_score(highest, row, num_tiles, TILES), temperature)
    cut = tl.full([], float("-inf"), tl.float32)
    if is_searched:
        places, tiles = tl.arange(0, CANDIDATES), tl.arange(0, TILES)
        inside = places < count
        ordered = tl.load(candidates + row * CANDIDATES + places, mask=inside, other=-_INFINITY)
        ordered = tl.sort(ordered, descending=True)
        if kind == _COUNT:
            # What was masked, of which there may be enough to make up k, is -inf.
            cut = tl.max(tl.where(places == top_k - 1, ordered, -_INFINITY))
            inside &= ordered >= cut
        weight = tl.where(inside, tl.exp(ordered - peak), 0.0).to(tl.float64)
        total, base = tl.sum(weight), tl.full([], 0.0, tl.float64)
        if kind == _MASS:
            place = masses + (row * num_tiles + tiles) * 2
            total = tl.sum(tl.load(place, mask=tiles < num_tiles, other=0.0))
            base = tl.sum(tl.load(place + 1, mask=tiles < num_tiles, other=0.0))
        if top_p < 1:
            target = top_p.to(tl.float64) * total
            is_reached = inside & (base + tl.cumsum(weight) >= target)
            first = tl.min(tl.where(is_reached, places, CANDIDATES))
            if (kind == _MASS) & ((first == CANDIDATES) | (base >= target)):
                return
            cut = tl.maximum(cut, tl.max(tl.where(places == first, ordered, -_INFINITY)))
    min_p = tl.load(min_ps + row)
    if min_p > 0:
        cut = tl.maximum(cut, peak + tl.log(min_p))
    tl.store(thresholds + row * 4, cut)
    tl.store(thresholds + row * 4 + 1, float("-inf"))
    tl.store(thresholds + row * 4 + 2, 0.0)
    tl.store(thresholds + row * 4 + 3, 0.0)
    tl.store(is_settled + row, 1)
