"""Schedulers and sequences with the defaults that most tests want."""

from collections import deque
from dataclasses import replace

from text_generation_proto import shard_pb2
from text_generation_router.engine.request import GenerationRequest, SamplingParameters
from text_generation_router.engine.wire import StepReply, step_outcome, step_request
from text_generation_router.scheduler.cost_model import CostModel, CostSample
from text_generation_router.scheduler.limits import SchedulerLimits, sequence_capacity
from text_generation_router.scheduler.scheduler import Scheduler
from text_generation_router.scheduler.sequence import Ending, Sequence
from text_generation_router.scheduler.step_plan import AppliedStep, FailedSequence, StepPlan

from tests.fakes.shard_model import FakeShardConfig, ShardModel

# What the decoders of encoder-decoders begin with.
START = 0


def make_limits(**changes) -> SchedulerLimits:
    values = {
        "max_slots": 4,
        "max_step_tokens": 32,
        "max_total_tokens": 64,
        "num_blocks": 33,
        "block_size": 4,
        "target_step_ms": 10.0,
    }
    return SchedulerLimits(**(values | changes))


def make_cost_model(*, fixed=1.0, per_prefill_token=0.0, per_decode=0.0) -> CostModel:
    """One that has seen steps of exactly this cost."""
    return CostModel(
        [
            CostSample(p, d, fixed + per_prefill_token * p + per_decode * d)
            for p, d in [(0, 1), (0, 50), (10, 0), (100, 0), (100, 50), (1000, 10)]
        ]
    )


def make_sequence(sequence_id: int, prompt, max_new_tokens=4, **changes) -> Sequence:
    prompt = list(range(prompt)) if isinstance(prompt, int) else list(prompt)
    values = {"arrived_at": 0.0} | changes
    return Sequence(
        sequence_id=sequence_id, token_ids=prompt, max_new_tokens=max_new_tokens, **values
    )


class World:
    """A scheduler and a strict shard, joined by the real messages; time stands where `now` says.

    `send` plans a step and sends it, `answer` gives the oldest result to the scheduler; both check
    everything that can be checked.
    """

    def __init__(self, limits: SchedulerLimits, cost_model=None, **shard_options) -> None:
        self.limits = limits
        self.scheduler = Scheduler(limits, cost_model or make_cost_model())
        self.shard_config = FakeShardConfig(
            supports_prefix_cache=limits.has_prefix_cache, **shard_options
        )
        self.shard = self._new_shard()
        self.now = 0.0
        self.plans: list[StepPlan] = []
        self.sent: deque[shard_pb2.StepRequest] = deque()
        self.sequences: dict[int, Sequence] = {}
        self.requests: dict[int, GenerationRequest] = {}

    def _new_shard(self) -> ShardModel:
        limits = self.limits
        return ShardModel(
            self.shard_config,
            shard_pb2.WarmupRequest(
                max_slots=limits.max_slots,
                max_step_tokens=limits.max_step_tokens,
                max_total_tokens=limits.max_total_tokens,
                block_size=limits.block_size,
                max_cache_tokens=(limits.num_blocks - 1) * limits.block_size,
            ),
        )

    def restart(self, num_fewer_blocks: int = 0) -> list[FailedSequence]:
        """Another shard, perhaps with a smaller cache; what was sent is lost."""
        limits = self.limits
        num_blocks = max(limits.num_tables + 2, limits.num_blocks - num_fewer_blocks)
        capacity = sequence_capacity(num_blocks, limits.block_size, limits.num_tables)
        self.limits = replace(
            limits,
            num_blocks=num_blocks,
            max_total_tokens=min(limits.max_total_tokens, capacity),
        )
        self.shard = self._new_shard()
        self.sent.clear()
        failed = self.scheduler.restart(self.limits)
        self.scheduler.check_integrity()
        return failed

    def submit(self, sequence: Sequence) -> Sequence:
        self.sequences[sequence.sequence_id] = sequence
        self.requests[sequence.sequence_id] = GenerationRequest(
            prompt_ids=tuple(sequence.token_ids),
            max_new_tokens=sequence.max_new_tokens,
            sampling=SamplingParameters(),
            prompt_logprobs=sequence.needs_prompt_logprobs,
        )
        self.scheduler.submit(sequence)
        self.scheduler.check_integrity()
        return sequence

    def add(self, prompt, max_new_tokens=4, **changes) -> Sequence:
        changes.setdefault("arrived_at", self.now)
        return self.submit(
            make_sequence(len(self.sequences) + 1, prompt, max_new_tokens, **changes)
        )

    def finish(self, sequence: Sequence, ending=Ending.CANCELLED) -> None:
        self.scheduler.finish(sequence, ending, self.now)
        self.scheduler.check_integrity()

    def send(self) -> StepPlan | None:
        plan = self.scheduler.plan(self.now)
        self.scheduler.check_integrity()
        if plan is not None:
            assert sum(plan.work_num_tokens) <= self.limits.max_step_tokens
            num_encoder = sum(len(entry.sequence.encoder_ids) for entry in plan.admissions)
            assert plan.num_prefill_tokens + plan.num_decodes == (
                sum(plan.work_num_tokens) + num_encoder
            )
            self.plans.append(plan)
            self.sent.append(step_request(plan, self.requests.__getitem__))
        return plan

    def answer(self, duration_ms=1.0) -> AppliedStep:
        result = self.shard.step(self.sent.popleft())
        reply = StepReply(result, int(duration_ms * 1000), 0)
        applied = self.scheduler.apply(step_outcome(reply), self.now)
        self.scheduler.check_integrity()
        return applied

    def run(self, max_steps=10_000) -> None:
        """Serve until nothing is left, two steps under way whenever possible."""
        for _ in range(max_steps):
            while self.send() is not None:
                pass
            if not self.sent:
                break
            self.answer()
            self.now += 0.01
        stats = self.scheduler.stats()
        assert (stats.num_waiting, stats.num_running, stats.num_used_blocks) == (0, 0, 0)


def expected_output(
    prompt, num_tokens, *, eos_token_ids=(), encoder_ids=(), vocab_size=1000, **options
) -> list[int]:
    """What the fake shard generates after a prompt, alone and in one piece."""
    tables = {}
    if encoder_ids:
        tables = {"num_tables": 2}
        options = {"decoder_start_token_id": START, **options}
    world = World(
        make_limits(max_total_tokens=4096, num_blocks=2000, max_step_tokens=4096, **tables),
        vocab_size=vocab_size,
        **options,
    )
    sequence = world.add(
        prompt, num_tokens, eos_token_ids=frozenset(eos_token_ids), encoder_ids=tuple(encoder_ids)
    )
    world.run()
    return sequence.token_ids[sequence.num_prompt_tokens :]
