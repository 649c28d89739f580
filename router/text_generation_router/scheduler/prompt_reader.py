"""Reads prompts: fills what decodes leave of a step with chunks of prompts, running or new.

Order of effects for a new sequence: all checks first (slot, blocks), then it leaves the queue,
takes its cached blocks and a slot, and gets its chunk; nothing is undone. Who does not fit keeps
its place, and nobody behind it is admitted in its stead.
"""

from collections.abc import Callable
from dataclasses import dataclass

from text_generation_router.scheduler.cost_model import CostModel
from text_generation_router.scheduler.limits import SchedulerLimits
from text_generation_router.scheduler.queue import WaitingQueue, deadline
from text_generation_router.scheduler.residents import Residents
from text_generation_router.scheduler.sequence import Sequence
from text_generation_router.scheduler.step_plan import Admission, StepPlan

# How much longer than the target a step may take when nobody waits for a next token; and when it
# reads the only prompt there is. Nothing is planned behind such a step while it runs, so that who
# comes meanwhile waits no longer than for two of the others.
_IDLE_FACTOR = 4.0
_ALONE_FACTOR = 8.0
# Sequences that may step aside in one plan to share what another one is computing.
_MAX_ASIDE = 32


@dataclass(frozen=True, slots=True)
class _Prefix:
    """What the prefix cache knows of a sequence."""

    blocks: list[int]
    # Name of the first block that was not found; None if all that may be found was.
    missing: bytes | None


