"""Plans steps and learns what came of them.

Two steps may be under way: step n+1 is planned before the result of step n is known, each sampling
item counting on one token. Why that is safe:

- *Blocks and slots.* Every shard executes steps in order. What is given back now is handed out by a
  later plan, so whatever an earlier step still reads or writes there happens before. A sequence
  that is found finished late has written at most into its own last block and new ones.
- *Names of prompt blocks* are given when the step that fills them is planned, at the end of the
  plan: only later steps find them, and those run later. Prompts that share what a step is computing
  right now wait for that step instead of computing it again.
- *Names of generated blocks* are given when all tokens of the block have come back, so they were
  computed by steps that succeeded.
- *A failed step* was not computed, though the shards keep count as if it had been. What was planned
  on it is void: its names and those of the step after it are taken back, the sequences of both that
  did not fail are preempted, and the later result counts for nothing. Their recomputation starts
  from blocks named before.
- *Preemption* loses no token: one that is under way when its sequence loses its slot is still
  valid, because it is sampled by an earlier step; the sequence queues again when it has arrived.

Nothing starves: the queue's order is fixed at arrival (`queue`), its first sequence is overtaken by
no later one when it does not fit, and preemption takes the youngest, so that the oldest always goes
on; alone, every sequence fits (`SchedulerLimits`).

A restart of the shards (`restart`) is a preemption of everybody: what a shard knew follows from the
tokens that the host knows. Order of its effects: steps under way and their tokens are forgotten,
slots, blocks and names are made anew for the new limits, who no longer fits ends, the others queue
again by their old arrival.

Order of effects of `plan`: preemptions, admissions, blocks, counts of the sequences, names, step
number. Of `apply`: token, ending (which gives back slot and blocks), names.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from text_generation_router.scheduler.cost_model import CostModel, CostSample
from text_generation_router.scheduler.limits import SchedulerLimits
from text_generation_router.scheduler.prefix_cache import PrefixCache
from text_generation_router.scheduler.prompt_reader import PromptReader
from text_generation_router.scheduler.queue import WaitingQueue
from text_generation_router.scheduler.residents import Residents
from text_generation_router.scheduler.sequence import Ending, Sequence, SequenceState
from text_generation_router.scheduler.step_plan import (
    AppliedStep,
    FailedSequence,
    StepFailure,
    StepMismatchError,
    StepOutcome,
    StepPlan,
)

MAX_STEPS_IN_FLIGHT = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerStats:
    """A snapshot, for metrics."""

    num_waiting: int
    num_running: int
    # Blocks of the cache, the scrap block included; those that running sequences hold; and those
    # that only the prefix cache holds.
    num_blocks: int
    num_used_blocks: int
    num_cached_blocks: int
    # Since the start: steps, preemptions, and tokens found in the prefix cache.
    num_steps: int
    num_preemptions: int
    num_cached_tokens: int


class Scheduler:
    """Owns every sequence from submission to its end, the queue, the slots and the blocks."""

    def __init__(self, limits: SchedulerLimits, cost_model: CostModel) -> None:
        self.cost_model = cost_model
        self._sequences: dict[int, Sequence] = {}
        self._num_steps = 0
        self._num_preemptions = 0
        self._num_cached_tokens = 0
        self._mean_residence = 0.0
        self._begin(limits)

    def _begin(self, limits: SchedulerLimits) -> None:
        """What the shards know when their step streams open: nothing."""
        self.limits = limits
        self._queue = WaitingQueue()
        self._residents = Residents(
            max_slots=limits.max_slots,
            cache=PrefixCache(limits.num_blocks, keeps_names=limits.has_prefix_cache),
            block_size=limits.block_size,
        )
        self._reader = PromptReader(limits, self.cost_model, self._queue, self._residents)
        self._in_flight: deque[StepPlan] = deque()
        # Number of the step planned last, in the streams that are open now.
        self._last_step = 0

    @property
    def num_steps_in_flight(self) -> int:
        return len(self._in_flight)

    def submit(self, sequence: Sequence) -> None:
        """Queue a new sequence. Raises ValueError if it could never fit."""
        if sequence.max_total_tokens > self.limits.max_total_tokens:
            raise ValueError(
                f"sequence {sequence.sequence_id} may grow to {sequence.max_total_tokens} tokens, "
                f"max_total_tokens is {self.limits.max_total_tokens}"
            )
        if sequence.num_prompt_tokens < 1 or sequence.max_new_tokens < 1:
            raise ValueError("a sequence needs a prompt token and a new token at least")
        if (len(sequence.encoder_ids) > 0) != (self.limits.num_tables == 2):
            raise ValueError("an encoder-decoder's sequence, and only one, has encoder_ids")
        assert sequence.sequence_id not in self._sequences
        self._sequences[sequence.sequence_id] = sequence
        self._reader.enqueue(sequence)

    def finish(self, sequence: Sequence, ending: Ending, now: float) -> None:
        """End a sequence for a reason that its tokens do not show (stopped, cancelled). Harmless
        after its end.
        """
        if sequence.state is not SequenceState.ENDED:
            self._end(sequence, ending, now)

    def plan(self, now: float) -> StepPlan | None:
        """The next step; None if there is nothing to compute, or two steps or a long one are under
        way.
        """
        if len(self._in_flight) == MAX_STEPS_IN_FLIGHT:
            return None
        if self._in_flight and self._in_flight[-1].is_long:
            return None
        plan = StepPlan(step=self._last_step + 1)
        self._plan_decodes(plan)
        self._num_cached_tokens += self._reader.fill(plan, now, self._preempt)
        if not plan.work_slots:
            return None
        plan.retired_slots = self._residents.take_retired_slots()
        for block, name in plan.named_blocks:
            self._residents.cache.name(block, name)
        self._last_step += 1
        self._num_steps += 1
        self._in_flight.append(plan)
        return plan

    def apply(self, outcome: StepOutcome, now: float) -> AppliedStep:
        """Take in the result of the oldest step under way. Raises `StepMismatchError` if it is
        another step's or has another number of tokens than was planned.
        """
        plan = self._in_flight[0] if self._in_flight else None
        if plan is None or outcome.step != plan.step:
            expected = "none" if plan is None else plan.step
            raise StepMismatchError(f"result of step {outcome.step}, expected {expected}")
        self._in_flight.popleft()
        if plan.is_void:
            return AppliedStep(plan, [None] * len(outcome.token_ids), [])
        if outcome.failure is not None:
            return self._apply_failure(plan, outcome.failure, now)
        if len(outcome.token_ids) != len(plan.sampling):
            raise StepMismatchError(
                f"step {plan.step} sampled {len(outcome.token_ids)} tokens, "
                f"{len(plan.sampling)} were planned"
            )
        failed = self._end_failed(plan, outcome.slot_failures, now)
        rows = self._apply_tokens(plan, outcome.token_ids, now)
        self.cost_model.observe(
            CostSample(plan.num_prefill_tokens, plan.num_decodes, outcome.duration_ms)
        )
        return AppliedStep(plan, rows, failed)

    def restart(self, limits: SchedulerLimits) -> list[FailedSequence]:
        """Begin anew with shards that know nothing and may hold less than those before: the next
        plan is step 1. Tokens under way are sampled again, from the same noise. Returns the
        sequences that no longer fit; they have ended.
        """
        self._begin(limits)
        failed: list[FailedSequence] = []
        for sequence in list(self._sequences.values()):
            sequence.restart()
            if sequence.max_total_tokens <= limits.max_total_tokens:
                self._reader.enqueue(sequence)
                continue
            sequence.move_to(SequenceState.ENDED)
            sequence.ending = Ending.FAILED
            del self._sequences[sequence.sequence_id]
            message = (
                f"the request may grow to {sequence.max_total_tokens} tokens; the restarted "
                f"shards serve {limits.max_total_tokens}"
            )
            failed.append(FailedSequence(sequence, message))
        return failed

    def predicted_wait(self) -> float:
        """Seconds until a request that arrives now would be read: the prompts ahead of it and, if
        nobody else fits in, the time until somebody leaves.
        """
        unread = self._queue.num_tokens + sum(
            sequence.num_remaining_tokens for sequence in self._residents.prefilling.values()
        )
        wait = self._reader.reading_seconds(unread, len(self._residents.decoding))
        room = 0 if self._reader.is_blocked else self._residents.num_free_slots
        must_leave = len(self._queue) + 1 - room
        if must_leave > 0 and len(self._residents):
            wait += self._mean_residence * must_leave / len(self._residents)
        return wait

    def stats(self) -> SchedulerStats:
        cache = self._residents.cache
        return SchedulerStats(
            num_waiting=len(self._sequences) - len(self._residents),
            num_running=len(self._residents),
            num_blocks=self.limits.num_blocks,
            num_used_blocks=cache.num_used,
            num_cached_blocks=cache.num_idle,
            num_steps=self._num_steps,
            num_preemptions=self._num_preemptions,
            num_cached_tokens=self._num_cached_tokens,
        )

    def _plan_decodes(self, plan: StepPlan) -> None:
        """One token for everybody who decodes; where blocks run out, the youngest gives way."""
        residents, block_size = self._residents, self.limits.block_size
        rows: list[Sequence] = []
        num_new_blocks = 0
        for sequence in residents.decoding.values():
            if sequence.num_known_tokens < sequence.max_known_tokens:
                rows.append(sequence)
                if sequence.num_computed_tokens == len(sequence.block_table) * block_size:
                    num_new_blocks += 1
        if num_new_blocks > residents.cache.num_available:
            rows = self._make_room(rows)
        for sequence in rows:
            plan.add_work(
                sequence,
                1,
                residents.grow(sequence, 1)
                if sequence.num_computed_tokens == len(sequence.block_table) * block_size
                else [],
            )
            sequence.num_computed_tokens += 1
            sequence.num_known_tokens += 1
        plan.sampling += rows
        plan.num_decodes = len(rows)

    def _make_room(self, rows: list[Sequence]) -> list[Sequence]:
        """Preempt the youngest until each row that is left can have its next block."""
        block_size = self.limits.block_size
        while True:
            needed = sum(
                sequence.num_computed_tokens == len(sequence.block_table) * block_size
                for sequence in rows
            )
            if needed <= self._residents.cache.num_available:
                return rows
            self._preempt(self._residents.youngest())
            rows = [row for row in rows if row.state is SequenceState.RUNNING]

    def _preempt(self, sequence: Sequence) -> None:
        """Take slot and blocks from a running sequence; it queues again once its tokens under way
        have arrived.
        """
        self._residents.leave(sequence)
        sequence.num_preemptions += 1
        self._num_preemptions += 1
        if sequence.num_pending_tokens:
            sequence.move_to(SequenceState.PREEMPTED)
        else:
            sequence.move_to(SequenceState.WAITING)
            self._reader.enqueue(sequence)

    def _apply_tokens(
        self, plan: StepPlan, token_ids: list[int], now: float
    ) -> list[Sequence | None]:
        """Give each sampled token to its sequence, unless that has ended since."""
        block_size = self.limits.block_size
        rows: list[Sequence | None] = []
        for sequence, token_id in zip(plan.sampling, token_ids, strict=True):
            if sequence.state is SequenceState.ENDED:
                rows.append(None)
                continue
            known = sequence.token_ids
            known.append(token_id)
            rows.append(sequence)
            if (
                sequence.state is SequenceState.RUNNING
                and len(known) > (sequence.num_named_blocks + 1) * block_size
            ):
                self._name_generated_blocks(sequence)
            if len(known) == sequence.max_known_tokens:
                self._end(sequence, Ending.LENGTH, now)
            elif token_id in sequence.eos_token_ids:
                self._end(sequence, Ending.EOS_TOKEN, now)
            elif sequence.state is SequenceState.PREEMPTED and not sequence.num_pending_tokens:
                sequence.move_to(SequenceState.WAITING)
                self._reader.enqueue(sequence)
        return rows

    def _name_generated_blocks(self, sequence: Sequence) -> None:
        """Name the blocks filled by steps that have succeeded: all known tokens but the last."""
        block_size = self.limits.block_size
        for index in range(sequence.num_named_blocks, (len(sequence.token_ids) - 1) // block_size):
            name = sequence.block_name(index, block_size)
            self._residents.cache.name(sequence.block_table[index], name)
            sequence.num_named_blocks = index + 1

    def _end_failed(
        self, plan: StepPlan, messages: Mapping[int, str], now: float
    ) -> list[FailedSequence]:
        """End the sequences of a plan whose slots are named, unless they have ended since."""
        if not messages:
            return []
        failed: list[FailedSequence] = []
        for slot, sequence in zip(plan.work_slots, plan.sequences, strict=True):
            if slot in messages and sequence.state is not SequenceState.ENDED:
                self._end(sequence, Ending.FAILED, now)
                failed.append(FailedSequence(sequence, messages[slot]))
        return failed

    def _apply_failure(self, plan: StepPlan, failure: StepFailure, now: float) -> AppliedStep:
        """End the sequences that failed, roll the others back to what the host knows, void what was
        planned on this step.
        """
        slots = failure.slots or plan.work_slots
        failed = self._end_failed(plan, dict.fromkeys(slots, failure.message), now)
        for void in (plan, *self._in_flight):
            void.is_void = True
            for sequence in void.sequences:
                self._roll_back(sequence)
            for block, name in void.named_blocks:
                self._residents.cache.forget(block, name)
        return AppliedStep(plan, [], failed)

    def _roll_back(self, sequence: Sequence) -> None:
        """Forget the tokens under way; a running sequence loses its slot."""
        if sequence.state is SequenceState.RUNNING:
            sequence.num_known_tokens = len(sequence.token_ids)
            self._preempt(sequence)
        elif sequence.state is SequenceState.PREEMPTED:
            sequence.num_known_tokens = len(sequence.token_ids)
            sequence.move_to(SequenceState.WAITING)
            self._reader.enqueue(sequence)

    def _end(self, sequence: Sequence, ending: Ending, now: float) -> None:
        """The one way out: gives back what the sequence holds."""
        if sequence.state is SequenceState.WAITING:
            self._queue.forget(sequence)
        elif sequence.state is SequenceState.RUNNING:
            self._residents.leave(sequence)
            residence = now - sequence.admitted_at
            self._mean_residence += 0.1 * (residence - self._mean_residence)
        sequence.move_to(SequenceState.ENDED)
        sequence.ending = ending
        del self._sequences[sequence.sequence_id]

    def check_integrity(self) -> None:
        """Raise AssertionError unless everything owned here is consistent (tests, every step)."""
        self._queue.check_integrity()
        self._residents.check_integrity()
        by_state = dict.fromkeys(SequenceState, 0)
        for sequence in self._sequences.values():
            by_state[sequence.state] += 1
            assert 0 <= sequence.num_pending_tokens <= MAX_STEPS_IN_FLIGHT
            if sequence.state is not SequenceState.RUNNING:
                assert not sequence.block_table and sequence.slot is None
            if sequence.state is SequenceState.PREEMPTED:
                assert sequence.num_pending_tokens, "a preempted sequence waits for nothing"
        assert by_state[SequenceState.ENDED] == 0
        assert by_state[SequenceState.WAITING] == len(self._queue)
        assert by_state[SequenceState.RUNNING] == len(self._residents)
