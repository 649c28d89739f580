"""Decode steps as graphs: forward, sampling and the step to the next token in one launch, or on the
CPU in one call.

Every row of a step is a slot and its context; all else that a step reads stands on the device by
slot (`SequenceSlots`). So a graph takes one small packet, and serves every step of as many rows:

    packet   [ slots of the rows, then the scrap slot | contexts of the rows, then 1 ]

A graph is for a bucket of rows and for what the rows ask of the sampler. What the host reads
(top-n) is no graph's, nor on a GPU what only the host knows (a grammar's mask, a bias): such a
step's graph ends with the logits, and the sampler is launched behind it, while the layers are
computed.

To record a graph takes a fraction of a second. The largest are recorded before serving: the others
use their memory, one after the other. Those are recorded while nobody asks for a step; until then
a step takes the smallest graph that can compute it, with more rows of the scrap slot. Where no
pause comes, a graph that many steps would have taken is recorded between two of them. Steps with
chunks of prompts have no graph.

On the CPU biases lie where a recording reads them, and so do the masks of grammars, for which it
waits behind the layers (`awaited_masks.py`). A row that only fills up costs as much as another
there, and to record costs little more than a step. So a graph serves exactly its number of rows,
and is recorded after a few steps that wanted it, or in a pause.

Ranks record the collectives of a step, too. So all of them must record the same graphs between the
same steps: what decides is what the steps were, which all ranks see, and never a pause, of which
each has its own. After a recording they agree whether all have the graph (`agreed_recording.py`).
"""

import logging
import math
import time
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from text_generation_shard.batch.scheduled_batch import ScheduledBatch
from text_generation_shard.batch.slots import SequenceSlots
from text_generation_shard.distributed import RankGroup, collective
from text_generation_shard.grammar.table import GrammarTable
from text_generation_shard.kv_cache import KVCache
from text_generation_shard.layers.partition import VocabularyPart
from text_generation_shard.models.model import Model
from text_generation_shard.runner.agreed_recording import AgreedRecording
from text_generation_shard.runner.awaited_masks import AwaitedMasks
from text_generation_shard.runner.graph_policy import ON_GPU, GraphPolicy, SamplingKind
from text_generation_shard.runner.step_graph import (
    GraphRecorder,
    RecordingRefusedError,
    StepGraph,
    copied,
)
from text_generation_shard.sampling.parameters import Processor, SamplingFeatures
from text_generation_shard.sampling.sampler import SampledTokens, TokenSampler

