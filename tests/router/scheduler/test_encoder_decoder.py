"""What the scheduler does for encoder-decoders, one rule at a time, against a strict shard."""

import pytest
from text_generation_router.scheduler.limits import sequence_capacity
from text_generation_router.scheduler.scheduler import Scheduler
from text_generation_router.scheduler.sequence import Ending

from tests.router.scheduler.factories import (
    START,
    World,
    expected_output,
    make_cost_model,
    make_limits,
    make_sequence,
)


def make_world(cost_model=None, **changes):
    return World(make_limits(num_tables=2, **changes), cost_model, decoder_start_token_id=START)


def add(world, encoder, max_new_tokens=4, **changes):
    encoder = range(encoder) if isinstance(encoder, int) else encoder
    return world.add([START], max_new_tokens, encoder_ids=tuple(encoder), **changes)


def output(sequence):
    return sequence.token_ids[1:]


def expected(encoder, num_tokens):
    return expected_output([START], num_tokens, encoder_ids=encoder)


def test_the_encoder_reads_in_the_step_that_admits_and_never_again():
    world = make_world()
    sequence = add(world, 7, max_new_tokens=3)
    world.run()
    assert output(sequence) == expected(range(7), 3)
    assert sequence.ending is Ending.LENGTH
    assert [plan.work_num_tokens for plan in world.plans] == [[1], [1], [1]]
    assert [plan.num_prefill_tokens for plan in world.plans] == [8, 0, 0]
    assert len(world.plans[0].admissions[0].encoder_block_ids) == 2


def test_several_encoders_share_a_step_up_to_its_tokens():
    world = make_world(max_step_tokens=23)
    for _ in range(4):
        add(world, 10, max_new_tokens=6)
    world.run()
    assert [len(plan.admissions) for plan in world.plans][:3] == [2, 1, 1]
    assert max(plan.num_decodes for plan in world.plans) == 4, "all decode in one step"


def test_an_encoder_longer_than_a_step_is_its_only_prompt():
    world = make_world(max_step_tokens=16)
    sequences = [add(world, [n] * length) for n, length in enumerate((3, 40, 3, 40))]
    world.run()
    admitted = [
        sorted(len(entry.sequence.encoder_ids) for entry in plan.admissions)
        for plan in world.plans
        if plan.admissions
    ]
    assert admitted == [[3, 3], [40], [40]]
    for n, sequence in enumerate(sequences):
        assert output(sequence) == expected([n] * len(sequence.encoder_ids), 4)


def test_a_long_encoder_is_not_starved_by_short_ones():
    world = make_world(make_cost_model(per_prefill_token=1.0), max_step_tokens=16, max_slots=8)
    long = add(world, 50, max_new_tokens=2)
    for step in range(60):
        world.now += 0.05
        add(world, [step % 7, 1, 2], max_new_tokens=2)
        while world.send() is not None:
            pass
        world.answer()
    assert long.ending is Ending.LENGTH
    assert output(long) == expected(range(50), 2)


def test_decoder_blocks_are_shared_only_after_the_same_encoder():
    world = make_world(max_total_tokens=60)
    first = add(world, [5, 6], max_new_tokens=13)
    world.run()
    prompt = list(first.token_ids)
    for encoder, num_cached in [([5, 6], 12), ([6, 5], 0)]:
        again = make_sequence(
            len(world.sequences) + 1, prompt, 2, encoder_ids=tuple(encoder), arrived_at=world.now
        )
        world.submit(again)
        world.run()
        assert again.num_cached_tokens == num_cached


def test_a_preempted_sequence_reads_with_its_encoder_again():
    world = make_world(num_blocks=12, max_total_tokens=40)
    sequences = [add(world, [n] * 9, max_new_tokens=20) for n in range(3)]
    world.run()
    assert world.scheduler.stats().num_preemptions
    again = [
        entry
        for plan in world.plans
        for entry in plan.admissions
        if entry.num_emitted and len(entry.encoder_block_ids) == 3
    ]
    assert again
    for n, sequence in enumerate(sequences):
        assert output(sequence) == expected([n] * 9, 20)


@pytest.mark.parametrize("num_tokens", range(1, 36))
def test_alone_every_sequence_fits(num_tokens):
    """Both tables may end in a block that is all but empty."""
    world = make_world(num_blocks=11, max_total_tokens=36)
    assert sequence_capacity(11, 4, 2) == 36
    sequence = add(world, num_tokens, max_new_tokens=36 - num_tokens)
    world.run()
    assert sequence.ending is Ending.LENGTH
    with pytest.raises(ValueError, match="max_total_tokens is 36"):
        add(world, num_tokens, max_new_tokens=37 - num_tokens)


def test_limits_leave_room_for_both_tables():
    with pytest.raises(ValueError, match="does not fit into a cache of 36 tokens"):
        make_limits(num_tables=2, num_blocks=11, max_total_tokens=37)


@pytest.mark.parametrize("num_tables", [1, 2])
def test_encoder_ids_are_of_encoder_decoders(num_tables):
    scheduler = Scheduler(make_limits(num_tables=num_tables), make_cost_model())
    sequence = make_sequence(1, 3, encoder_ids=(1, 2) if num_tables == 1 else ())
    with pytest.raises(ValueError, match="encoder_ids"):
        scheduler.submit(sequence)


def test_cancelled_in_the_middle_gives_back_both_tables():
    world = make_world()
    sequence = add(world, 9, max_new_tokens=20)
    world.send()
    world.answer()
    assert world.scheduler.stats().num_used_blocks == 4
    world.finish(sequence)
    assert world.scheduler.stats().num_used_blocks == 0
