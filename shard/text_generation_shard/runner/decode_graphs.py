"""Decode steps as graphs: forward, sampling and the step to the next token in one launch.

Every row of a step is a slot and its context; all else that a step reads stands on the device by
slot (`SequenceSlots`). So a graph takes one small packet, and serves every step of as many rows:

    packet   [ slots of the rows, then the scrap slot | contexts of the rows, then 1 ]

A graph is recorded for a bucket of rows and for what the rows ask of the sampler, when such a step
comes for the second time: the first one is computed as any other, so that serving need not wait.
The largest graph is recorded before serving: the others use its memory, one after the other.
What a graph cannot do (`_kind`) is computed as any other, too.
"""

import enum
import logging
import time
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from text_generation_shard.batch.scheduled_batch import ScheduledBatch
from text_generation_shard.batch.slots import SequenceSlots, SlotLimits
from text_generation_shard.distributed import RankGroup
from text_generation_shard.grammar.table import GrammarTable
from text_generation_shard.kv_cache import KVCache
from text_generation_shard.models.model import Model
from text_generation_shard.ops.triton import library
from text_generation_shard.runner.cuda_graph import GraphRecorder, StepGraph
from text_generation_shard.sampling.parameters import (
    FILTERS,
    Processor,
    SamplingFeatures,
)
from text_generation_shard.sampling.sampler import SampledTokens, Sampler

logger = logging.getLogger(__name__)

# Rows: matrix products take as long for a few rows more, so that buckets may be wide.
DEFAULT_BUCKETS = (1, 2, 4, *range(8, 64, 8), *range(64, 128, 16), *range(128, 257, 32))


# Bytes for every score of the largest step, for all processors' tensors; an estimate, doubled.
_BYTES_PER_SCORE = 2 * (2 + 4 + 4 + 4)


def graph_buckets(
    sizes: Sequence[int] | None, ranks: RankGroup, device: torch.device
) -> tuple[int, ...]:
    """The rows of the graphs for --cuda-graphs, ascending; none where there can be no graphs."""
    if ranks.world_size > 1 or not library.takes(torch.empty(0, device=device)):
        return ()
    return DEFAULT_BUCKETS if sizes is None else tuple(sorted({*sizes} - {0}))


def can_be_recorded(model: Model, limits: SlotLimits) -> bool:
    """Whether the device alone can make the inputs of this model's decode steps: the attention must
    be the kernels', no encoder's, and no state of another kind be kept.
    """
    spec = model.cache_spec
    return not (limits.is_encoder_decoder or spec.recurrent is not None)


def graph_bytes(buckets: Sequence[int], vocab_size: int) -> int:
    """Memory that graphs take beside the cache."""
    return max(buckets, default=0) * vocab_size * _BYTES_PER_SCORE


class SamplingKind(enum.Enum):
    """What a graph's sampler does, by the processors that rows may ask for."""

    PLAIN = frozenset({Processor.TEMPERATURE, Processor.DRAW})
    FILTERED = PLAIN | frozenset(FILTERS)
    PENALISED = FILTERED | {Processor.REPETITION, Processor.FREQUENCY}


@dataclass(frozen=True, slots=True)
class _GraphKey:
    bucket: int
    kind: SamplingKind