class PromptReader:
    """Decides whose prompt is read next, and how much of it. Works on the scheduler's queue and
    residents; owns only whether the queue is stuck.
    """

    def __init__(
        self,
        limits: SchedulerLimits,
        cost_model: CostModel,
        queue: WaitingQueue,
        residents: Residents,
    ) -> None:
        self._limits = limits
        self._cost_model = cost_model
        self._queue = queue
        self._residents = residents
        # Whether the first in the queue found not enough blocks in the last plan.
        self.is_blocked = False

    def enqueue(self, sequence: Sequence) -> None:
        """Put a waiting sequence into the queue, ranked by what the cache leaves to read."""
        if sequence.num_emitted_tokens:
            sequence.needs_prompt_logprobs = False  # they came with the first token
        num_cached = len(self._find_prefix(sequence).blocks) * self._limits.block_size
        sequence.deadline = self._deadline(sequence, sequence.num_unread_tokens - num_cached)
        self._queue.push(sequence)

    def reading_seconds(self, num_tokens: int, num_decodes: int) -> float:
        """Predicted time to read so many prompt tokens while others decode."""
        cost = self._cost_model.cost
        budget = self._budget(num_decodes)
        steps = -(-num_tokens // budget)
        return (cost.per_prefill_token * num_tokens + steps * cost.step_ms(0, num_decodes)) / 1000

    def fill(self, plan: StepPlan, now: float, preempt: Callable[[Sequence], None]) -> int:
        """Add chunks to the plan until the budget is spent; returns the tokens that new sequences
        found in the prefix cache.
        """
        self.is_blocked = False
        if not (self._residents.prefilling or len(self._queue)):
            return 0
        budget = self._budget(plan.num_decodes)
        running = sorted(self._residents.prefilling.values(), key=_rank, reverse=True)
        names: set[bytes] = set()
        aside: list[Sequence] = []
        num_cached = 0
        is_admitting = True
        shared_budget = self._tokens_within(_IDLE_FACTOR, plan.num_decodes)
        while budget > 0:
            can_admit = is_admitting and self._residents.num_free_slots
            first = self._queue.peek() if can_admit else None
            if running and (first is None or _rank(running[-1]) <= _rank(first)):
                sequence = running.pop()
                if sequence.slot is None:
                    continue  # preempted by one before it
                num_tokens = self._continue(sequence, budget, plan, preempt)
            elif first is not None:
                prefix = self._find_prefix(first)
                if prefix.missing in names and len(aside) < _MAX_ASIDE:
                    aside.append(self._queue.pop())
                    continue
                self.is_blocked = not self._fits(first, prefix)
                num_found = len(prefix.blocks) * self._limits.block_size
                room = self._room(first, budget, plan)
                num_tokens = self._chunk(first.num_known_tokens, num_found, room)
                if self.is_blocked or num_tokens == 0:
                    is_admitting = False
                    continue
                sequence = first
                self._admit(sequence, prefix, plan, now)
                num_cached += num_found
                budget -= len(sequence.encoder_ids)
            else:
                break
            if num_tokens > 0:
                self._add_chunk(sequence, num_tokens, plan, names)
                budget -= num_tokens
        for sequence in aside:
            self._queue.push(sequence)
        plan.is_long = plan.num_prefill_tokens > shared_budget
        return num_cached

    def _budget(self, num_decodes: int) -> int:
        """Prompt tokens for a step with so many decodes: what the target time allows, at least a
        block, at most what is left of the step.
        """
        if num_decodes:
            return self._tokens_within(1.0, num_decodes)
        is_alone = len(self._residents.prefilling) + len(self._queue) == 1
        return self._tokens_within(_ALONE_FACTOR if is_alone else _IDLE_FACTOR, 0)

    def _tokens_within(self, factor: float, num_decodes: int) -> int:
        """The budget of a step that may take so many times the target."""
        limits = self._limits
        room = limits.max_step_tokens - num_decodes
        target_ms = limits.target_step_ms * factor
        tokens = self._cost_model.prefill_tokens_within(target_ms, num_decodes)
        return room if tokens is None else min(room, max(tokens, limits.block_size))

    def _room(self, sequence: Sequence, budget: int, plan: StepPlan) -> int:
        """What of the budget is left to a new sequence when its encoder has read its part. An
        encoder reads at one go: where it needs more than there is, it is a step's only prompt.
        """
        room = budget - len(sequence.encoder_ids)
        if sequence.encoder_ids and not plan.num_prefill_tokens:
            room = max(room, self._limits.block_size)
        return max(room, 0)

    def _deadline(self, sequence: Sequence, num_unread: int) -> float:
        seconds = self._cost_model.cost.per_prefill_token * num_unread / 1000
        return deadline(sequence.arrived_at, seconds)

    def _find_prefix(self, sequence: Sequence) -> _Prefix:
        """Blocks that hold the beginning of the sequence already. They never cover its last token:
        at least one must be computed to sample from.
        """
        blocks: list[int] = []
        if sequence.needs_prompt_logprobs or not self._residents.cache.keeps_names:
            return _Prefix(blocks, None)
        block_size = self._limits.block_size
        for index in range((len(sequence.token_ids) - 1) // block_size):
            name = sequence.block_name(index, block_size)
            block = self._residents.cache.find(name)
            if block is None:
                return _Prefix(blocks, name)
            blocks.append(block)
        return _Prefix(blocks, None)

    def _fits(self, sequence: Sequence, prefix: _Prefix) -> bool:
        """Whether there is room for all its known tokens besides what the running prompts will need
        and a next block for each running sequence.
        """
        residents = self._residents
        cache = residents.cache
        own = residents.blocks_for(sequence.num_known_tokens) - len(prefix.blocks)
        own += residents.blocks_for(len(sequence.encoder_ids))
        woken = sum(cache.is_idle(block) for block in prefix.blocks)
        others = residents.num_promised_blocks + len(residents)
        return own + woken + others <= cache.num_available

    def _admit(self, sequence: Sequence, prefix: _Prefix, plan: StepPlan, now: float) -> None:
        self._queue.pop()
        self._residents.enter(sequence, prefix.blocks, now)
        assert sequence.slot is not None
        plan.num_prefill_tokens += len(sequence.encoder_ids)
        plan.admissions.append(
            Admission(
                sequence=sequence,
                slot=sequence.slot,
                token_ids=list(sequence.token_ids),
                num_emitted=sequence.num_emitted_tokens,
                num_cached_tokens=sequence.num_computed_tokens,
                block_ids=prefix.blocks,
                encoder_block_ids=list(sequence.encoder_table),
                prompt_logprobs=sequence.needs_prompt_logprobs,
            )
        )

    def _continue(
        self,
        sequence: Sequence,
        budget: int,
        plan: StepPlan,
        preempt: Callable[[Sequence], None],
    ) -> int:
        """Tokens that a prompt already begun can have now. If there is no block for it, younger
        sequences that are not part of this step give way.
        """
        residents, block_size = self._residents, self._limits.block_size
        held = len(sequence.block_table) * block_size - sequence.num_computed_tokens
        while not held and not residents.cache.num_available:
            victim = residents.youngest()
            if victim is sequence or victim in plan.sequences:
                return 0
            preempt(victim)
        room = held + residents.cache.num_available * block_size
        return self._chunk(
            sequence.num_known_tokens, sequence.num_computed_tokens, min(budget, room)
        )

    def _chunk(self, num_known: int, num_computed: int, limit: int) -> int:
        """Tokens of the next chunk: the rest of the prompt, or whole blocks of it."""
        if num_known - num_computed <= limit:
            return num_known - num_computed
        block_size = self._limits.block_size
        return (num_computed + limit) // block_size * block_size - num_computed

    def _add_chunk(
        self, sequence: Sequence, num_tokens: int, plan: StepPlan, names: set[bytes]
    ) -> None:
        """Give a sequence its chunk, and note the blocks that the chunk fills for naming."""
        plan.add_work(sequence, num_tokens, self._residents.grow(sequence, num_tokens))
        plan.num_prefill_tokens += num_tokens
        sequence.num_computed_tokens += num_tokens
        block_size = self._limits.block_size
        for index in range(sequence.num_named_blocks, sequence.num_computed_tokens // block_size):
            name = sequence.block_name(index, block_size)
            if name not in names and self._residents.cache.find(name) is None:
                names.add(name)
                plan.named_blocks.append((sequence.block_table[index], name))
            sequence.num_named_blocks = index + 1
        if sequence.num_remaining_tokens:
            sequence.deadline = self._deadline(sequence, sequence.num_remaining_tokens)
        else:
            sequence.num_known_tokens += 1
            plan.sampling.append(sequence)
            self._residents.start_decoding(sequence)


def _rank(sequence: Sequence) -> tuple[float, int]:
    return (sequence.deadline, sequence.sequence_id)
