"""The sampling parameters of all slots, and their selection for the rows of a step."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from text_generation_proto import shard_pb2 as pb
from torch import Tensor

from text_generation_shard.batch.bias_table import BiasTable
from text_generation_shard.batch.scheduled_batch import WorkItem
from text_generation_shard.batch.upload import upload
from text_generation_shard.ops.to_device import to_device
from text_generation_shard.sampling.parameters import (
    SamplingFeatures,
    SamplingParameterError,
    SamplingParameters,
)
from text_generation_shard.sampling.rows import FLOATS, RowBias, SamplingRows


@dataclass(frozen=True, slots=True)
class _Selection:
    """The parameters of some slots, one row each."""

    slots: tuple[int, ...]
    # int64 [rows]
    index: Tensor
    # float32 [len(FLOATS), rows]
    floats: Tensor
    # int64 [4, rows]: top_k, seed, output start, whether it is drawn
    integers: Tensor
    features: SamplingFeatures
    logit_bias: tuple[RowBias, ...]


class SamplingTable:
    """Owns the parameters: on the device for the processors, on the host to know which are needed.

    A selection is kept until a parameter or the rows change: a steady decode step reuses it.
    """

    def __init__(self, num_slots: int, vocab_size: int, device: torch.device) -> None:
        self._vocab_size = vocab_size
        self._device = device
        self._parameters = [SamplingParameters()] * num_slots
        # Rows that only fill up a step ask for nothing, too.
        floats = [[float(getattr(SamplingParameters(), name))] for name in FLOATS]
        self._floats = torch.tensor(floats, device=device).repeat(1, num_slots)
        self._integers = torch.zeros(4, num_slots, dtype=torch.int64, device=device)
        # On a GPU a step with biases is sampled outside of its graph.
        self._biases = BiasTable(num_slots) if device.type == "cpu" else None
        self._selection: _Selection | None = None

    def set(self, slot: int, message: pb.SamplingParameters, *, output_start: int) -> None:
        """Store one sequence's parameters; SamplingParameterError if one has no meaning."""
        parameters = _from_message(message, self._vocab_size)
        self._parameters[slot] = parameters
        floats = [float(getattr(parameters, name)) for name in FLOATS]
        sampled = parameters.do_sample
        integers = [parameters.top_k, parameters.signed_seed, output_start, int(sampled)]
        self._floats[:, slot] = to_device(torch.tensor(floats), self._device)
        self._integers[:, slot] = upload(integers, self._device)
        if self._biases is not None:
            self._biases.set(slot, parameters.logit_bias)
        self._selection = None

    def rows(self, items: Sequence[WorkItem], tokens: Tensor) -> SamplingRows:
        """What the sampler needs to know of the items, each of which samples.

        tokens: [num_slots, max_total_tokens + 1], the known tokens of all slots.
        """
        slots = tuple(item.slot for item in items)
        if self._selection is None or self._selection.slots != slots:
            self._selection = self._select(slots)
        chosen = self._selection
        lengths = [item.end for item in items]
        top_k, seeds, output_starts, draws = chosen.integers
        positions = upload(lengths, self._device)
        return SamplingRows(
            **dict(zip(FLOATS, chosen.floats, strict=True)),
            top_k=top_k,
            draws=draws.bool(),
            seeds=seeds,
            output_starts=output_starts,
            positions=positions,
            lengths=positions,
            history=tokens[:, : max(lengths)],
            history_rows=chosen.index,
            features=chosen.features,
            logit_bias=chosen.logit_bias,
        )

    def parameters(self, slot: int) -> SamplingParameters:
        """Those of one sequence."""
        return self._parameters[slot]

    def holds_bias(self, slot: int) -> bool:
        """Whether `device_rows` know all of a slot's bias."""
        bias = self._parameters[slot].logit_bias
        return not bias or (self._biases is not None and self._biases.holds(bias))

    def device_rows(
        self, slots: Tensor, lengths: Tensor, tokens: Tensor, features: SamplingFeatures
    ) -> SamplingRows:
        """As `rows`, for slots and lengths (int64 [rows]) that only the device knows.

        features: what the rows may ask for.
        """
        top_k, seeds, output_starts, draws = self._integers.index_select(1, slots)
        return SamplingRows(
            **dict(zip(FLOATS, self._floats.index_select(1, slots), strict=True)),
            top_k=top_k,
            draws=draws.bool(),
            seeds=seeds,
            output_starts=output_starts,
            positions=lengths,
            lengths=lengths,
            history=tokens,
            history_rows=slots,
            features=features,
            biases=None if self._biases is None else self._biases.lists,
        )

    def _select(self, slots: tuple[int, ...]) -> _Selection:
        parameters = [self._parameters[slot] for slot in slots]
        index = upload(slots, self._device)
        return _Selection(
            slots=slots,
            index=index,
            floats=self._floats.index_select(1, index),
            integers=self._integers.index_select(1, index),
            features=SamplingFeatures.of(parameters),
            logit_bias=tuple(
                self._row_bias(row, chosen.logit_bias)
                for row, chosen in enumerate(parameters)
                if chosen.logit_bias
            ),
        )

    def _row_bias(self, row: int, bias: tuple[tuple[int, float], ...]) -> RowBias:
        token_ids, values = zip(*bias, strict=True)
        return RowBias(
            row,
            upload(token_ids, self._device),
            to_device(torch.tensor(values, dtype=torch.float32), self._device),
        )


def _from_message(message: pb.SamplingParameters, vocab_size: int) -> SamplingParameters:
    bias: dict[int, float] = {}
    for token_id, value in zip(message.logit_bias_ids, message.logit_bias_values, strict=True):
        if token_id >= vocab_size:
            raise SamplingParameterError(
                f"logit_bias: token id {token_id} lies outside the vocabulary ({vocab_size})"
            )
        bias[token_id] = bias.get(token_id, 0.0) + value
    return SamplingParameters(
        do_sample=message.do_sample,
        top_k=message.top_k,
        watermark=message.watermark,
        seed=message.seed,
        logit_bias=tuple(bias.items()),
        **{name: getattr(message, name) for name in FLOATS},
    )
