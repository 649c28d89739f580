"""The scheduler's rules, one by one, against a strict shard."""

import pytest
from text_generation_router.scheduler.cost_model import CostModel
from text_generation_router.scheduler.queue import PATIENCE
from text_generation_router.scheduler.scheduler import Scheduler
from text_generation_router.scheduler.sequence import (
    Ending,
    IllegalMoveError,
    SequenceState,
)
from text_generation_router.scheduler.step_plan import (
    StepFailure,
    StepMismatchError,
    StepOutcome,
)

from tests.fakes.shard_model import FakeFailure
from tests.router.scheduler.factories import (
    World,
    expected_output,
    make_cost_model,
    make_limits,
    make_sequence,
)


def output(sequence):
    return sequence.token_ids[sequence.num_prompt_tokens :]


def test_a_sequence_runs_to_its_length():
    world = World(make_limits())
    sequence = world.add(prompt=5, max_new_tokens=3)
    world.run()
    assert sequence.ending is Ending.LENGTH
    assert output(sequence) == expected_output(range(5), 3)
    assert len(world.plans) == 3, "a prompt and two decodes; none beyond max_new_tokens"


def test_two_steps_are_under_way_and_no_more():
    world = World(make_limits())
    world.add(prompt=5)
    assert world.send() is not None
    second = world.send()
    assert second is not None and second.work_num_tokens == [1]
    assert world.send() is None
    world.answer()
    assert world.send() is not None


def test_the_end_is_seen_one_step_late_and_its_token_is_discarded():
    world = World(make_limits(), eos_token_id=7, eos_after=2)
    sequence = world.add(prompt=5, max_new_tokens=10, eos_token_ids=frozenset({7}))
    for _ in range(2):
        world.send()
        world.send()
        world.answer()
    assert sequence.ending is Ending.EOS_TOKEN
    assert output(sequence)[-1] == 7 and len(output(sequence)) == 2
    applied = world.answer()
    assert applied.rows == [None]
    world.run()


def test_an_end_token_at_the_last_place_is_an_end_by_length():
    world = World(make_limits(), eos_token_id=7, eos_after=3)
    sequence = world.add(prompt=5, max_new_tokens=3, eos_token_ids=frozenset({7}))
    world.run()
    assert sequence.ending is Ending.LENGTH


def test_decodes_come_first_and_chunks_fill_the_step():
    world = World(make_limits(max_step_tokens=20, max_slots=2))
    world.add(prompt=4, max_new_tokens=20)
    world.send()
    world.add(prompt=40, max_new_tokens=1)
    plan = world.send()
    assert plan.num_decodes == 1
    assert plan.work_num_tokens == [1, 16], "whole blocks of the prompt"
    world.run()


def test_the_budget_is_a_time_while_somebody_decodes():
    cost = make_cost_model(fixed=1.0, per_prefill_token=0.5, per_decode=1.0)
    limits = make_limits(
        max_step_tokens=500, max_total_tokens=400, num_blocks=201, target_step_ms=10.0
    )
    world = World(limits, cost)
    world.add(prompt=200, max_new_tokens=1)
    assert world.send().num_prefill_tokens == 156, "a prompt alone: 8 x 10 ms"
    world = World(limits, cost)
    world.add(prompt=200, max_new_tokens=1)
    world.add(prompt=range(100, 300), max_new_tokens=1)
    assert world.send().num_prefill_tokens == 76, "nobody decodes: 4 x 10 ms"
    world = World(limits, cost)
    world.add(prompt=4, max_new_tokens=50)
    world.send()
    world.add(prompt=200, max_new_tokens=1)
    assert world.send().num_prefill_tokens == 16, "10 ms - 1 ms - one decode at 0.5 ms a token"


def test_nothing_is_planned_behind_the_long_step_of_a_prompt_alone():
    cost = make_cost_model(fixed=1.0, per_prefill_token=0.5)
    limits = make_limits(max_step_tokens=500, max_total_tokens=400, num_blocks=201)
    world = World(limits, cost)
    world.add(prompt=200, max_new_tokens=3)
    assert world.send().is_long
    late = world.add(prompt=range(500, 508), max_new_tokens=1)
    assert world.scheduler.plan(world.now) is None
    world.answer()
    plan = world.send()
    assert late in plan.sequences, "it waited for one step"
    assert not plan.is_long and plan.num_prefill_tokens == 52
    assert world.send().num_decodes == 1, "run-ahead goes on"
    world.run()