class DecodeGraphs:
    """Owns the graphs, and the memory through which they are told their rows and tell the tokens.

    All calls come from one thread.
    """

    def __init__(
        self,
        *,
        model: Model,
        cache: KVCache,
        slots: SequenceSlots,
        sampler: Sampler,
        grammars: GrammarTable,
        buckets: Sequence[int],
        recorder: GraphRecorder,
    ) -> None:
        """buckets: numbers of rows, ascending."""
        device, largest = model.cache_spec.device, buckets[-1]
        self._model = model
        self._cache = cache
        self._slots = slots
        self._sampler = sampler
        self._grammars = grammars
        self._buckets = buckets
        self._recorder = recorder
        self._staged = torch.empty(2 * largest, dtype=torch.int64, pin_memory=device.type == "cuda")
        self._packet = torch.empty(2 * largest, dtype=torch.int64, device=device)
        self._token_ids = torch.empty(largest, dtype=torch.int64, device=device)
        self._logprobs = torch.empty(largest, dtype=torch.float32, device=device)
        # None: this step came once.
        self._graphs: dict[_GraphKey, StepGraph | None] = {}
        self._is_given_up = False

    def record_largest(self) -> None:
        """Record the graph that takes most memory. It also compiles the sampler's kernels, and says
        before serving whether this model's steps can be recorded at all.
        """
        self._record(_GraphKey(self._buckets[-1], SamplingKind.PENALISED))

    def decode(self, batch: ScheduledBatch) -> SampledTokens | None:
        """Compute a step, up to the tokens that stand behind the known ones; None if no graph does.

        The rows are the items in their order. The result is overwritten by the next step.
        """
        key = None if self._is_given_up else self._key(batch)
        if key is None:
            return None
        if key not in self._graphs:
            self._graphs[key] = None
            return None
        graph = self._graphs[key] or self._record(key)
        if graph is None:
            return None
        self._upload(
            key.bucket, [item.slot for item in batch.items], [item.end for item in batch.items]
        )
        graph.replay()
        count = len(batch.items)
        return SampledTokens(
            token_ids=self._token_ids[:count], logprobs=self._logprobs[:count], top_tokens=None
        )

    def _key(self, batch: ScheduledBatch) -> _GraphKey | None:
        count = len(batch.items)
        if not 0 < count <= self._buckets[-1]:
            return None
        kind = self._kind(batch)
        return kind and _GraphKey(self._buckets[bisect_left(self._buckets, count)], kind)

    def _kind(self, batch: ScheduledBatch) -> SamplingKind | None:
        """The least kind of sampling that does for all rows. None if a row is no decode, or asks
        for what is known on the host alone (a grammar's mask, a bias) or read by it (top-n).
        """
        asked: set[Processor] = set()
        for item in batch.items:
            parameters = self._slots.sampling_parameters(item.slot)
            is_plain = not parameters.logit_bias and not self._slots[item.slot].top_n_tokens
            if item.num_tokens > 1 or not item.is_sampled or not is_plain:
                return None
            asked.update(parameters.processors)
        if self._grammars.has_any(batch.sampled_slots):
            return None
        return next((kind for kind in SamplingKind if asked <= kind.value), None)

    def _record(self, key: _GraphKey) -> StepGraph | None:
        """A graph for steps of this kind, recorded on rows of the scrap slot alone.

        If it cannot be recorded, there will be no graphs: better slow than not at all.
        """
        started = time.perf_counter()
        self._upload(key.bucket, [], [])
        try:
            graph = self._recorder.record(lambda: self._compute(key))
        except RuntimeError as error:
            logger.warning(
                "No CUDA graphs: recording one failed (%s). Decoding will be slower", error
            )
            self._is_given_up = True
            return None
        self._graphs[key] = graph
        seconds = round(time.perf_counter() - started, 3)
        fields = {"rows": key.bucket, "sampling": key.kind.name.lower(), "seconds": seconds}
        logger.info("Recorded a decode graph", extra={"fields": fields})
        return graph

    def _upload(self, bucket: int, slots: Sequence[int], contexts: Sequence[int]) -> None:
        """Fill the packet: the rows given, and rows of the scrap slot up to the bucket."""
        padding = bucket - len(slots)
        rows = [*slots, *[self._slots.scrap_slot] * padding, *contexts, *[1] * padding]
        staged = self._staged[: 2 * bucket]
        staged.copy_(torch.tensor(rows))
        self._packet[: 2 * bucket].copy_(staged, non_blocking=True)

    def _compute(self, key: _GraphKey) -> None:
        """What a graph records: a step of the rows that the packet names."""
        slots, contexts = self._packet[: 2 * key.bucket].view(2, -1)
        hidden = self._model.forward(self._slots.decode_inputs(slots, contexts), self._cache)
        logits = self._model.logits(hidden)
        assert logits is not None
        sampled = self._sampler(logits, self._slots.decode_rows(slots, contexts, _features(key)))
        self._slots.append_tokens(slots, contexts, sampled.token_ids)
        _fill(self._token_ids, sampled.token_ids)
        _fill(self._logprobs, sampled.logprobs)


def _fill(memory: Tensor, values: Tensor) -> None:
    memory[: len(values)].copy_(values)


def _features(key: _GraphKey) -> SamplingFeatures:
    """Every row may ask for everything of the kind: the kernels look for themselves."""
    rows = tuple(range(key.bucket))
    return SamplingFeatures(rows=dict.fromkeys(key.kind.value, rows))
