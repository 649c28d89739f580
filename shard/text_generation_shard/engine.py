"""One step: retire, admit, schedule, forward, sample; and, when the device has done it, report.

No step reads what the one before it computed: a GPU is given step n + 1 while it computes n, and
the report of n waits in another thread. The exceptions wait where they ask: a grammar's mask for
the last token (while the model computes already), top-n and prompt log-probabilities for their own
step.

Ranks sample together, each from the scores of its part of the vocabulary, see `sampling.parallel`.
What takes a comparison of numbers that all of them have, all do; the rest rank 0 decides, so that
ranks cannot disagree.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from text_generation_proto import shard_pb2 as pb
from torch import Tensor

from text_generation_shard.batch.scheduled_batch import ScheduledBatch, WorkItem
from text_generation_shard.batch.slots import RefusedSequence, SequenceSlots
from text_generation_shard.batch.upload import upload
from text_generation_shard.distributed import RankGroup
from text_generation_shard.errors import StepRejectedError
from text_generation_shard.grammar.table import GrammarTable
from text_generation_shard.kv_cache import KVCache
from text_generation_shard.models.model import Model
from text_generation_shard.ops.to_device import to_device
from text_generation_shard.runner.decode_graphs import DecodeGraphs
from text_generation_shard.runner.device_work import DeviceWork
from text_generation_shard.sampling.prompt_logprobs import prompt_logprobs
from text_generation_shard.sampling.sampler import SampledTokens, TokenSampler
from text_generation_shard.step_outcome import StepOutcome, host_tensors, step_result
from text_generation_shard.unused_blocks import UnusedBlocks


class Engine:
    """Executes steps on one rank's model, cache and slots, all of which it owns.

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
        ranks: RankGroup,
        graphs: DecodeGraphs | None = None,
        unused_blocks: UnusedBlocks | None = None,
    ) -> None:
        """graphs: for a device that records them; unused_blocks: where the cache is untouched."""
        self._graphs = graphs
        self._unused_blocks = unused_blocks
        self._model = model
        self._cache = cache
        self._slots = slots
        self._sampler = sampler
        self._grammars = grammars
        self._ranks = ranks
        self._device = model.cache_spec.device
        self._last_work: DeviceWork | None = None

    @property
    def graphs(self) -> DecodeGraphs | None:
        """Of decode steps, where the device records them."""
        return self._graphs

    def reset(self) -> None:
        """Forget all sequences: a new step stream starts from nothing."""
        self._slots.retire_all()
        self._grammars.retire_all()

    def step(self, request: pb.StepRequest) -> pb.StepResult:
        """Compute one step, and wait for it; see `begin`."""
        return self.begin(request)()

    def begin(self, request: pb.StepRequest) -> Callable[[], pb.StepResult]:
        """Launch one step; what is returned waits for it, on any thread, and reports.

        A StepRejectedError leaves the engine fit for the next step; the step's sequences have
        failed. After any other error, the report's included, it is not to be used again.
        """
        work = DeviceWork(self._device)
        self._slots.retire(request.retired_slots)
        self._grammars.retire(request.retired_slots)
        refused = self._slots.admit(request.admissions)
        self._grammars.admit(request.admissions)
        batch = self._slots.schedule(request)
        if self._unused_blocks is not None:
            self._unused_blocks.use(request)
        try:
            if refused:
                raise _rejection(refused)
            outcome = self._compute(batch)
        except StepRejectedError:
            self._slots.advance(batch, None)
            raise
        self._slots.advance(batch, None if outcome.is_advanced else outcome.sampled_ids)
        is_worker = self._ranks.rank > 0
        work.send_back(host_tensors(outcome, is_worker=is_worker))
        self._grammars.advance(batch.sampled_slots, partial(_token_ids, work))
        self._last_work = work
        num_graphs = 0 if self._graphs is None else self._graphs.count
        return partial(
            step_result,
            request.step,
            outcome,
            work,
            slots=batch.sampled_slots,
            is_worker=is_worker,
            num_graphs=num_graphs,
        )

    def work_while_idle(self) -> bool:
        """Make blocks ready, then record a graph, if the device was idle at the last call, too:
        when it is done with a step, the next one may be on its way. Returns whether there is more
        to do.
        """
        if self._unused_blocks is not None and self._unused_blocks.make_ready():
            return True
        if self._graphs is None:
            return False
        was_idle = self._last_work is None
        if self._last_work is not None and self._last_work.is_done:
            self._last_work = None
        return self._graphs.record_next() if was_idle else True

    def _compute(self, batch: ScheduledBatch) -> StepOutcome:
        """Forward and sampling; raises StepRejectedError where memory did not suffice.

        Then the sequence with the most work fails, and the router may try the others again. A rank
        among several cannot give up a step alone: the others wait for it in a collective.
        There, memory errors stay what they are, and end the shard.
        """
        if self._ranks.world_size > 1:
            return self._forward_and_sample(batch)
        try:
            return self._forward_and_sample(batch)
        except (torch.OutOfMemoryError, MemoryError) as error:  # MemoryError: of NumPy and of C++
            raise _out_of_memory(error, batch) from error
        except RuntimeError as error:
            if "can't allocate memory" not in str(error):
                raise
            raise _out_of_memory(error, batch) from error

    def _forward_and_sample(self, batch: ScheduledBatch) -> StepOutcome:
        started = time.perf_counter()
        decoded = None if self._graphs is None else self._graphs.decode(batch)
        if isinstance(decoded, SampledTokens):
            forward_us = _microseconds_since(started)
            failures = self._failures(batch)
            return StepOutcome(decoded, forward_us, failures, is_advanced=True, is_replayed=True)
        if decoded is not None:
            outcome = self._sampled_outcome(decoded, batch, _microseconds_since(started))
            return replace(outcome, is_replayed=True)
        rows = batch.in_row_order()
        if not rows:
            return StepOutcome(None, 0)
        hidden = self._model.forward(self._slots.model_inputs(rows), self._cache)
        first_rows = _first_rows(rows)
        logits = None
        if batch.sampled:
            last_rows = [first_rows[item.slot] + item.num_tokens - 1 for item in batch.sampled]
            logits = self._model.logits(hidden[upload(last_rows, self._device)])
        forward_us = _microseconds_since(started)
        outcome = self._sampled_outcome(logits, batch, forward_us)
        prompts = self._prompt_logprobs(hidden, batch, first_rows)
        return replace(outcome, prompt_logprobs=prompts)

    def _sampled_outcome(
        self, logits: Tensor | None, batch: ScheduledBatch, forward_us: int
    ) -> StepOutcome:
        """logits: float32 [sampled, part], if anything is sampled."""
        if logits is None:
            return StepOutcome(None, forward_us)
        sampled = self._sample(logits, batch)
        return StepOutcome(sampled, forward_us, self._failures(batch))

    def _failures(self, batch: ScheduledBatch) -> list[pb.SequenceFailure]:
        """Of grammars, which rank 0 has alone; to be asked when the step has sampled."""
        if self._ranks.rank > 0:
            return []
        return self._grammars.failures(batch.sampled_slots)

    def _sample(self, logits: Tensor, batch: ScheduledBatch) -> SampledTokens:
        rows = self._slots.sampling_rows(batch.sampled)
        slots = batch.sampled_slots
        mask = self._grammars.masks(slots)
        if mask is not None:
            mask = replace(mask, allowed=to_device(mask.allowed, self._device))
        rows = replace(rows, grammar=mask, constrained=self._grammars.rows(slots))
        top_n = [self._slots[slot].top_n_tokens for slot in slots]
        return self._sampler(logits, rows, top_n)

    def _prompt_logprobs(
        self, hidden: Tensor, batch: ScheduledBatch, first_rows: dict[int, int]
    ) -> list[pb.PromptLogprobs]:
        """The log-probabilities of the prompt tokens that follow a token of this step.

        computed    start ........ end - 1
        reported          start + 1 ........ end     as far as the prompt goes
        """
        reports = []
        for item in batch.items:
            state = self._slots[item.slot]
            last = min(item.end + 1, state.num_prompt_tokens)
            count = last - item.start - 1
            if not state.prompt_logprobs or count <= 0:
                continue
            first_row = first_rows[item.slot]
            scores = prompt_logprobs(
                hidden[first_row : first_row + count],
                self._slots.known_tokens(item.slot, item.start + 1, last),
                head=self._prompt_head,
                vocab_size=self._model.config.vocab_size,
                top_n=state.top_n_tokens,
            )
            report = pb.PromptLogprobs(slot=item.slot, first_position=item.start + 1)
            report.logprobs.extend(scores.logprobs.tolist())
            report.top_n_token_ids.extend(scores.top_token_ids.flatten().tolist())
            report.top_n_logprobs.extend(scores.top_logprobs.flatten().tolist())
            reports.append(report)
        return reports

    def _prompt_head(self, hidden: Tensor) -> Tensor:
        """The logits on rank 0; elsewhere something of their shape that takes no memory."""
        vocab_size = self._model.config.vocab_size
        logits = self._ranks.gather_columns(self._model.logits(hidden))
        if logits is not None:
            return logits[:, :vocab_size]
        nothing = torch.zeros(1, 1, device=self._device)
        return nothing.expand(len(hidden), vocab_size)


def _first_rows(rows: tuple[WorkItem, ...]) -> dict[int, int]:
    """Where the rows of each slot's item begin."""
    first_rows, row = {}, 0
    for item in rows:
        first_rows[item.slot] = row
        row += item.num_tokens
    return first_rows


def _token_ids(work: DeviceWork) -> list[int]:
    ids: list[int] = work.wait()[0].tolist()
    return ids


def _microseconds_since(started: float) -> int:
    return int((time.perf_counter() - started) * 1e6)


def _rejection(refused: list[RefusedSequence]) -> StepRejectedError:
    message = "; ".join(f"sequence {entry.sequence_id}: {entry.reason}" for entry in refused)
    return StepRejectedError(message, slots=tuple(entry.slot for entry in refused))


def _out_of_memory(error: Exception, batch: ScheduledBatch) -> StepRejectedError:
    largest = max(
        batch.items, key=lambda item: (item.num_tokens + item.num_encoder_tokens, item.end)
    )
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return StepRejectedError(f"out of memory: {reason}", slots=(largest.slot,))
