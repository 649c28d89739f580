"""The thresholds of a row, from the few tokens that `sample_bracket` found.

Where its bracket reaches up to the best token, these are all that its first filter may keep, and
the filters that follow look at them alone. Else only one threshold is looked for, and what lies
above the bracket is known by its sums.
"""

import triton
import triton.language as tl

from text_generation_shard.ops.triton.sample_bracket import (
    COUNT,
    ENTROPY,
    HIGH,
    LOG_SUM,
    NONE,
    SEARCH,
    TYPICAL,
    goal,
)
from text_generation_shard.ops.triton.sample_cut import store_thresholds
from text_generation_shard.ops.triton.sample_scores import (
    highest_score,
    highest_tempered,
    nearness,
    surprise,
    weighted,
)

_INFINITY = tl.constexpr(float("inf"))


# Parameters are rows of one table, whose alignment depends on how many rows a step has.
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
    bounds,
    counts,
    candidates,
    masses,
    thresholds,
    is_settled,
    vocab_size,
    num_tiles,
    BOUNDS: tl.constexpr,
    CANDIDATES: tl.constexpr,
    TILES: tl.constexpr,
):
    """thresholds: as `cut_kernel` has them, where is_settled, int32 [rows], becomes 1, not 0."""
    row = tl.program_id(0).to(tl.int64)
    bounds += row * BOUNDS
    top_k, top_p = tl.load(top_ks + row), tl.load(top_ps + row)
    typical_p = tl.load(typical_ps + row)
    kind = goal(top_k, top_p, typical_p, vocab_size, CANDIDATES)
    temperature = tl.load(temperatures + row)
    peak = highest_tempered(highest_score(highest, row, num_tiles, TILES), temperature)
    cut, near_cut = tl.full([], float("-inf"), tl.float32), tl.full([], float("-inf"), tl.float32)
    log_sum, entropy = tl.full([], 0.0, tl.float32), tl.full([], 0.0, tl.float32)
    top, is_found = peak, kind == NONE
    count = tl.load(counts + row)
    if (is_found == 0) & (kind != SEARCH) & (count > 0) & (count <= CANDIDATES):
        inside = tl.arange(0, CANDIDATES) < count
        places = candidates + row * CANDIDATES + tl.arange(0, CANDIDATES)
        # They came in any order: sums shall not depend on it.
        score = tl.sort(tl.load(places, mask=inside, other=-_INFINITY), descending=True)
        total, base, top_above = _mass(masses, row, num_tiles, kind, TILES)
        is_found = kind == TYPICAL
        if kind != TYPICAL:
            cut, total, is_found = _likely_cut(score, inside, peak, kind, top_k, top_p, total, base)
            # What follows looks at all that is kept.
            is_found &= (typical_p >= 1) | (tl.load(bounds + HIGH) == _INFINITY)
        if is_found & (typical_p < 1):
            inside &= score >= cut
            log_sum, entropy = tl.load(bounds + LOG_SUM), tl.load(bounds + ENTROPY)
            if kind != TYPICAL:
                total, log_sum, entropy = _surprise_within(score, inside, peak)
            near = tl.where(inside, nearness(score, peak, log_sum, entropy), -_INFINITY)
            weight = tl.where(inside, tl.exp(score - peak), 0.0)
            target = typical_p.to(tl.float64) * total
            near_cut, is_found = _typical_cut(near, weight, target, base)
            top = tl.maximum(top_above, tl.max(tl.where(near >= near_cut, score, -_INFINITY)))
    min_p = tl.load(min_ps + row)
    if min_p > 0:
        cut = tl.maximum(cut, top + tl.log(min_p))
    store_thresholds(thresholds + row * 4, cut, near_cut, log_sum, entropy)
    tl.store(is_settled + row, is_found.to(tl.int32))


@triton.jit
def _mass(masses, row, num_tiles, kind, TILES: tl.constexpr):
    """What all tokens weigh, those above the bracket, and the best score of these; see
    `collect_kernel`. With top-k none are above.
    """
    tiles = tl.arange(0, TILES)
    inside = (tiles < num_tiles) & (tl.zeros([TILES], tl.int32) + kind != COUNT)
    places = masses + (row * num_tiles + tiles) * 3
    total = tl.sum(tl.load(places, mask=inside, other=0.0))
    above = tl.sum(tl.load(places + 1, mask=inside, other=0.0))
    return total, above, tl.max(tl.load(places + 2, mask=inside, other=-_INFINITY)).to(tl.float32)


@triton.jit
def _likely_cut(score, inside, peak, kind, top_k, top_p, total, base):
    """The least score that top-k and top-p keep, what all weighs that top-p has a share of, and
    whether the score was found.

    score: float32 [candidates], the best first, as many as there are inside.
    """
    CANDIDATES: tl.constexpr = score.shape[0]
    places = tl.arange(0, CANDIDATES)
    cut = tl.full([], float("-inf"), tl.float32)
    if kind == COUNT:
        # What was masked, of which there may be enough to make up k, is -inf.
        cut = tl.max(tl.where(places == top_k - 1, score, -_INFINITY))
    weight = tl.where(inside & (score >= cut), tl.exp(score - peak), 0.0).to(tl.float64)
    total = tl.where(kind == COUNT, tl.sum(weight), total)
    is_found = kind == COUNT
    if top_p < 1:
        target = top_p.to(tl.float64) * total
        is_reached = (weight > 0) & (base + tl.cumsum(weight) >= target)
        first = tl.min(tl.where(is_reached, places, CANDIDATES))
        is_found = (first < CANDIDATES) & (base < target)
        cut = tl.maximum(cut, tl.max(tl.where(places == first, score, -_INFINITY)))
    return cut, total, is_found


@triton.jit
def _surprise_within(score, inside, peak):
    """What the tokens inside weigh, and what nearness among them is made of."""
    shifted = score - peak
    weight = tl.where(inside, tl.exp(shifted), 0.0)
    total = tl.sum(weight.to(tl.float64))
    log_sum, entropy = surprise(total, tl.sum(weighted(weight, shifted)))
    return total, log_sum, entropy


@triton.jit
def _typical_cut(near, weight, target, base):
    """The greatest nearness from which on all weighs enough, and whether it was found.

    near, weight: float32 [candidates]. What is nearer than any of them weighs `base`. Halves what
    is left 31 times: bits of numbers from 0 on are in the numbers' order.
    """
    distance = tl.abs(near).to(tl.int32, bitcast=True)
    low = tl.full([], -1, tl.int32)
    high = tl.full([], float("inf"), tl.float32).to(tl.int32, bitcast=True)
    is_found = (base < target) & (base + tl.sum(weight.to(tl.float64)) >= target)
    for _ in range(31):
        middle = low + (high - low) // 2
        nearer = tl.where(distance <= middle, weight, 0.0)
        is_enough = base + tl.sum(nearer.to(tl.float64)) >= target
        low, high = tl.where(is_enough, low, middle), tl.where(is_enough, middle, high)
    return -high.to(tl.float32, bitcast=True), is_found