def test_a_prompt_is_read_however_slow_decodes_are():
    world = World(make_limits(), make_cost_model(fixed=100.0, per_prefill_token=9.0))
    world.add(prompt=4, max_new_tokens=20)
    world.send()
    world.add(prompt=range(100, 110), max_new_tokens=1)
    assert world.send().num_prefill_tokens == world.limits.block_size
    world.run()


def test_a_short_prompt_overtakes_a_long_one_that_came_just_before():
    world = World(
        make_limits(max_slots=2, max_step_tokens=12, max_total_tokens=100),
        make_cost_model(per_prefill_token=1.0),
    )
    long = world.add(prompt=range(100, 180), max_new_tokens=1)
    world.send()
    world.now = 0.01
    short = world.add(prompt=8, max_new_tokens=1)
    plan = world.send()
    assert plan.sequences[0] is short
    assert long.state is SequenceState.RUNNING
    world.run()


def test_a_long_prompt_that_has_waited_is_not_overtaken():
    world = World(
        make_limits(max_slots=1, max_step_tokens=12, max_total_tokens=100),
        make_cost_model(per_prefill_token=1.0),
    )
    world.add(prompt=4, max_new_tokens=4)
    long = world.add(prompt=range(100, 180), max_new_tokens=1)
    world.now = 10.0
    short = world.add(prompt=range(50, 58), max_new_tokens=1)
    world.run()
    assert long.first_admitted_at < short.first_admitted_at


def test_a_second_prompt_finds_the_blocks_of_the_first():
    world = World(make_limits())
    first = world.add(prompt=range(18), max_new_tokens=1)
    world.run()
    second = world.add(prompt=range(18), max_new_tokens=1)
    world.run()
    assert (first.num_cached_tokens, second.num_cached_tokens) == (0, 16)


def test_a_hit_leaves_the_last_token_to_compute():
    world = World(make_limits())
    world.add(prompt=range(16), max_new_tokens=1)
    world.run()
    second = world.add(prompt=range(16), max_new_tokens=1)
    world.run()
    assert second.num_cached_tokens == 12


def test_generated_tokens_are_found_again():
    world = World(make_limits())
    first = world.add(prompt=range(6), max_new_tokens=12)
    world.run()
    second = world.add(prompt=[*first.token_ids, 1], max_new_tokens=1)
    world.run()
    assert second.num_cached_tokens == 16, "all full blocks whose tokens were computed"


def test_equal_prompts_at_the_same_time_share_what_is_computed_once():
    world = World(make_limits(max_step_tokens=64))
    sequences = [world.add(prompt=range(22), max_new_tokens=2) for _ in range(4)]
    world.run()
    assert [sequence.num_cached_tokens for sequence in sequences] == [0, 20, 20, 20]
    assert world.plans[0].num_prefill_tokens == 22
    assert world.plans[1].num_prefill_tokens == 3 * 2, "they share right in the next step"


def test_without_a_prefix_cache_nothing_is_shared_and_nobody_waits_for_it():
    world = World(make_limits(max_step_tokens=64, has_prefix_cache=False))
    world.add(prompt=range(10), max_new_tokens=12)
    world.run()
    sequences = [world.add(prompt=range(22), max_new_tokens=2) for _ in range(2)]
    world.plans.clear()
    world.run()
    assert [sequence.num_cached_tokens for sequence in sequences] == [0, 0]
    assert world.plans[0].num_prefill_tokens == 2 * 22
    assert [output(sequence) for sequence in sequences] == [expected_output(range(22), 2)] * 2
    assert world.scheduler.stats().num_cached_blocks == 0


def test_prompt_logprobs_bypass_the_cache_until_they_have_come():
    world = World(make_limits())
    world.add(prompt=range(18), max_new_tokens=1)
    world.run()
    second = world.add(prompt=range(18), max_new_tokens=4, needs_prompt_logprobs=True)
    world.send()
    world.answer()
    assert second.num_cached_tokens == 0
    world.scheduler._preempt(second)
    assert not second.needs_prompt_logprobs
    world.run()
    assert output(second) == expected_output(range(18), 4)


