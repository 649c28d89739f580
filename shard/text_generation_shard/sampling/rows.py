"""What the sampler is told about the rows that it samples."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from text_generation_shard.layers.partition import VocabularyPart
from text_generation_shard.ops.to_device import to_device
from text_generation_shard.sampling.parameters import SamplingFeatures

# Fields of `SamplingRows` that are the parameters of each row, in float32.
FLOATS = (
    "temperature",
    "top_p",
    "typical_p",
    "min_p",
    "repetition_penalty",
    "frequency_penalty",
    "presence_penalty",
)
# All that have an entry for each row.
_BY_ROW = (
    *FLOATS,
    "top_k",
    "draws",
    "seeds",
    "positions",
    "history_rows",
    "lengths",
    "output_starts",
)


@dataclass(frozen=True, slots=True)
class RowBias:
    """What is added to single scores of one row: token_ids int64 [tokens], without duplicates;
    values float32 [tokens].
    """

    row: int
    token_ids: Tensor
    values: Tensor

    def within(self, part: VocabularyPart) -> "RowBias":
        """The same for a part of the vocabulary: what lies elsewhere adds nothing, somewhere."""
        local = self.token_ids - part.start
        is_own = (local >= 0) & (local < part.size)
        return RowBias(self.row, local.where(is_own, 0), self.values.where(is_own, 0))


@dataclass(frozen=True, slots=True)
class BiasLists:
    """Such biases of all slots: int32 and float32 [slots, capacity], of which counts[slot], int64,
    are a slot's.
    """

    token_ids: Tensor
    values: Tensor
    counts: Tensor


@dataclass(frozen=True, slots=True)
class MaskPlaces:
    """Masks as in `GrammarMask`, and each row's place among them: int64 [rows], -1 for none."""

    allowed: Tensor
    places: Tensor


@dataclass(frozen=True, slots=True)
class GrammarMask:
    """The tokens that a grammar allows, for the rows that have one.

    rows: ascending. allowed: int32 [len(rows), ceil(vocab / 32)], bit i % 32 of word i // 32 set
    for every allowed token i; at least one bit per row.
    """

    rows: tuple[int, ...]
    allowed: Tensor

    def placed(self, num_rows: int) -> MaskPlaces:
        """The masks of so many rows."""
        places = torch.full((num_rows,), -1)
        places[list(self.rows)] = torch.arange(len(self.rows))
        return MaskPlaces(self.allowed, to_device(places, self.allowed.device))

    def among(self, places: Mapping[int, int]) -> "GrammarMask | None":
        """Of the rows that have a place, which they are called by; None if none has one."""
        kept = [mask for mask, row in enumerate(self.rows) if row in places]
        if not kept:
            return None
        index = to_device(torch.tensor(kept), self.allowed.device)
        rows = tuple(places[self.rows[mask]] for mask in kept)
        return GrammarMask(rows, self.allowed.index_select(0, index))


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingRows:
    """What is known of each sampled row; all tensors on the device of the logits.

    Sequence positions of one row, in its part of the history: the prompt is [:output_starts], the
    output so far [output_starts:lengths], and the token to be sampled comes at `positions`.
    """

    # float32 [rows]
    temperature: Tensor
    top_p: Tensor
    typical_p: Tensor
    min_p: Tensor
    repetition_penalty: Tensor
    frequency_penalty: Tensor
    presence_penalty: Tensor
    # int64 [rows]
    top_k: Tensor
    # bool [rows]: whether the token is drawn, or the best one taken
    draws: Tensor
    # int64 [rows], the bit pattern of a u64
    seeds: Tensor
    # int64 [rows], index in the sequence of the token to be sampled
    positions: Tensor
    # integer [sequences, width], known tokens; of a row in [0, lengths), anything beyond
    history: Tensor
    # int64 [rows]: each one's place in the history
    history_rows: Tensor
    # int64 [rows], at least 1
    lengths: Tensor
    # int64 [rows]
    output_starts: Tensor
    # Which rows need which processor, known on the host: it decides what is computed, and the
    # tensors above are read for those rows only.
    features: SamplingFeatures
    logit_bias: tuple[RowBias, ...] = ()
    grammar: GrammarMask | None = None
    # Rows whose sequence has a grammar, ascending; all ranks know them, only the one that samples
    # has their masks.
    constrained: tuple[int, ...] = ()
    # Both again, of rows whose slots (`history_rows`) only the device knows: what stands there when
    # they are sampled.
    biases: BiasLists | None = None
    masks: MaskPlaces | None = None

    def histories(self, index: Tensor) -> Tensor:
        """Those of some rows, int64 [len(index), width]; index: int64."""
        return self.history.index_select(0, self.history_rows[index]).long()

    def among(self, chosen: Sequence[int]) -> "SamplingRows":
        """Some of the rows, in their order, as if there were no others."""
        index = to_device(torch.tensor(chosen), self.seeds.device)
        places = {row: place for place, row in enumerate(chosen)}
        return replace(
            self._placed(places, lambda values: values.index_select(0, index)),
            grammar=None if self.grammar is None else self.grammar.among(places),
            constrained=tuple(places[row] for row in self.constrained if row in places),
        )

    def share(self, chosen: range) -> "SamplingRows":
        """Neighbouring rows, none of which has a grammar, as if there were no others. Looks at the
        same memory, so that it may be recorded.
        """
        assert self.grammar is None and not self.constrained
        places = {row: place for place, row in enumerate(chosen)}
        return self._placed(places, lambda values: values[chosen.start : chosen.stop])

    def _placed(
        self, places: Mapping[int, int], choose: Callable[[Tensor], Tensor]
    ) -> "SamplingRows":
        """Some of the rows but for their grammars. places: from a row to its new place; choose:
        those rows of a tensor.
        """
        by_row: dict[str, Any] = {name: choose(getattr(self, name)) for name in _BY_ROW}
        return replace(
            self,
            **by_row,
            features=self.features.placed(places),
            logit_bias=tuple(
                replace(bias, row=places[bias.row])
                for bias in self.logit_bias
                if bias.row in places
            ),
        )

    def within(self, part: VocabularyPart) -> "SamplingRows":
        """The same rows for the scores of a part: tokens elsewhere are none that it has."""
        index = torch.arange(len(self.lengths), device=self.lengths.device)
        local = self.histories(index) - part.start
        is_own = (local >= 0) & (local < part.size)
        return replace(
            self,
            history=local.where(is_own, part.size),
            history_rows=index,
            logit_bias=tuple(bias.within(part) for bias in self.logit_bias),
        )
