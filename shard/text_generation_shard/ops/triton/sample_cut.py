"""The thresholds of top-k, top-p, typical-p and min-p, for rows that `sample_settle` leaves.

Those are few. This reads a row by one program, nine times for each filter.

A threshold is the largest key at which enough is kept: k tokens, or a probability. Keys are the
bits of a float32 in an order of unsigned numbers; the largest one is found by its hexadecimal
digits, each by one pass over the row that sums up what begins with the digits known so far:

    known digits   3 f 8 .        above: the sum over keys with larger known digits
    bins           3f80 3f81 ... 3f8f        the last bin at which the sum from above suffices

Sums are float64, as the reference's are, and so exact but for what float32 cannot tell apart.
"""

import triton
import triton.language as tl

from text_generation_shard.ops.triton.sample_scores import (
    highest_score,
    highest_tempered,
    load_tempered,
    nearness,
    surprise,
    weighted,
)

_BINS = tl.constexpr(16)
COUNT = tl.constexpr(0)
MASS = tl.constexpr(1)
TYPICAL_MASS = tl.constexpr(2)


# Rows of one table, whose alignment depends on how many rows a step has.
@triton.jit(
    do_not_specialize_on_alignment=["temperatures", "top_ks", "top_ps", "typical_ps", "min_ps"]
)
def cut_kernel(
    scores,
    highest,
    temperatures,
    top_ks,
    top_ps,
    typical_ps,
    min_ps,
    thresholds,
    is_settled,
    vocab_size,
    num_tiles,
    TILES: tl.constexpr,
    TILE: tl.constexpr,
):
    """thresholds: [rows, 4]: the least score that is kept, the least nearness, and what nearness is
    made of: the logarithm of the softmax's sum and the entropy. Rows that are settled have them.
    """
    row = tl.program_id(0).to(tl.int64)
    if tl.load(is_settled + row) != 0:
        return
    temperature = tl.load(temperatures + row)
    best = highest_score(highest, row, num_tiles, TILES)
    row_scores = scores + row * vocab_size
    cut, near_cut = tl.full([], float("-inf"), tl.float32), tl.full([], float("-inf"), tl.float32)
    log_sum, entropy = tl.full([], 0.0, tl.float32), tl.full([], 0.0, tl.float32)
    top_k = tl.load(top_ks + row)
    if top_k > 0:
        kept = tl.minimum(top_k, vocab_size).to(tl.float64)
        cut = _search(row_scores, vocab_size, temperature, best, cut, 0.0, 0.0, kept, COUNT, TILE)
    if tl.load(top_ps + row) < 1:
        total, _ = _softmax_sum(row_scores, vocab_size, temperature, best, cut, TILE)
        mass = tl.load(top_ps + row).to(tl.float64) * total
        found = _search(row_scores, vocab_size, temperature, best, cut, 0.0, 0.0, mass, MASS, TILE)
        cut = tl.maximum(cut, found)
    typical_p = tl.load(typical_ps + row)
    if typical_p < 1:
        total, moment = _softmax_sum(row_scores, vocab_size, temperature, best, cut, TILE)
        log_sum, entropy = surprise(total, moment)
        mass = typical_p.to(tl.float64) * total
        near_cut = _search(
            row_scores,
            vocab_size,
            temperature,
            best,
            cut,
            log_sum,
            entropy,
            mass,
            TYPICAL_MASS,
            TILE,
        )
    min_p = tl.load(min_ps + row)
    if min_p > 0:
        top = _highest_kept(
            row_scores, vocab_size, temperature, best, cut, near_cut, log_sum, entropy, TILE
        )
        cut = tl.maximum(cut, top + tl.log(min_p))
    store_thresholds(thresholds + row * 4, cut, near_cut, log_sum, entropy)


@triton.jit
def store_thresholds(thresholds, cut, near_cut, log_sum, entropy):
    tl.store(thresholds, cut)
    tl.store(thresholds + 1, near_cut)
    tl.store(thresholds + 2, log_sum)
    tl.store(thresholds + 3, entropy)