def test_when_blocks_run_out_the_youngest_is_preempted_and_loses_nothing():
    world = World(make_limits(num_blocks=17, max_total_tokens=64))
    sequences = [world.add(prompt=[n] * 8, max_new_tokens=24) for n in range(4)]
    world.run()
    assert world.scheduler.stats().num_preemptions > 0
    assert sequences[0].num_preemptions == 0
    for n, sequence in enumerate(sequences):
        assert output(sequence) == expected_output([n] * 8, 24)


def test_a_sequence_preempted_with_a_token_under_way_waits_for_it():
    world = World(make_limits())
    sequence = world.add(prompt=5, max_new_tokens=6)
    world.send()
    world.send()
    world.answer()
    world.scheduler._preempt(sequence)
    world.scheduler.check_integrity()
    assert sequence.state is SequenceState.PREEMPTED
    assert world.send() is None
    world.answer()
    assert sequence.state is SequenceState.WAITING
    world.run()
    assert output(sequence) == expected_output(range(5), 6)


def test_prompts_that_block_each_other_do_not_stand_still():
    """Two prompts begun together need more blocks than there are: one must give way."""
    world = World(make_limits(num_blocks=17, max_step_tokens=12, max_slots=3))
    first = world.add(prompt=range(60), max_new_tokens=1)
    world.send()
    second = world.add(prompt=range(100, 140), max_new_tokens=1)
    world.run()
    assert first.ending is second.ending is Ending.LENGTH


def test_a_prompt_without_blocks_takes_none_from_who_computes_in_the_same_step():
    world = World(make_limits(num_blocks=17, max_slots=3), make_cost_model(per_prefill_token=9.0))
    long = world.add(prompt=range(100, 140), max_new_tokens=1)
    young = [world.add(prompt=[n] * 4, max_new_tokens=40) for n in range(2)]
    num_waits = 0
    while long.ending is None:
        plan = world.send()
        if plan is not None and long.slot is not None and long not in plan.sequences:
            num_waits += not world.scheduler._residents.cache.num_available
        if plan is None or len(world.sent) == 2:
            world.answer(duration_ms=37.0)
    assert num_waits > 0, "the case did not arise"
    world.run()
    assert [sequence.num_preemptions > 0 for sequence in young] == [False, True]
    assert output(young[1]) == expected_output([1] * 4, 40)
    assert output(long) == expected_output(range(100, 140), 1)


def test_a_large_prompt_is_not_starved_by_small_ones_that_keep_coming():
    """It needs most of the blocks; small ones would take each block as it becomes free."""
    world = World(make_limits(num_blocks=17, max_slots=4), make_cost_model(per_prefill_token=1.0))
    small = [world.add(prompt=[n] * 8, max_new_tokens=8) for n in range(4)]
    large = world.add(prompt=range(100, 156), max_new_tokens=2)
    while large.ending is None:
        world.now += 0.01
        world.send()
        if world.sent:
            world.answer()
        if len(small) < 500:
            small.append(world.add(prompt=[len(small)] * 8, max_new_tokens=8))
    served_before = [
        sequence
        for sequence in small
        if sequence.first_admitted_at is not None
        and sequence.first_admitted_at < large.first_admitted_at
    ]
    assert max(sequence.arrived_at for sequence in served_before) <= 0.056 * PATIENCE
    assert len(small) < 500


@pytest.mark.parametrize("num_steps", [0, 1, 2, 3])
def test_cancellation_gives_everything_back_at_once(num_steps):
    world = World(make_limits())
    sequence = world.add(prompt=40, max_new_tokens=20)
    for _ in range(num_steps):
        world.send()
    world.finish(sequence)
    assert world.scheduler.stats().num_used_blocks == 0
    other = world.add(prompt=range(50, 60), max_new_tokens=2)
    plan = world.send()
    if num_steps == 1:
        assert plan.retired_slots == [0], "within the next step"
    world.run()
    assert sequence.ending is Ending.CANCELLED
    assert output(other) == expected_output(range(50, 60), 2)


def test_finishing_twice_is_harmless():
    world = World(make_limits())
    sequence = world.add(prompt=5)
    world.finish(sequence)
    world.finish(sequence, Ending.FAILED)
    assert sequence.ending is Ending.CANCELLED


