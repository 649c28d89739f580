"""The cost model, the overload policy and the queue."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from text_generation_router.scheduler.cost_model import CostModel, CostSample
from text_generation_router.scheduler.overload import Load, OverloadPolicy
from text_generation_router.scheduler.queue import PATIENCE, WaitingQueue, deadline
from text_generation_router.scheduler.sequence import SequenceState

from tests.router.scheduler.factories import make_sequence


def observe(model, truth, steps, noise=0.0, seed=0):
    """Let a model watch steps of a known cost (fixed, per prefill token, per decode)."""
    generator = random.Random(seed)
    for prefill, decodes in steps:
        exact = truth[0] + truth[1] * prefill + truth[2] * decodes
        model.observe(CostSample(prefill, decodes, exact * (1 + generator.uniform(-noise, noise))))


def mixed_steps(count, seed=1):
    generator = random.Random(seed)
    return [
        (generator.choice([0, 0, 64, 256, 512]), generator.randint(1, 128)) for _ in range(count)
    ]


def test_it_finds_the_cost_of_what_it_sees():
    model = CostModel()
    observe(model, (2.0, 0.1, 0.05), mixed_steps(300), noise=0.05)
    assert model.cost.fixed == pytest.approx(2.0, rel=0.2)
    assert model.cost.per_prefill_token == pytest.approx(0.1, rel=0.1)
    assert model.cost.per_decode == pytest.approx(0.05, rel=0.2)


def test_warmup_samples_are_a_start():
    model = CostModel([CostSample(100, 0, 12.0), CostSample(200, 0, 22.0), CostSample(0, 10, 3.0)])
    assert model.cost.step_ms(150, 0) == pytest.approx(17.0, rel=0.01)
    assert model.prefill_tokens_within(52.0, 0) == pytest.approx(500, abs=5)


def test_without_samples_it_knows_nothing():
    assert CostModel().prefill_tokens_within(100.0, 5) is None


def test_decoding_for_hours_does_not_wear_away_what_prompts_cost():
    model = CostModel()
    observe(model, (2.0, 0.1, 0.05), mixed_steps(100))
    observe(model, (2.0, 0.1, 0.05), [(0, 32)] * 5000, noise=0.1)
    assert model.cost.per_prefill_token == pytest.approx(0.1, rel=0.1)


def test_it_follows_a_change():
    model = CostModel()
    observe(model, (2.0, 0.1, 0.05), mixed_steps(200))
    observe(model, (4.0, 0.4, 0.1), mixed_steps(600, seed=2))
    assert model.cost.step_ms(256, 64) == pytest.approx(4 + 0.4 * 256 + 0.1 * 64, rel=0.1)


def test_one_pause_of_the_machine_changes_little():
    model = CostModel()
    observe(model, (2.0, 0.1, 0.05), mixed_steps(200))
    before = model.cost.step_ms(256, 64)
    model.observe(CostSample(64, 64, 10_000.0))
    observe(model, (2.0, 0.1, 0.05), mixed_steps(8, seed=3))
    assert model.cost.step_ms(256, 64) == pytest.approx(before, rel=0.2)


def test_a_step_without_a_time_teaches_nothing():
    model = CostModel()
    model.observe(CostSample(10, 10, 0.0))
    assert model.cost.step_ms(10, 10) == 0.0


@given(
    st.lists(st.tuples(st.integers(0, 4096), st.integers(0, 256), st.floats(0.0, 1e5)), max_size=60)
)
def test_costs_are_never_negative_whatever_is_measured(samples):
    model = CostModel()
    for sample in samples:
        model.observe(CostSample(*sample))
        cost = model.cost
        assert min(cost.fixed, cost.per_prefill_token, cost.per_decode) >= 0
        tokens = model.prefill_tokens_within(100.0, 16)
        assert tokens is None or tokens >= 0


def test_the_server_refuses_at_its_limit_and_says_when_to_come_back():
    policy = OverloadPolicy(max_requests=3, max_wait_seconds=60)
    assert policy.refusal(Load(num_requests=2, predicted_wait=3.0)) is None
    refusal = policy.refusal(Load(num_requests=3, predicted_wait=2.2))
    assert refusal.retry_after == 3
    assert policy.refusal(Load(num_requests=3, predicted_wait=0.0)).retry_after == 1


def test_the_server_refuses_who_would_wait_in_vain():
    policy = OverloadPolicy(max_requests=100, max_wait_seconds=60)
    refusal = policy.refusal(Load(num_requests=5, predicted_wait=61.0))
    assert "61 s" in refusal.reason and refusal.retry_after == 61


def test_the_queue_is_in_order_of_deadlines_and_forgets_who_ended():
    queue = WaitingQueue()
    sequences = [make_sequence(n, prompt=n + 1) for n in range(4)]
    for sequence, rank in zip(sequences, (3.0, 1.0, 2.0, 1.0), strict=True):
        sequence.deadline = rank
        queue.push(sequence)
    assert (len(queue), queue.num_tokens) == (4, 10)
    queue.forget(sequences[1])
    sequences[1].move_to(SequenceState.ENDED)
    queue.check_integrity()
    order = []
    while (first := queue.peek()) is not None:
        assert queue.pop() is first
        order.append(first.sequence_id)
        first.move_to(SequenceState.RUNNING)
        queue.check_integrity()
    assert order == [3, 2, 0]
    assert (len(queue), queue.num_tokens) == (0, 0)


def test_the_queue_lets_go_of_who_ended_behind_a_first_that_does_not_move():
    """Cancelled prompts were kept until they reached the front, for hours if that stood still."""
    queue = WaitingQueue()
    stuck = make_sequence(0, prompt=1)
    queue.push(stuck)
    for n in range(1, 500):
        sequence = make_sequence(n, prompt=1)
        sequence.deadline = float(n)
        queue.push(sequence)
        queue.forget(sequence)
        sequence.move_to(SequenceState.ENDED)
        queue.check_integrity()
    assert len(queue._heap) < 100
    assert queue.pop() is stuck


def test_a_prompt_is_overtaken_for_so_long_and_no_longer():
    long = deadline(0.0, reading_seconds=10.0)
    assert deadline(PATIENCE * 9.0, reading_seconds=0.5) < long
    assert deadline(PATIENCE * 10.0, reading_seconds=0.5) > long
