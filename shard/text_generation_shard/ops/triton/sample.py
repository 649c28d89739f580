"""One token per row of logits, exactly as the reference sampler chooses it, without a sort.

    adjust   (rows, tiles)   penalties and mask; the largest score of every tile
    bracket  several         the few tokens near the thresholds, see `sample_bracket`
    settle   (rows)          the thresholds, see `sample_settle`
    cut      (rows)          those of the few rows that these do not settle, by their digits
    draw     (rows, tiles)   the best of what is left, with noise, and its share of the softmax
    finish   (rows)          the best tile; the log-probability

A filter is a threshold, so several are the largest of them; only typical-p has one of its own.
Nothing waits for the device: what a row asks for is read by the kernels. What no row asks for, the
host may know, and leave out.
"""

from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from text_generation_shard.ops.triton.sample_bracket import (
    BOUNDS,
    PIVOTS,
    ROUNDS,
    collect_kernel,
    narrow_kernel,
    survey_kernel,
)
from text_generation_shard.ops.triton.sample_cut import cut_kernel
from text_generation_shard.ops.triton.sample_draw import draw_kernel, finish_kernel
from text_generation_shard.ops.triton.sample_scores import adjust_kernel, count_kernel
from text_generation_shard.ops.triton.sample_settle import settle_kernel

# Tokens that one program takes at a time: of a tile, and of the search for a threshold.
_TILE = 4096
_SEARCH_TILE = 1024
_HISTORY_TILE = 1024
# Scores of a row that are sorted to find its thresholds.
_CANDIDATES = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Penalties:
    """Float32 [rows] each, and what they look at.

    history: integer [sequences, width]; history_rows: int64 [rows], a row's place in it. A row's
    known tokens are history[.., :lengths], its output begins at output_starts; int64 [rows].
    """

    repetition: Tensor
    frequency: Tensor
    presence: Tensor
    history: Tensor
    history_rows: Tensor
    output_starts: Tensor
    lengths: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """top_k: int64 [rows], 0 for none; the others float32 [rows]; as in `SamplingParameters`."""

    top_k: Tensor
    top_p: Tensor
    typical_p: Tensor
    min_p: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenMask:
    """allowed: int32 [masks, ceil(vocab / 32)], a bit for every allowed token; index: int32 [rows],
    a row's mask, or -1 where it has none.
    """

    allowed: Tensor
    index: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Draws:
    """temperature: float32 [rows]; is_drawn: bool [rows], else the best token is chosen; seeds and
    positions: int64 [rows], of the noise. first_id: the token of the first score, a multiple of 4.
    """

    temperature: Tensor
    is_drawn: Tensor
    seeds: Tensor
    positions: Tensor
    first_id: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tiles:
    """What is known of the tiles of each row, [rows, tiles] each; float32 the largest score and the
    least, float64 [rows, tiles, 2] the moments. The last two are there for filters.
    """

    highest: Tensor
    lowest: Tensor | None
    moments: Tensor | None

    @classmethod
    def empty(cls, logits: Tensor, *, for_filters: bool) -> "_Tiles":
        rows, tiles = len(logits), triton.cdiv(logits.shape[1], _TILE)
        moments = None
        if for_filters:
            moments = torch.empty(rows, tiles, 2, dtype=torch.float64, device=logits.device)
        return cls(
            highest=logits.new_empty(rows, tiles),
            lowest=logits.new_empty(rows, tiles) if for_filters else None,
            moments=moments,
        )

    @property
    def count(self) -> int:
        """Of a row."""
        return self.highest.shape[1]


def sample(
    logits: Tensor,
    draws: Draws,
    *,
    penalties: Penalties | None = None,
    mask: TokenMask | None = None,
    filters: Filters | None = None,
) -> tuple[Tensor, Tensor]:
    """Token ids, int64 [rows], and their log-probabilities, float32 [rows].

    logits: float32 [rows, vocab], left as they are; None: no row asks for it.
    """
    if len(logits) == 0:
        return draws.seeds.new_empty(0), logits.new_empty(0)
    logits = logits.contiguous()
    is_adjusted = penalties is not None or mask is not None
    scores = torch.empty_like(logits) if is_adjusted else logits
    tiles = _Tiles.empty(logits, for_filters=filters is not None)
    _adjust(logits, scores, tiles, penalties, mask, draws, filters)
    thresholds = None if filters is None else _cut(scores, tiles, draws.temperature, filters)
    token_ids, logprobs, _ = _draw(scores, tiles.highest, thresholds, draws)
    return token_ids, logprobs


def best_of_part(scores: Tensor, draws: Draws) -> tuple[Tensor, Tensor, Tensor]:
    """The best score of each row, with its noise where the row draws; see `ops.best_of_part`.

    scores: float32 [rows, part], from draws.first_id on. Returns int64 [rows], from 0 for the first
    score; float32 [rows], the log-softmax within the part; float32 [rows], the best.
    """
    scores = scores.contiguous()
    tiles = _Tiles.empty(scores, for_filters=False)
    _adjust(scores, scores, tiles, None, None, draws, None)
    return _draw(scores, tiles.highest, None, draws)


