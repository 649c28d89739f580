"""Noise from a counter: Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2,
3", 2011).

A random word is a pure function of a 64-bit key and a 128-bit counter. The noise of a token is
therefore the same whichever rows, ranks or processes compute it, and in whatever order:

    key     = (low word of the seed, high word of the seed)
    counter = (token_id // 4, position, stream, 0)
    word    = output[token_id % 4]

The words are unsigned 32-bit numbers held in int64 tensors, for torch has no unsigned arithmetic on
every device. An int64 product wraps modulo 2^64, so its 64 bits are those of the unsigned product.
"""

import enum
from typing import NamedTuple

import torch
from torch import Tensor

WORD_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_INCREMENTS = (0x9E3779B9, 0xBB67AE85)
_NUM_ROUNDS = 10
# The largest float32 below 1.
_LARGEST_UNIFORM = 1 - 2**-24
# Counters computed at one time on CPU: the working set of a round then stays in the cache.
_CPU_CHUNK = 16384


class Stream(enum.IntEnum):
    """What the noise is for; different purposes never share a random word."""

    DRAW = 0
    WATERMARK = 1


class Words(NamedTuple):
    """Four 32-bit words, int64 tensors of shapes that broadcast with each other."""

    first: Tensor
    second: Tensor
    third: Tensor
    fourth: Tensor


def philox(counter: Words, key: tuple[Tensor, Tensor]) -> Words:
    """The four random words of every counter.

    Counter and key are int64 tensors of values in [0, 2^32) and shapes that broadcast; a part that
    is the same for many counters is cheapest when it is not expanded. The words all have the
    broadcast shape.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_NUM_ROUNDS):
        # Only a factor must be a clean 32-bit word. The low half of a product is left with the high
        # half above it until it becomes part of a factor, which is masked.
        product0 = c0 * _MULTIPLIERS[0]
        product1 = c2 * _MULTIPLIERS[1]
        c0 = ((product1 >> 32) ^ (c1 ^ k0)) & WORD_MASK
        c2 = ((product0 >> 32) ^ (c3 ^ k1)) & WORD_MASK
        c1, c3 = product1, product0
        k0 = (k0 + _KEY_INCREMENTS[0]) & WORD_MASK
        k1 = (k1 + _KEY_INCREMENTS[1]) & WORD_MASK
    return Words(c0, c1 & WORD_MASK, c2, c3 & WORD_MASK)


def vocabulary_words(
    seeds: Tensor, positions: Tensor, *, vocab_size: int, stream: Stream, first_id: int = 0
) -> Tensor:
    """The random word of every token of the vocabulary, for each (seed, position).

    seeds: int64 [rows], a u64's bit pattern. positions: int64 [rows] in [0, 2^32). first_id: of a
    part of the vocabulary that has vocab_size tokens; a multiple of 4.
    Returns int64 [rows, vocab_size].
    """
    blocks = torch.arange((vocab_size + 3) // 4, device=seeds.device) + first_id // 4
    counter = _counter(blocks[None, :], positions[:, None], stream)
    words = philox(counter, _key(seeds[:, None]))
    return torch.stack(words, dim=-1).flatten(1)[:, :vocab_size]


def token_words(seeds: Tensor, positions: Tensor, token_ids: Tensor, *, stream: Stream) -> Tensor:
    """The random words of single tokens; all arguments and the result are int64 [tokens]."""
    words = philox(_counter(token_ids >> 2, positions, stream), _key(seeds))
    lanes = torch.stack(words, dim=-1)
    return lanes.gather(-1, (token_ids & 3)[:, None]).squeeze(-1)


def vocabulary_gumbel(
    seeds: Tensor, positions: Tensor, *, vocab_size: int, first_id: int = 0
) -> Tensor:
    """Gumbel noise for every token of the vocabulary, or of a part of it as in `vocabulary_words`:
    float32 [rows, vocab_size].
    """
    noise = torch.empty(len(seeds), vocab_size, device=seeds.device)
    chunk = len(seeds)
    if seeds.device.type == "cpu":
        chunk = max(1, _CPU_CHUNK * 4 // vocab_size)
    for start in range(0, len(seeds), chunk):
        rows = slice(start, start + chunk)
        words = vocabulary_words(
            seeds[rows],
            positions[rows],
            vocab_size=vocab_size,
            stream=Stream.DRAW,
            first_id=first_id,
        )
        noise[rows] = gumbel(words)
    return noise


def token_gumbel(seeds: Tensor, positions: Tensor, token_ids: Tensor) -> Tensor:
    """Gumbel noise for single tokens: int64 [tokens] each, float32 [tokens] out."""
    return gumbel(token_words(seeds, positions, token_ids, stream=Stream.DRAW))


def gumbel(words: Tensor) -> Tensor:
    """Standard Gumbel noise, float32, from random words.

    With u = (word + 1/2) / 2^32 it is -log(-log(1 - u)). The largest noise, which decides the draw,
    comes from the smallest u, where float32 is finest. All values are finite, in [-2.9, 22.9].
    """
    uniform = (words.contiguous().float() + 0.5).mul_(2.0**-32).clamp_(max=_LARGEST_UNIFORM)
    return uniform.neg_().log1p_().neg_().log_().neg_()


def _counter(blocks: Tensor, positions: Tensor, stream: Stream) -> Words:
    constant = torch.full((), int(stream), dtype=torch.int64, device=blocks.device)
    return Words(blocks, positions, constant, torch.zeros_like(constant))


def _key(seeds: Tensor) -> tuple[Tensor, Tensor]:
    return seeds & WORD_MASK, (seeds >> 32) & WORD_MASK
