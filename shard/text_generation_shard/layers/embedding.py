"""Token embedding and output head, cut over the vocabulary."""

import torch
from torch import Tensor

from text_generation_shard.distributed import RankGroup
from text_generation_shard.layers.partition import VocabularyPart
from text_generation_shard.ops.add import add_rows
from text_generation_shard.ops.scale import scaled
from text_generation_shard.weights.scope import WeightScope


class VocabParallelEmbedding:
    """The rows of the table that belong to a rank's part of the vocabulary.

    What is no token has zeros, so that all ranks' logits have one shape.
    """

    def __init__(
        self, weights: WeightScope, ranks: RankGroup, *, vocab_size: int, hidden_size: int
    ) -> None:
        self._ranks = ranks
        self._part = part = VocabularyPart.of_rank(ranks.rank, ranks.world_size, vocab_size)
        start, num_stored = min(part.start, vocab_size), part.num_tokens

        def fill(matrix: Tensor) -> None:
            matrix[num_stored:].zero_()
            weights.read_into(
                matrix[:num_stored], "weight", shape=(vocab_size, hidden_size), start=start
            )

        self.weight = weights.matrix(part.size, hidden_size, fill, is_table=True)

    def __call__(self, token_ids: Tensor, *, scale: float = 1.0) -> Tensor:
        """scale: what the rows are multiplied by; token_ids: [tokens], integer. Returns [tokens,
        hidden], equal on all ranks.
        """
        return scaled(self._rows_of(token_ids), scale)

    def _rows_of(self, token_ids: Tensor) -> Tensor:
        if self._ranks.world_size == 1:
            return self.weight.rows(token_ids)
        local = token_ids - self._part.start
        is_elsewhere = (local < 0) | (local >= self._part.size)
        rows = self.weight.rows(local.masked_fill(is_elsewhere, 0))
        return self._ranks.all_reduce(rows.masked_fill_(is_elsewhere[:, None], 0))


class PositionEmbedding:
    """Learned positions, the whole table on every rank."""

    def __init__(
        self, weights: WeightScope, *, num_positions: int, hidden_size: int, offset: int = 0
    ) -> None:
        """offset: rows of the table before the one of position 0."""
        self._weight = weights.read("weight", (num_positions + offset, hidden_size))[offset:]

    def add_to(self, x: Tensor, positions: Tensor) -> Tensor:
        """x: [tokens, hidden], which may be overwritten; positions: int64 [tokens]. Returns x's
        shape.
        """
        return add_rows(x, self._weight, positions)


class ParallelHead:
    """The output head: its own table, or the embedding's where the two are tied."""

    def __init__(
        self,
        table: VocabParallelEmbedding,
        ranks: RankGroup,
        *,
        vocab_size: int,
        bias: Tensor | None = None,
        scale: float = 1.0,
        soft_cap: float | None = None,
    ) -> None:
        """bias: [vocab]; scale: what logits are multiplied by; soft_cap c: c * tanh(logits / c)."""
        self._weight = table.weight
        self._part = VocabularyPart.of_rank(ranks.rank, ranks.world_size, vocab_size)
        self._bias = None if bias is None else self._part.cut(bias, 0.0)
        self._scale = scale
        self._soft_cap = soft_cap

    def __call__(self, hidden: Tensor) -> Tensor:
        """hidden: [rows, hidden]. Returns float32 [rows, part]: this rank's part of the vocabulary,
        -inf for what is no token.
        """
        part = self._weight(hidden).to(torch.float32)
        logits = scaled(part, self._scale, bias=self._bias, soft_cap=self._soft_cap)
        if self._part.num_tokens < self._part.size:
            logits[:, self._part.num_tokens :] = float("-inf")
        return logits
