"""Token embedding and output head, cut over the vocabulary."""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from text_generation_shard.distributed import RankGroup
from text_generation_shard.weights.reader import WeightScope


class VocabParallelEmbedding:
    """Rank r holds the rows [r * n, (r + 1) * n) of the table, n = ceil(vocab / ranks).

    The last rank's table is filled up with zeros, so that all ranks' logits have one shape.
    """

    def __init__(
        self, weights: WeightScope, ranks: RankGroup, *, vocab_size: int, hidden_size: int
    ) -> None:
        self._ranks = ranks
        self._rows = -(-vocab_size // ranks.world_size)
        self._start = min(ranks.rank * self._rows, vocab_size)
        num_stored = min(self._start + self._rows, vocab_size) - self._start
        self.weight = weights.empty(self._rows, hidden_size)
        self.weight[num_stored:].zero_()
        weights.read_into(
            self.weight[:num_stored],
            "weight",
            shape=(vocab_size, hidden_size),
            start=self._start,
        )

    def __call__(self, token_ids: Tensor) -> Tensor:
        """token_ids: [tokens], integer. Returns [tokens, hidden], equal on all ranks."""
        if self._ranks.world_size == 1:
            return F.embedding(token_ids, self.weight)
        local = token_ids - self._start
        is_elsewhere = (local < 0) | (local >= self._rows)
        rows = F.embedding(local.masked_fill(is_elsewhere, 0), self.weight)
        return self._ranks.all_reduce(rows.masked_fill_(is_elsewhere[:, None], 0))


class ParallelHead:
    """The output head: its own table, or the embedding's where the two are tied."""

    def __init__(self, table: VocabParallelEmbedding, ranks: RankGroup, *, vocab_size: int) -> None:
        self._weight = table.weight
        self._ranks = ranks
        self._vocab_size = vocab_size

    def __call__(self, hidden: Tensor) -> Tensor | None:
        """hidden: [rows, hidden]. Returns float32 [rows, vocab] on rank 0, None elsewhere."""
        part = F.linear(hidden, self._weight).to(torch.float32)
        logits = self._ranks.gather_columns(part)
        return None if logits is None else logits[:, : self._vocab_size]
