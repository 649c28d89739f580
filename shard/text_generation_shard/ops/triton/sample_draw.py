"""The best token of what the filters left, with Gumbel noise where a row draws.

The noise is `sampling.philox`'s, from the same random words. What follows on them is computed in
float32 as there, by other functions: the last digits may differ.
"""

import triton
import triton.language as tl

from text_generation_shard.ops.triton.sample_scores import (
    highest_score,
    highest_tempered,
    nearness,
    tempered,
)

_LARGEST_UNIFORM = tl.constexpr(1 - 2**-24)


# Rows of one table, whose alignment depends on how many rows a step has.
@triton.jit(do_not_specialize_on_alignment=["temperatures", "is_drawn", "seeds", "positions"])
def draw_kernel(
    scores,
    highest,
    temperatures,
    thresholds,
    is_drawn,
    seeds,
    positions,
    found,
    found_ids,
    first_counter,
    vocab_size,
    num_tiles,
    TILES: tl.constexpr,
    TILE: tl.constexpr,
):
    """found: [rows, tiles, 2]: the best noisy score of a tile, and its sum of exp(score - peak);
    found_ids: int32 [rows, tiles], whose the best is. first_counter: of the first score's noise.
    """
    row, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    tokens = tile * TILE + tl.arange(0, TILE)
    inside = tokens < vocab_size
    temperature = tl.load(temperatures + row)
    best = highest_score(highest, row, num_tiles, TILES)
    peak = highest_tempered(best, temperature)
    score = tl.load(scores + row * vocab_size + tokens, mask=inside, other=float("-inf"))
    score = tempered(score, best, temperature)
    if thresholds is not None:
        cut, near_cut = tl.load(thresholds + row * 4), tl.load(thresholds + row * 4 + 1)
        log_sum, entropy = tl.load(thresholds + row * 4 + 2), tl.load(thresholds + row * 4 + 3)
        is_removed = score < cut
        if near_cut > float("-inf"):
            is_removed |= nearness(score, peak, log_sum, entropy) < near_cut
        score = tl.where(is_removed, float("-inf"), score)
    # A score that is no number makes the sum none: the log-probability tells.
    tl.store(found + (row * num_tiles + tile) * 2 + 1, tl.sum(tl.exp(score - peak)))
    noisy = score
    if (tl.load(is_drawn + row) != 0) & (tl.max(score) > float("-inf")):
        position = tl.load(positions + row).to(tl.int32)
        noisy += gumbel(random_words(tl.load(seeds + row), position, tile, TILE, first_counter))
    value = tl.max(noisy)
    token = tl.min(tl.where((noisy == value) & inside, tokens, vocab_size))
    tl.store(found + (row * num_tiles + tile) * 2, value)
    tl.store(found_ids + row * num_tiles + tile, token)


@triton.jit
def random_words(seed, position, tile, TILE: tl.constexpr, first_counter=0):
    """uint32 [TILE]: the random word of every token of a tile."""
    blocks = first_counter + tile * (TILE // 4) + tl.arange(0, TILE // 4)
    zeros = tl.zeros([TILE // 4], tl.int32)
    first, second, third, fourth = tl.philox(seed, blocks, zeros + position, zeros, zeros)
    return tl.interleave(tl.interleave(first, third), tl.interleave(second, fourth))


@triton.jit
def gumbel(words):
    """-log(-log(1 - u)) with u = (word + 1/2) / 2^32, float32 for uint32."""
    uniform = (words.to(tl.float32) + 0.5) * 2.3283064365386963e-10
    uniform = tl.minimum(uniform, _LARGEST_UNIFORM)
    # log1p(-u) from the logarithm of 1 - u, corrected for its rounding (Kahan).
    rest = 1.0 - uniform
    log_rest = tl.where(rest == 1.0, -uniform, tl.log(rest) * (uniform / (1.0 - rest)))
    return -tl.log(-log_rest)


@triton.jit(do_not_specialize_on_alignment=["temperatures"])
def finish_kernel(
    scores,
    highest,
    temperatures,
    found,
    found_ids,
    token_ids,
    logprobs,
    vocab_size,
    num_tiles,
    TILES: tl.constexpr,
):
    """The lowest token id among the best of all tiles, and its log-probability."""
    row = tl.program_id(0).to(tl.int64)
    tiles = tl.arange(0, TILES)
    inside = tiles < num_tiles
    places = row * num_tiles + tiles
    values = tl.load(found + places * 2, mask=inside, other=float("-inf"))
    ids = tl.load(found_ids + places, mask=inside, other=vocab_size)
    total = tl.sum(tl.load(found + places * 2 + 1, mask=inside, other=0.0))
    token = tl.min(tl.where(values == tl.max(values), ids, vocab_size))
    token = tl.minimum(token, vocab_size - 1)
    temperature = tl.load(temperatures + row)
    best = highest_score(highest, row, num_tiles, TILES)
    peak = highest_tempered(best, temperature)
    score = tempered(tl.load(scores + row * vocab_size + token), best, temperature)
    tl.store(token_ids + row, token.to(tl.int64))
    tl.store(logprobs + row, score - peak - tl.log(total))