def _adjust(
    logits: Tensor,
    scores: Tensor,
    tiles: _Tiles,
    penalties: Penalties | None,
    mask: TokenMask | None,
    draws: Draws,
    filters: Filters | None,
) -> None:
    """Fill scores, if they are not the logits, and what is to be known of the tiles."""
    rows, vocab_size = logits.shape
    counts = None
    if penalties is not None:
        counts = torch.zeros(rows, vocab_size, dtype=torch.int32, device=logits.device)
        _count(counts, penalties)
    adjust_kernel[(rows, tiles.count)](
        logits,
        None if scores is logits else scores,
        tiles.highest,
        tiles.lowest,
        tiles.moments,
        None if filters is None else draws.temperature,
        None if filters is None else filters.typical_p,
        counts,
        None if penalties is None else penalties.repetition,
        None if penalties is None else penalties.frequency,
        None if penalties is None else penalties.presence,
        None if mask is None else mask.allowed,
        None if mask is None else mask.index,
        vocab_size,
        TILE=_TILE,
        num_warps=8,
    )


def _count(counts: Tensor, penalties: Penalties) -> None:
    """The occurrences of every token, int32 [rows, vocab], see `count_kernel`."""
    width = penalties.history.shape[1]
    count_kernel[(len(counts), triton.cdiv(width, _HISTORY_TILE))](
        counts,
        penalties.repetition,
        penalties.frequency,
        penalties.presence,
        penalties.history,
        penalties.history_rows,
        penalties.output_starts,
        penalties.lengths,
        penalties.history.stride(0),
        counts.shape[1],
        TILE=_HISTORY_TILE,
    )


def _cut(scores: Tensor, tiles: _Tiles, temperature: Tensor, filters: Filters) -> Tensor:
    """The thresholds of every row, float32 [rows, 4], see `cut_kernel`."""
    rows, vocab_size = scores.shape
    thresholds = scores.new_empty(rows, 4)
    is_settled = torch.empty(rows, dtype=torch.int32, device=scores.device)
    asked = (temperature, filters.top_k, filters.top_p, filters.typical_p)
    sizes = (vocab_size, tiles.count)
    padded_tiles = triton.next_power_of_2(tiles.count)
    found = _bracket(scores, tiles, asked)
    settle_kernel[(rows,)](
        tiles.highest,
        *asked,
        filters.min_p,
        *found,
        thresholds,
        is_settled,
        *sizes,
        BOUNDS=BOUNDS,
        CANDIDATES=found[2].shape[1],
        TILES=padded_tiles,
        num_warps=8,
        # Two programs to a multiprocessor: all rows of a large step at one time.
        maxnreg=128,
    )
    cut_kernel[(rows,)](
        scores,
        tiles.highest,
        *asked,
        filters.min_p,
        thresholds,
        is_settled,
        *sizes,
        TILES=padded_tiles,
        TILE=_SEARCH_TILE,
        num_warps=16,
    )
    return thresholds


def _bracket(
    scores: Tensor, tiles: _Tiles, asked: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What `settle_kernel` reads: bounds, counts, candidates, masses.

    asked: temperature, top_k, top_p, typical_p.
    """
    (rows, vocab_size), num_tiles = scores.shape, tiles.count
    num_candidates = min(_CANDIDATES, int(triton.next_power_of_2(vocab_size)))
    pivots, bounds = scores.new_empty(rows, PIVOTS), scores.new_empty(rows, BOUNDS)
    above = scores.new_empty(rows, num_tiles, PIVOTS)
    counts = torch.empty(rows, dtype=torch.int32, device=scores.device)
    candidates = scores.new_empty(rows, num_candidates)
    masses = torch.empty(rows, num_tiles, 3, dtype=torch.float64, device=scores.device)
    constants = {
        "BOUNDS": BOUNDS,
        "CANDIDATES": num_candidates,
        "TILES": triton.next_power_of_2(num_tiles),
    }
    row_scores, sizes = (scores, tiles.highest, *asked), (vocab_size, num_tiles)
    tiling = {"TILE": _TILE, "num_warps": 8}
    for done in range(ROUNDS + 1):
        if done:
            survey_kernel[(rows, num_tiles)](
                *row_scores,
                *(pivots, above, bounds),
                *sizes,
                PIVOTS=PIVOTS,
                PIECE=min(_TILE, _SEARCH_TILE),
                **constants,
                **tiling,
            )
        narrow_kernel[(rows,)](
            *(tiles.highest, tiles.lowest, tiles.moments, *asked),
            *(pivots, above, bounds, counts),
            *sizes,
            IS_FIRST=done == 0,
            IS_LAST=done == ROUNDS,
            PIVOTS=PIVOTS,
            **constants,
            num_warps=1,
        )
    collect_kernel[(rows, num_tiles)](
        *row_scores, *(bounds, counts, candidates, masses), *sizes, **constants, **tiling
    )
    return bounds, counts, candidates, masses


def _draw(
    scores: Tensor, highest: Tensor, thresholds: Tensor | None, draws: Draws
) -> tuple[Tensor, Tensor, Tensor]:
    """What `best_of_part` returns, by tile and then by row."""
    rows, tiles = highest.shape
    found = scores.new_empty(rows, tiles, 2)
    ids = torch.empty(rows, tiles, dtype=torch.int32, device=scores.device)
    sizes = (scores.shape[1], tiles, triton.next_power_of_2(tiles))
    row_scores = (scores, highest, draws.temperature)
    noise = (draws.is_drawn.to(torch.int32), draws.seeds, draws.positions)
    draw_kernel[(rows, tiles)](
        *row_scores,
        thresholds,
        *noise,
        found,
        ids,
        draws.first_id // 4,
        *sizes,
        TILE=_TILE,
        num_warps=8,
    )
    token_ids, logprobs = draws.seeds.new_empty(rows), scores.new_empty(rows)
    finish_kernel[(rows,)](*row_scores, found, ids, token_ids, logprobs, *sizes, num_warps=1)
    return token_ids, logprobs, found[..., 0].amax(dim=1)