logger = logging.getLogger(__name__)


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
        sampler: TokenSampler,
        grammars: GrammarTable,
        buckets: Sequence[int],
        recorder: GraphRecorder,
        ranks: RankGroup,
        policy: GraphPolicy = ON_GPU,
    ) -> None:
        """buckets: numbers of rows, ascending."""
        self._ranks = ranks
        device, largest = model.cache_spec.device, buckets[-1]
        self._model = model
        self._cache = cache
        self._slots = slots
        self._sampler = sampler
        self._grammars = grammars
        self._buckets = buckets
        self._recorder = recorder
        self._policy = policy
        self._packet = torch.empty(2 * largest, dtype=torch.int64, device=device)
        self._token_ids = torch.empty(largest, dtype=torch.int64, device=device)
        self._logprobs = torch.empty(largest, dtype=torch.float32, device=device)
        part = VocabularyPart.of_rank(ranks.rank, ranks.world_size, model.config.vocab_size)
        shape = (largest, part.size)
        self._logits = torch.empty(shape, dtype=torch.float32, device=device)
        # What graphs of the kind NATIVE wait for.
        self._masks: AwaitedMasks | None = None
        if SamplingKind.NATIVE in policy.sampling:
            self._masks = AwaitedMasks(grammars, largest)
        # Where a graph that leaves out the sampler has its logits.
        self._shown: dict[_GraphKey, Tensor] = {}
        self._graphs: dict[_GraphKey, StepGraph] = {}
        # What steps would have taken, and how many of them; the last one last.
        self._wanted: dict[_GraphKey, int] = {}
        # No more are recorded: one could not be, or all the memory that there is for them is taken.
        self._is_closed = False
        self._max_bytes: float = math.inf

    @property
    def count(self) -> int:
        """Graphs that there are."""
        return len(self._graphs)

    @property
    def num_bytes(self) -> int:
        """Memory that they take."""
        return self._recorder.num_bytes

    def record_first(self) -> None:
        """Record the graphs that take most memory, of which one can compute any step, or on the CPU
        those of one row. It also compiles the sampler's kernels, and says before serving whether
        this model's steps can be recorded at all.
        """
        bucket = self._buckets[-1 if self._policy.fills_up else 0]
        self._record(_GraphKey(bucket, self._policy.sampling[-1]))
        self._record(_GraphKey(bucket, SamplingKind.OUTSIDE))
        # What the largest compute with is known now; the rest is what the cache's sizing left them.
        known = self.num_bytes + self._policy.launch_bytes(self._buckets)
        vocab_size = self._model.config.vocab_size
        self._max_bytes = max(known, self._policy.num_bytes(self._buckets, vocab_size))

    def record_next(self) -> bool:
        """Record what steps wanted last, else a bucket that has no graph yet; whether there was
        one. To be called while the device has nothing to do. Ranks do not share their pauses: if
        there are several, there is never one.
        """
        if self._ranks.world_size > 1:
            return False
        ahead = _coarse_first(self._buckets) if self._policy.records_ahead else ()
        missing = (_GraphKey(bucket, SamplingKind.OUTSIDE) for bucket in ahead)
        candidates = (*reversed(self._wanted), *missing)
        key = next((key for key in candidates if key not in self._graphs), None)
        if key is None or self._is_closed:
            return False
        self._wanted.pop(key, None)
        self._record(key)
        return True

    def decode(self, batch: ScheduledBatch) -> SampledTokens | Tensor | None:
        """Compute a step by a graph, if there is one that can.

        The result is the tokens, which then stand behind the known ones; or the logits to sample
        from, float32 [rows, part], where the graph leaves that out. The rows are the items in
        their order. The next step overwrites it.
        """
        key = self._choose(batch)
        if key is None:
            return None
        self._upload(
            key.bucket, [item.slot for item in batch.items], [item.end for item in batch.items]
        )
        if key.kind is SamplingKind.NATIVE and self._masks is not None:
            self._masks.tell(batch.sampled_slots)
            self._graphs[key].replay()
            self._masks.check()
        else:
            with collective():
                self._graphs[key].replay()
        count = len(batch.items)
        if key.kind is SamplingKind.OUTSIDE:
            return self._shown[key][:count]
        sampled = SampledTokens(
            token_ids=self._token_ids[:count], logprobs=self._logprobs[:count], top_tokens=None
        )
        if key.kind is SamplingKind.NATIVE:
            self._replace_no_tokens(sampled)
        return sampled

    def _replace_no_tokens(self, sampled: SampledTokens) -> None:
        """Rows whose scores are not numbers have the token -1 and no log-probability: give them
        any token, which the next step reads, and NaN. To compute the step again would advance
        recurrent states twice.
        """
        failed = sampled.token_ids < 0
        if not failed.any():
            return
        sampled.token_ids.masked_fill_(failed, 0)
        sampled.logprobs.masked_fill_(failed, math.nan)
        count = len(failed)
        slots, contexts = self._packet[: 2 * count].view(2, -1)
        self._slots.append_tokens(slots, contexts, sampled.token_ids)

    def _choose(self, batch: ScheduledBatch) -> _GraphKey | None:
        """The graph with the fewest rows that can compute the step; of these the one that does
        least beside it.
        """
        count = len(batch.items)
        is_decode = all(item.num_tokens == 1 and item.is_sampled for item in batch.items)
        # A graph cannot start a recurrent state from zeros.
        if self._cache.states is not None:
            is_decode = is_decode and all(item.start > 0 for item in batch.items)
        if not is_decode or not 0 < count <= self._buckets[-1]:
            return None
        buckets = self._buckets[bisect_left(self._buckets, count) :]
        if not self._policy.fills_up:
            buckets = buckets[:1]
        kinds = self._kinds(batch)
        wanted = _GraphKey(buckets[0], kinds[0])
        if wanted not in self._graphs and not self._is_closed:
            self._want(wanted)
        keys = (_GraphKey(bucket, kind) for bucket in buckets for kind in kinds)
        return next((key for key in keys if key in self._graphs), None)

    def _want(self, key: _GraphKey) -> None:
        """Note that a step would take this graph; record it if too many had to do without it."""
        num_steps = self._wanted.pop(key, 0) + 1
        if num_steps > self._policy.patience:
            self._record(key)
        else:
            self._wanted[key] = num_steps

    def _kinds(self, batch: ScheduledBatch) -> list[SamplingKind]:
        """What does for all rows, the best first."""
        asked: set[Processor] = set()
        is_native = self._masks is not None
        for slot in batch.sampled_slots:
            parameters = self._slots.sampling_parameters(slot)
            is_biased = bool(parameters.logit_bias)
            if is_biased and not (is_native and self._slots.holds_bias(slot)):
                return [SamplingKind.OUTSIDE]
            if self._slots[slot].top_n_tokens:
                return [SamplingKind.OUTSIDE]
            asked.update(parameters.processors)
        if not is_native and self._grammars.has_any(batch.sampled_slots):
            return [SamplingKind.OUTSIDE]
        inside = [
            kind
            for kind in self._policy.sampling
            if kind is not SamplingKind.OUTSIDE and asked <= kind.value
        ]
        return [*inside[:1], SamplingKind.OUTSIDE, *inside[1:]]

    def _record(self, key: _GraphKey) -> None:
        """Make a graph for steps of this kind, recorded on rows of the scrap slot alone.

        If any rank cannot record it, there will be no more than there are: better slow than not at
        all.
        """
        if self._is_closed:
            return
        started = time.perf_counter()
        self._upload(key.bucket, [], [])
        recording = AgreedRecording(self._ranks)
        graph = recording.record(self._recorder, lambda: self._compute(key))
        is_agreed = recording.agree()
        if isinstance(recording.error, RecordingRefusedError):
            logger.info("Decode steps of this model are not recorded: %s", recording.error)
            self._is_closed = True
            return
        if not is_agreed or graph is None:
            logger.warning(
                "No decode graphs beside %d: recording one failed (%s). Decoding will be slower",
                len(self._graphs),
                recording.error or "on another rank",
            )
            self._is_closed = True
            return
        self._graphs[key] = graph
        fields = {
            "rows": key.bucket,
            "sampling": key.kind.name.lower(),
            "seconds": round(time.perf_counter() - started, 3),
            "graphs": self.count,
            "bytes_of_all": self.num_bytes,
        }
        logger.info("Recorded a decode graph", extra={"fields": fields})
        if self._ranks.maximum(self.num_bytes > self._max_bytes):
            logger.warning("No decode graphs beside %d: their memory is taken", self.count)
            self._is_closed = True

    def _upload(self, bucket: int, slots: Sequence[int], contexts: Sequence[int]) -> None:
        """Fill the packet: the rows given, and rows of the scrap slot up to the bucket."""
        padding = bucket - len(slots)
        rows = [*slots, *[self._slots.scrap_slot] * padding, *contexts, *[1] * padding]
        # From memory of its own: the packet of the step before may not have been copied yet.
        is_pinned = self._packet.device.type == "cuda"
        staged = torch.tensor(rows, dtype=torch.int64, pin_memory=is_pinned)
        self._packet[: 2 * bucket].copy_(staged, non_blocking=True)

    def _compute(self, key: _GraphKey) -> None:
        """What a graph records: a step of the rows that the packet names."""
        slots, contexts = self._packet[: 2 * key.bucket].view(2, -1)
        hidden = self._model.forward(self._slots.decode_inputs(slots, contexts), self._cache)
        logits = self._model.logits(hidden)
        if key.kind is SamplingKind.OUTSIDE:
            self._shown[key] = self._recorder.show(logits, self._logits)
            return
        rows = self._slots.decode_rows(slots, contexts, _features(key))
        if key.kind is SamplingKind.NATIVE and self._masks is not None:
            rows = replace(rows, masks=self._masks.wait(key.bucket))
        sampled = self._sampler(logits, rows)
        self._slots.append_tokens(slots, contexts, sampled.token_ids)
        copied(sampled.token_ids, self._token_ids)
        copied(sampled.logprobs, self._logprobs)


def _coarse_first(buckets: Sequence[int]) -> list[int]:
    """The same, so that any first few of them, the smallest among these, are spread over all."""
    found, stride = [buckets[0]], len(buckets)
    while stride > 1:
        stride = -(-stride // 2)
        found += [bucket for bucket in buckets[::stride] if bucket not in found]
    return found


def _features(key: _GraphKey) -> SamplingFeatures:
    """Every row may ask for everything of the kind: the kernels look for themselves."""
    rows = tuple(range(key.bucket))
    return SamplingFeatures(rows=dict.fromkeys(key.kind.value, rows))
