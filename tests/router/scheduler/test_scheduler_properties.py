"""Whatever comes in whatever order: a stateful test of the scheduler against a strict shard.

After every step the scheduler, the queue, the allocator and the cache check themselves, and the
shard checks that every context that is read is there; at the end everybody has got exactly the text
that they would have got alone.
"""

from hypothesis import HealthCheck, event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from text_generation_router.scheduler.limits import sequence_capacity
from text_generation_router.scheduler.sequence import Ending, SequenceState

from tests.fakes.shard_model import FakeFailure, _extend
from tests.router.scheduler.factories import START, World, make_cost_model, make_limits

VOCAB_SIZE = 12
EOS = 3


def alone(sequence, prompt, eos_token_ids):
    """The fake shard's answer, computed directly."""
    num_tokens = sequence.max_new_tokens
    chain, tokens = 0, []
    for token_id in [*sequence.encoder_ids, *prompt]:
        chain = _extend(chain, token_id)
    while len(tokens) < num_tokens:
        token_id = (chain >> 20) % VOCAB_SIZE
        tokens.append(token_id)
        if token_id in eos_token_ids:
            break
        chain = _extend(chain, token_id)
    return tokens


class SchedulerMachine(RuleBasedStateMachine):
    """Requests, steps, answers, cancellations, failures and restarts in any order."""

    is_encoder_decoder = False

    @initialize(
        num_blocks=st.integers(9, 40),
        max_slots=st.integers(1, 6),
        has_prefix_cache=st.booleans(),
        block_size=st.sampled_from([1, 2, 4]),
        extra_step_tokens=st.integers(0, 30),
        per_prefill_token=st.sampled_from([0.0, 0.5, 3.0]),
        failures=st.lists(
            st.tuples(st.integers(1, 60), st.lists(st.integers(0, 5), max_size=3), st.booleans()),
            max_size=3,
        ),
    )
    def start(
        self,
        num_blocks,
        max_slots,
        has_prefix_cache,
        block_size,
        extra_step_tokens,
        per_prefill_token,
        failures,
    ):
        num_tables = 2 if self.is_encoder_decoder else 1
        limits = make_limits(
            num_blocks=num_blocks,
            max_slots=max_slots,
            has_prefix_cache=has_prefix_cache,
            block_size=block_size,
            num_tables=num_tables,
            max_step_tokens=max_slots + block_size + extra_step_tokens,
            max_total_tokens=min(48, sequence_capacity(num_blocks, block_size, num_tables)),
        )
        self.world = World(
            limits,
            make_cost_model(per_prefill_token=per_prefill_token, per_decode=0.2),
            vocab_size=VOCAB_SIZE,
            decoder_start_token_id=START if self.is_encoder_decoder else None,
            failures={
                step: FakeFailure(items=tuple(items), is_alone=is_alone)
                for step, items, is_alone in failures
            },
        )
        self.prompts = {}
        self.endings = {}

    @rule(data=st.data(), shared=st.integers(0, 20))
    def submit(self, data, shared):
        limit = self.world.limits.max_total_tokens
        num_prompt = data.draw(st.integers(1, limit - 1))
        max_new_tokens = data.draw(st.integers(1, min(20, limit - num_prompt)))
        own = data.draw(st.integers(0, 3))
        shared = min(shared, num_prompt)
        prompt = [1] * shared + [own] * (num_prompt - shared)
        settings = {}
        if self.is_encoder_decoder:
            settings, prompt = {"encoder_ids": tuple(prompt)}, [START]
        else:
            settings["needs_prompt_logprobs"] = data.draw(st.integers(0, 9)) == 0
        sequence = self.world.add(
            prompt,
            max_new_tokens,
            eos_token_ids=data.draw(st.sampled_from([frozenset(), frozenset({EOS})])),
            **settings,
        )
        self.prompts[sequence.sequence_id] = prompt

    @rule(duration_ms=st.floats(0.1, 100.0))
    def step(self, duration_ms):
        self.send()
        self.world.now += duration_ms / 1000
        self.answer(duration_ms)

    @rule()
    def send(self):
        decoding = [
            sequence
            for sequence in self.world.scheduler._residents.decoding.values()
            if sequence.num_known_tokens < sequence.max_known_tokens
        ]
        plan = self.world.send()
        if plan is not None:
            # Who decodes and was not preempted is in every step.
            left = [one for one in decoding if one.state is SequenceState.RUNNING]
            assert set(left) <= set(plan.sequences)
            event(f"in flight: {self.world.scheduler.num_steps_in_flight}")

    @precondition(lambda self: self.world.sent)
    @rule(duration_ms=st.floats(0.1, 100.0))
    def answer_one(self, duration_ms):
        self.answer(duration_ms)

    def answer(self, duration_ms):
        if not self.world.sent:
            return
        applied = self.world.answer(duration_ms)
        if applied.failed:
            event("a step failed")
        for failed in applied.failed:
            self.ended(failed.sequence)
        for sequence in applied.rows:
            if sequence is not None and sequence.ending is not None:
                self.ended(sequence)

    @rule(num_fewer_blocks=st.integers(0, 3))
    def restart(self, num_fewer_blocks):
        event("a restart")
        for failed in self.world.restart(num_fewer_blocks):
            self.ended(failed.sequence)

    def ended(self, sequence):
        assert sequence.sequence_id not in self.endings, "ended twice"
        self.endings[sequence.sequence_id] = sequence.ending

    @precondition(lambda self: self.world.sequences)
    @rule(data=st.data(), ending=st.sampled_from([Ending.CANCELLED, Ending.STOPPED]))
    def finish(self, data, ending):
        sequence_id = data.draw(st.sampled_from(sorted(self.world.sequences)))
        sequence = self.world.sequences[sequence_id]
        self.world.finish(sequence, ending)
        if sequence_id not in self.endings:
            self.ended(sequence)

    def teardown(self):
        if not hasattr(self, "world"):
            return
        for _ in range(3000):
            while self.world.send() is not None:
                pass
            if not self.world.sent:
                break
            self.answer(1.0)
            self.world.now += 0.001
        stats = self.world.scheduler.stats()
        assert (stats.num_waiting, stats.num_running, stats.num_used_blocks) == (0, 0, 0)
        assert self.endings.keys() == self.world.sequences.keys(), "some never ended"
        event(f"preemptions: {min(stats.num_preemptions, 3)}")
        event(f"cache hits: {stats.num_cached_tokens > 0}")
        for sequence_id, sequence in self.world.sequences.items():
            prompt = self.prompts[sequence_id]
            told = sequence.token_ids[len(prompt) :]
            expected = alone(sequence, prompt, sequence.eos_token_ids)
            assert sequence.token_ids[: len(prompt)] == prompt
            assert told == expected[: len(told)]
            if sequence.ending in (Ending.LENGTH, Ending.EOS_TOKEN):
                assert told == expected


class EncoderDecoderMachine(SchedulerMachine):
    """The same for an encoder-decoder: the prompts are what its encoder reads."""

    is_encoder_decoder = True


TestScheduler = SchedulerMachine.TestCase
TestEncoderDecoder = EncoderDecoderMachine.TestCase
TestScheduler.settings = TestEncoderDecoder.settings = settings(
    max_examples=60,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
