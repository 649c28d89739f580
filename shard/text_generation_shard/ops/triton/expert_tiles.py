"""Pairs of token and chosen expert, sorted by expert and cut into tiles.

    pair    token * experts_per_token + choice
    order   p3 p7 p8 | p0 | p1 p2 p5 ...     by expert, then by pair
    tile    0  0  1  | 2  | 3 ...            of up to ROWS pairs of one expert

The host knows neither which experts are chosen nor by how many rows, so that it never waits and a
graph serves every choice: there are as many tiles as the worst choice needs, and those left over
are empty.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

# Pairs that the sort looks at in one pass.
_CHUNK = 2048


def tiles_of_pairs(expert_ids: Tensor, num_experts: int, rows: int) -> tuple[Tensor, Tensor]:
    """The pairs in the order of their experts, int32 [pairs], and the tiles, int32 [tiles, 3]:
    expert, place of the first pair in the order, number of pairs, which may be 0.
    """
    pairs = expert_ids.numel()
    order = torch.empty(pairs, dtype=torch.int32, device=expert_ids.device)
    shape = (pairs // rows + num_experts, 3)
    tiles = torch.empty(shape, dtype=torch.int32, device=expert_ids.device)
    _sort_kernel[(num_experts,)](
        expert_ids, order, tiles, pairs, ROWS=rows, CHUNK=_CHUNK, num_warps=8
    )
    return order, tiles


@triton.jit(do_not_specialize=["pairs"])
def _sort_kernel(expert_ids, order, tiles, pairs, ROWS: tl.constexpr, CHUNK: tl.constexpr):
    """A program finds the pairs of one expert.

    Tiles of an expert begin at `lower // ROWS + expert`, where `lower` pairs have lower experts.
    This leaves room for all of theirs, each rounded up, and at most one place that nobody fills.
    """
    expert = tl.program_id(0)
    lanes = tl.arange(0, CHUNK)
    lower_lanes = tl.zeros([CHUNK], tl.int32)
    own_lanes = tl.zeros([CHUNK], tl.int32)
    for first in range(0, pairs, CHUNK):
        inside = first + lanes < pairs
        ids = tl.load(expert_ids + first + lanes, mask=inside, other=0).to(tl.int32)
        lower_lanes += (inside & (ids < expert)).to(tl.int32)
        own_lanes += (inside & (ids == expert)).to(tl.int32)
    lower = tl.sum(lower_lanes)
    own = tl.sum(own_lanes)
    place = lower
    for first in range(0, pairs, CHUNK):
        inside = first + lanes < pairs
        ids = tl.load(expert_ids + first + lanes, mask=inside, other=0).to(tl.int32)
        is_own = inside & (ids == expert)
        found = tl.cumsum(is_own.to(tl.int32), axis=0)
        tl.store(order + place + found - 1, first + lanes, mask=is_own)
        place += tl.sum(is_own.to(tl.int32))
    begin = lower // ROWS + expert
    for tile in range(begin, (lower + own) // ROWS + expert + 1):
        done = (tile - begin) * ROWS
        tl.store(tiles + 3 * tile, expert)
        tl.store(tiles + 3 * tile + 1, lower + done)
        tl.store(tiles + 3 * tile + 2, tl.minimum(tl.maximum(own - done, 0), ROWS))