def test_a_failed_step_fails_the_named_and_spares_the_others():
    world = World(make_limits(), failures={3: FakeFailure(items=(1,))})
    sequences = [world.add(prompt=[n] * 9, max_new_tokens=8) for n in range(3)]
    world.run()
    assert [sequence.ending for sequence in sequences] == [
        Ending.LENGTH,
        Ending.FAILED,
        Ending.LENGTH,
    ]
    for n in (0, 2):
        assert output(sequences[n]) == expected_output([n] * 9, 8)


def test_a_failed_step_takes_back_the_names_it_gave():
    """Who found blocks that a failed step was to fill must not keep them."""
    world = World(make_limits(), failures={1: FakeFailure(items=(0,))})
    first = world.add(prompt=range(18), max_new_tokens=2)
    world.send()
    second = world.add(prompt=range(18), max_new_tokens=2)
    plan = world.send()
    assert plan.admissions[0].num_cached_tokens == 16
    applied = world.answer()
    assert [failed.sequence for failed in applied.failed] == [first]
    assert second.state is SequenceState.WAITING
    world.run()
    assert output(second) == expected_output(range(18), 2)


def test_a_sequence_that_fails_alone_costs_the_others_nothing():
    failure = FakeFailure(items=(1,), is_alone=True, message="too complex")
    world = World(make_limits(), failures={4: failure})
    sequences = [world.add(prompt=[n] * 9, max_new_tokens=8) for n in range(3)]
    world.run()
    assert [sequence.ending for sequence in sequences] == [
        Ending.LENGTH,
        Ending.FAILED,
        Ending.LENGTH,
    ]
    assert [sequence.num_preemptions for sequence in sequences] == [0, 0, 0]
    for n in (0, 2):
        assert output(sequences[n]) == expected_output([n] * 9, 8)


def test_a_sequence_that_can_never_fit_is_refused():
    world = World(make_limits(max_total_tokens=20))
    with pytest.raises(ValueError, match="max_total_tokens is 20"):
        world.add(prompt=17, max_new_tokens=4)


@pytest.mark.parametrize(
    "changes", [{"num_blocks": 16}, {"max_step_tokens": 7}], ids=["cache", "step"]
)
def test_limits_that_contradict_each_other_are_refused(changes):
    with pytest.raises(ValueError, match=r"max_total_tokens|max_step_tokens"):
        make_limits(**changes)


def test_a_result_of_another_step_is_refused():
    world = World(make_limits())
    with pytest.raises(StepMismatchError, match="expected none"):
        world.scheduler.apply(StepOutcome(1, []), 0.0)
    world.add(prompt=5)
    world.send()
    with pytest.raises(StepMismatchError, match="expected 1"):
        world.scheduler.apply(StepOutcome(2, [1]), 0.0)
    with pytest.raises(StepMismatchError, match="1 were planned"):
        world.scheduler.apply(StepOutcome(1, [1, 2]), 0.0)


def test_a_failure_that_names_nobody_fails_all_of_the_step():
    world = World(make_limits())
    sequences = [world.add(prompt=[n] * 5) for n in range(2)]
    world.send()
    world.sent.clear()
    applied = world.scheduler.apply(
        StepOutcome(1, [], failure=StepFailure("out of memory", [])), 0.0
    )
    assert [failed.sequence for failed in applied.failed] == sequences
    world.scheduler.check_integrity()


def test_an_idle_server_predicts_no_wait():
    world = World(make_limits(), make_cost_model(per_prefill_token=1.0))
    assert world.scheduler.predicted_wait() == 0.0


def test_predicted_wait_grows_with_the_queue():
    world = World(make_limits(max_slots=1), make_cost_model(per_prefill_token=100.0))
    waits = []
    for n in range(3):
        world.add(prompt=[n] * 20, max_new_tokens=4)
        waits.append(world.scheduler.predicted_wait())
    assert 0 < waits[0] < waits[1] < waits[2]


def test_illegal_moves_name_both_states():
    sequence = make_sequence(1, 5)
    sequence.move_to(SequenceState.ENDED)
    with pytest.raises(IllegalMoveError, match="from ended to running"):
        sequence.move_to(SequenceState.RUNNING)


def test_without_a_cost_model_steps_are_bounded_by_tokens():
    scheduler = Scheduler(make_limits(), CostModel())
    scheduler.submit(make_sequence(1, 40))
    assert scheduler.plan(0.0).work_num_tokens == [32]
