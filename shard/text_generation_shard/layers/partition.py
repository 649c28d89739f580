"""Which part of the heads, of the vocabulary and of a wide dimension is whose."""

import math
from dataclasses import dataclass

import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from text_generation_shard.errors import CapacityError


@dataclass(frozen=True, slots=True)
class HeadPartition:
    """The attention heads of one rank.

    Query heads are cut evenly. A KV head goes to every rank that has a query head of its group, so
    where there are fewer KV heads than ranks they are replicated. Each local KV head serves
    `group_size` consecutive local query heads.

        12 query heads, 4 KV heads, 2 ranks     12 query heads, 4 KV heads, 6 ranks (rank 1)
        rank 0  q 0 1 2 | 3 4 5                 q 2 | 3
                kv  0   |   1                   kv 0 | 1
    """

    num_heads: int
    first_head: int
    group_size: int
    # Index in the whole model of each local KV head.
    kv_heads: tuple[int, ...]

    @classmethod
    def of_rank(
        cls, rank: int, world_size: int, *, total_num_heads: int, total_num_kv_heads: int
    ) -> "HeadPartition":
        """The heads of a rank; CapacityError if the query heads cannot be cut evenly."""
        if total_num_heads % world_size:
            raise CapacityError(
                f"num_attention_heads ({total_num_heads}) cannot be divided among {world_size} "
                "shards (--num-shard)"
            )
        num_heads = total_num_heads // world_size
        first_head = rank * num_heads
        total_group_size = total_num_heads // total_num_kv_heads
        # The longest run of query heads that, cut off at multiples of its length, never straddles
        # two KV heads.
        group_size = math.gcd(num_heads, total_group_size)
        kv_heads = tuple(
            head // total_group_size
            for head in range(first_head, first_head + num_heads, group_size)
        )
        return cls(num_heads, first_head, group_size, kv_heads)

    @property
    def num_kv_heads(self) -> int:
        """KV heads on this rank."""
        return len(self.kv_heads)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionShape:
    """The attention heads of a whole model, and which of them are this rank's."""

    heads: HeadPartition
    total_num_heads: int
    total_num_kv_heads: int
    head_dim: int
    hidden_size: int

    @property
    def query_heads(self) -> range:
        """Index in the whole model of each local query head."""
        return range(self.heads.first_head, self.heads.first_head + self.heads.num_heads)


@dataclass(frozen=True, slots=True)
class VocabularyPart:
    """The token ids [start, start + size) of one rank: all parts have one size, so that the last
    ones may hold ids beyond the vocabulary, or nothing else.

    Where there are several, the size is a multiple of four: as many tokens share the words of one
    counter (`sampling.philox`).

        10 tokens, 2 ranks        10 tokens, 4 ranks
        0 ..... 7 | 8 9 - ...     0 1 2 3 | 4 5 6 7 | 8 9 - - | - - - -
    """

    start: int
    size: int
    vocab_size: int

    @classmethod
    def of_rank(cls, rank: int, world_size: int, vocab_size: int) -> "VocabularyPart":
        """The part of one of `world_size` ranks."""
        size = -(-vocab_size // world_size)
        if world_size > 1:
            size += -size % 4
        return cls(rank * size, size, vocab_size)

    @property
    def num_tokens(self) -> int:
        """How many of the ids are tokens."""
        return max(0, min(self.size, self.vocab_size - self.start))

    def cut(self, values: Tensor, padding: float) -> Tensor:
        """The part's of something that there is for every token: [.., vocab] to [.., size]."""
        own = values[..., self.start : self.start + self.num_tokens]
        return F.pad(own, (0, self.size - self.num_tokens), value=padding)


def even_range(total: int, rank: int, world_size: int) -> range:
    """A rank's part of `total` things: consecutive, complete, sizes differ by one at most."""
    return range(rank * total // world_size, (rank + 1) * total // world_size)
