"""Tensor parallelism over gloo: two ranks, and four that share two KV heads."""

import pytest
from text_generation_shard.shard import Shard

from tests.shard.checkpoints import VOCAB_SIZE, Checkpoint
from tests.shard.ranks import play_on_ranks
from tests.shard.step_script import StepScript
from tests.shard.test_noise import PROMPT as DRAWN_PROMPT
from tests.shard.test_noise import alone, in_a_batch_of_32, preempted

PROMPT = [(3 * index * index + 1) % VOCAB_SIZE for index in range(21)]


def greedy_script() -> StepScript:
    """Chunked prefill, prompt log-probabilities and a second sequence."""
    script = StepScript()
    script.admit(0, PROMPT, prompt_logprobs=True, top_n_tokens=2)
    script.step({0: 8})
    script.admit(1, DRAWN_PROMPT)
    script.step({0: 13, 1: 13})
    script.decode([1, 0], 6)
    return script


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_agree_with_one(checkpoint: Checkpoint, shard: Shard, world_size: int) -> None:
    expected = alone().play(shard.step)[0]
    scripts = [greedy_script(), alone(), in_a_batch_of_32(), preempted(expected[:5])]
    ranks = play_on_ranks(
        checkpoint.path,
        [script.requests for script in scripts],
        world_size=world_size,
        dtype="float32",
    )
    assert [rank.info.rank for rank in ranks] == list(range(world_size))
    assert len({rank.warmup.num_blocks for rank in ranks}) == 1
    for others in ranks[1:]:
        for first, result in zip(
            (r for script in ranks[0].results for r in script),
            (r for script in others.results for r in script),
            strict=True,
        ):
            assert result.sampled_checksum == first.sampled_checksum
            assert not result.token_ids and not result.prompt_logprobs

    tokens = [
        script.tokens(results) for script, results in zip(scripts, ranks[0].results, strict=True)
    ]
    assert tokens[0] == {
        0: checkpoint.greedy(PROMPT, 7),
        1: checkpoint.greedy(DRAWN_PROMPT, 7),
    }
    assert [played[0] for played in tokens[1:]] == [expected] * 3
    reported = [
        value
        for result in ranks[0].results[0]
        for report in result.prompt_logprobs
        for value in report.logprobs
    ]
    assert reported == pytest.approx(checkpoint.prompt_logprobs(PROMPT), abs=1e-3)