@triton.jit
def _softmax_sum(row_scores, vocab_size, temperature, best, cut, TILE: tl.constexpr):
    """Over what is kept: the sum of exp(score - peak), and of the same times (score - peak)."""
    peak = highest_tempered(best, temperature)
    total = tl.zeros([TILE], tl.float64)
    moment = tl.zeros([TILE], tl.float64)
    for tile in range(0, vocab_size, TILE):
        score = load_tempered(row_scores, tile + tl.arange(0, TILE), vocab_size, temperature, best)
        shifted = score - peak
        weight = tl.where(score >= cut, tl.exp(shifted), 0.0)
        total += weight.to(tl.float64)
        moment += weighted(weight, shifted)
    return tl.sum(total), tl.sum(moment)


@triton.jit
def _highest_kept(
    row_scores,
    vocab_size,
    temperature,
    best,
    cut,
    near_cut,
    log_sum,
    entropy,
    TILE: tl.constexpr,
):
    """The largest score that is left."""
    peak = highest_tempered(best, temperature)
    highest = tl.full([TILE], float("-inf"), tl.float32)
    for tile in range(0, vocab_size, TILE):
        score = load_tempered(row_scores, tile + tl.arange(0, TILE), vocab_size, temperature, best)
        is_kept = (score >= cut) & (nearness(score, peak, log_sum, entropy) >= near_cut)
        highest = tl.maximum(highest, tl.where(is_kept, score, float("-inf")))
    return tl.max(highest)


@triton.jit
def _search(
    row_scores,
    vocab_size,
    temperature,
    best,
    cut,
    log_sum,
    entropy,
    target,
    KIND: tl.constexpr,
    TILE: tl.constexpr,
):
    """The largest key such that what has at least this key, of the scores from `cut` on, sums up to
    target; -inf if all of it does not. Keys are the scores, or for TYPICAL_MASS their nearness.
    """
    bins = tl.arange(0, _BINS)
    peak = highest_tempered(best, temperature)
    known = tl.full([], 0, tl.uint64)
    above = tl.full([], 0, tl.float64)
    shift = tl.full([], 28, tl.uint64)
    for _ in range(8):
        sums = tl.zeros([_BINS, TILE], tl.float64)
        for tile in range(0, vocab_size, TILE):
            tokens = tile + tl.arange(0, TILE)
            score = load_tempered(row_scores, tokens, vocab_size, temperature, best)
            key = score
            if KIND == TYPICAL_MASS:
                key = nearness(score, peak, log_sum, entropy)
            bits = _ordered_bits(key)
            concerned = (bits >> (shift + 4) == known) & (tokens < vocab_size) & (score >= cut)
            if tl.max(concerned.to(tl.int32)) > 0:
                weight = tl.full([TILE], 1.0, tl.float32)
                if KIND != COUNT:
                    weight = tl.exp(score - peak)
                weight = tl.where(concerned, weight, 0.0).to(tl.float64)
                in_bin = (bits >> shift & 15).to(tl.int32)[None, :] == bins[:, None]
                sums += tl.where(in_bin, weight[None, :], 0.0)
        in_bins = tl.sum(sums, axis=1)
        from_above = above + tl.cumsum(in_bins, reverse=True)
        last = tl.max(tl.where(from_above >= target, bins, 0))
        above += tl.sum(tl.where(bins > last, in_bins, 0.0))
        known = known * 16 + last.to(tl.uint64)
        shift -= 4
    return _from_ordered_bits(known)


@triton.jit
def _ordered_bits(x):
    """Float32 as uint64 numbers below 2^32 of the same order."""
    bits = x.to(tl.uint32, bitcast=True)
    flipped = tl.where(bits >> 31 != 0, bits ^ 0xFFFFFFFF, bits ^ 0x80000000)
    return flipped.to(tl.uint64)


@triton.jit
def _from_ordered_bits(ordered):
    """Back; what lies below all numbers is -inf."""
    bits = ordered.to(tl.uint32)
    bits = tl.where(bits >> 31 != 0, bits ^ 0x80000000, bits ^ 0xFFFFFFFF)
    x = bits.to(tl.float32, bitcast=True)
    return tl.where(x == x, x, float("-inf"))
