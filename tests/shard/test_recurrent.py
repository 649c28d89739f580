"""States of recurrent layers: whose they are, what ends them, how much memory they take."""

from collections.abc import Iterator

import pytest
import torch
from text_generation_shard.cache_sizing import CacheBudget, size_cache
from text_generation_shard.distributed import RankGroup
from text_generation_shard.errors import CapacityError, ProtocolError, StepRejectedError
from text_generation_shard.kv_cache import KVCacheSpec
from text_generation_shard.layers.state_space import StateSpaceShape
from text_generation_shard.models.mamba import MambaLayer
from text_generation_shard.recurrent_state import RecurrentSpec
from text_generation_shard.shard import Shard

from tests.shard.checkpoints import Checkpoint
from tests.shard.engines import running_shard, warmup_request
from tests.shard.models.families import OTHER, PROMPT, write_model
from tests.shard.step_script import StepScript


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return write_model("mamba", tmp_path_factory.mktemp("mamba"))


@pytest.fixture(scope="module")
def running(checkpoint: Checkpoint) -> Iterator[Shard]:
    with running_shard(checkpoint.path) as shard:
        yield shard


@pytest.fixture
def shard(running: Shard) -> Shard:
    """All slots empty, and no number in any state: whoever reads one without having been there
    first gets no number either.
    """
    running.reset()
    states = running._engine._cache.states
    states.conv.fill_(float("nan"))
    states.ssm.fill_(float("nan"))
    return running


def test_a_sequence_begins_with_nothing_whatever_the_slot_held(
    shard: Shard, checkpoint: Checkpoint
) -> None:
    script = StepScript()
    script.admit(0, OTHER)
    script.prefill(0, 7)
    script.decode([0], 2)
    script.retire(0)
    script.admit(0, PROMPT, sequence_id=1)
    script.prefill(0, 100)
    script.decode([0], 3)
    assert script.play(shard.step) == {
        0: checkpoint.greedy(OTHER, 3),
        1: checkpoint.greedy(PROMPT, 4),
    }


def test_a_step_that_fails_half_way_advances_nobody(
    shard: Shard, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first layer's states have moved when memory runs out in the second. Sequences of the
    step are admitted again and compute everything anew; one that was not part of it goes on.
    """
    expected = {0: checkpoint.greedy(PROMPT, 5), 2: checkpoint.greedy(OTHER, 3)}
    script = StepScript()
    script.admit(0, PROMPT)
    script.admit(2, OTHER)
    script.step({0: 19, 2: 30})
    script.admit(1, OTHER[:9])
    script.step({0: 1, 1: 9})
    script.step({0: 1, 1: 1})
    script.retire(0)
    script.retire(1)
    script.admit(3, [*PROMPT, *expected[0][:1]], num_emitted=1, sequence_id=0)
    script.step({2: 1, 3: 12})
    script.step({2: 1, 3: 8})
    script.decode([3], 3)
    first, failing, ahead, *rest = script.requests
    answers = [shard.step(first)]
    forward = MambaLayer.__call__
    layers = shard._loaded.model._layers

    def exhausted(layer: MambaLayer, *arguments: object) -> object:
        if layer is layers[1]:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to ...")
        return forward(layer, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(MambaLayer, "__call__", exhausted)
        with pytest.raises(StepRejectedError, match="out of memory"):
            shard.step(failing)
    shard.step(ahead)
    answers += [shard.step(request) for request in rest]
    script.sampled[1:3] = []
    assert script.tokens(answers) == expected


def test_a_prefix_cannot_be_taken_over(shard: Shard) -> None:
    assert not shard.info().supports_prefix_cache
    script = StepScript()
    script.admit(0, PROMPT, block_ids=[1], num_cached_tokens=4)
    script.step({0: 15})
    with pytest.raises(ProtocolError, match="cannot be taken from a prefix cache"):
        shard.step(script.requests[0])


def test_the_states_are_part_of_the_cache(checkpoint: Checkpoint) -> None:
    """Past inputs and state space of two layers of 96 channels for each slot, and for rows
    that fill up; nothing per token."""
    slot_bytes = 2 * 96 * (3 * 4 + 16 * 4)
    with running_shard(checkpoint.path) as shard:
        small = shard.warm_up(warmup_request(max_total_tokens=0))
        large = shard.warm_up(warmup_request(max_total_tokens=100_000, max_slots=2))
    assert small.cache_bytes == (40 + 1) * slot_bytes
    assert small.max_total_tokens == 4096, "trained lengths; there is no limit to go by"
    assert small.num_blocks == 1 + 40 * 4096 // 4
    assert large.cache_bytes == (2 + 1) * slot_bytes
    assert large.max_total_tokens == 100_000


def test_channels_that_cannot_be_divided() -> None:
    shape = StateSpaceShape(hidden_size=48, num_channels=96, state_size=16, kernel=4, step_rank=3)
    assert shape.channels(RankGroup(rank=1, world_size=3)) == range(32, 64)
    with pytest.raises(CapacityError, match=r"expand \* hidden_size \(96\) .*5 shards \(--num-s"):
        shape.channels(RankGroup(rank=0, world_size=5))


def test_more_slots_than_the_memory_has_states_for() -> None:
    recurrent = RecurrentSpec(
        num_layers=2, num_channels=64, num_past_inputs=3, state_size=16, dtype=torch.float32
    )
    budget = CacheBudget(
        spec=KVCacheSpec(
            num_layers=0,
            num_kv_heads=0,
            head_dim=0,
            dtype=torch.float32,
            device=torch.device("cpu"),
            recurrent=recurrent,
        ),
        block_size=16,
        max_slots=128,
        max_total_tokens=4096,
        is_total_fixed=False,
        max_cache_tokens=None,
        available_bytes=(128 + 1) * recurrent.slot_bytes,
    )
    assert size_cache(budget, activation_bytes=0, ranks=RankGroup()).num_blocks == 1 + 128 * 256
    with pytest.raises(CapacityError, match=r"states of 128 sequences.*--max-batch-size"):
        size_cache(budget, activation_bytes=1, ranks=RankGroup())
