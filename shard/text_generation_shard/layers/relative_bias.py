"""Relative positions of T5 (Raffel et al., 2020): each head learns a bias for buckets of distances.

Half of the buckets hold one distance each, the others ever more of them, up to a maximum; whatever
is farther falls into the last. Where a query sees keys on both sides, each side has half of all.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from text_generation_shard.layers.partition import AttentionShape
from text_generation_shard.weights.scope import WeightScope


@dataclass(frozen=True, slots=True)
class Buckets:
    """How distances fall into buckets."""

    num_buckets: int
    max_distance: int

    def of_distances(self, distances: Tensor, num_buckets: int) -> Tensor:
        """distances: int64, not negative. Returns their buckets, in [0, num_buckets)."""
        num_exact = num_buckets // 2
        # In float32, as the models were trained: the borders lie where its rounding puts them.
        logarithms = torch.log(distances.float().clamp(min=1) / num_exact)
        share = logarithms / math.log(self.max_distance / num_exact)
        far = num_exact + (share * (num_buckets - num_exact)).long()
        return torch.where(distances < num_exact, distances, far.clamp(max=num_buckets - 1))

    def before(self) -> Tensor:
        """int64 [max_distance + 1]: the bucket of the key that lies so many tokens before."""
        return self.of_distances(torch.arange(self.max_distance + 1), self.num_buckets)

    def around(self) -> Tensor:
        """int64 [2 * max_distance + 1]: those of keys from max_distance before to as far behind."""
        positions = torch.arange(-self.max_distance, self.max_distance + 1)
        half = self.num_buckets // 2
        return self.of_distances(positions.abs(), half) + half * (positions > 0)


def read_bias(weights: WeightScope, shape: AttentionShape, buckets: Buckets) -> Tensor:
    """What a rank's heads add for each bucket, float32 [num_heads, num_buckets]."""
    table = weights.read("weight", (buckets.num_buckets, shape.total_num_heads))
    return table[:, list(shape.query_heads)].t().float().contiguous()


class BidirectionalBias:
    """The bias of an encoder's attention, for the heads of one rank."""

    def __init__(self, weights: WeightScope, shape: AttentionShape, buckets: Buckets) -> None:
        # [num_heads, 2 * max_distance + 1], by the key's position less the query's.
        self._table = read_bias(weights, shape, buckets)[:, buckets.around()]
        self._max_distance = buckets.max_distance

    def diagonals(self, length: int) -> Tensor:
        """Of a text of `length` tokens, float32 [num_heads, 2 * length - 1]: what is added where
        the key's position less the query's is 1 - length, ..., length - 1.
        """
        limit = self._max_distance
        distances = torch.arange(1 - length, length, device=self._table.device)
        return self._table[:, distances.clamp_(-limit, limit) + limit]


def rows_of_bias(diagonals: Tensor, rows: range) -> Tensor:
    """What is added to the scores of some consecutive queries: [num_heads, rows, length].

    query i, key j       diagonals[j - i + length - 1], j = 0, 1, ...
    window i of length   begins at length - 1 - i: the last query's comes first
    """
    length = (diagonals.shape[1] + 1) // 2
    windows = diagonals.unfold(1, length, 1)[:, length - rows.stop : length - rows.start]
    return windows.flip(1)
