"""What a sequence draws depends on its seed alone: not on batch mates, chunks or preemption."""

import random

from text_generation_proto import shard_pb2 as pb
from text_generation_shard.shard import Shard

from tests.shard.checkpoints import VOCAB_SIZE
from tests.shard.step_script import StepScript, sampling

PROMPT = [(11 * index + 5) % VOCAB_SIZE for index in range(13)]
NUM_TOKENS = 12
DRAWN = sampling(do_sample=True, seed=0xFEDCBA9876543210, temperature=1.3, top_p=0.95)


def alone(*, chunk: int = 100, parameters: pb.SamplingParameters = DRAWN) -> StepScript:
    script = StepScript()
    script.admit(0, PROMPT, sampling=parameters)
    script.prefill(0, chunk)
    script.decode([0], NUM_TOKENS - 1)
    return script


def in_a_batch_of_32(parameters: pb.SamplingParameters = DRAWN) -> StepScript:
    """The sequence is number 17; its mates draw too, and one of them every step is a chunk."""
    generator = random.Random(3)
    script = StepScript()
    for slot in range(32):
        if slot == 17:
            script.admit(slot, PROMPT, sequence_id=0, sampling=parameters)
        else:
            prompt = [generator.randrange(VOCAB_SIZE) for _ in range(generator.randint(2, 24))]
            mate = sampling(do_sample=True, seed=slot, temperature=0.7 + slot / 20, top_k=slot)
            script.admit(slot, prompt, sequence_id=100 + slot, sampling=mate)
    for slot in range(32):
        script.prefill(slot, 9)
    script.decode(generator.sample(range(32), 32), NUM_TOKENS - 1)
    return script


def preempted(emitted: list[int], parameters: pb.SamplingParameters = DRAWN) -> StepScript:
    script = StepScript()
    script.admit(2, PROMPT, sequence_id=0, sampling=parameters)
    script.prefill(2, 5)
    script.decode([2], len(emitted) - 1)
    script.retire(2)
    script.admit(
        0, [*PROMPT, *emitted], num_emitted=len(emitted), sampling=parameters, sequence_id=0
    )
    script.prefill(0, 100)
    script.decode([0], NUM_TOKENS - len(emitted) - 1)
    return script


def test_draws_do_not_depend_on_company_or_history(shard: Shard) -> None:
    expected = alone().play(shard.step)[0]
    assert len(set(expected)) > 3
    scripts = {
        "chunks": alone(chunk=3),
        "batch of 32": in_a_batch_of_32(),
        "preempted": preempted(expected[:5]),
    }
    for name, script in scripts.items():
        shard.reset()
        assert script.play(shard.step)[0] == expected, name


def test_another_seed_draws_otherwise(shard: Shard) -> None:
    other = sampling(do_sample=True, seed=1, temperature=1.3, top_p=0.95)
    expected = alone().play(shard.step)[0]
    shard.reset()
    assert alone(parameters=other).play(shard.step)[0] != expected


def test_penalties_count_emitted_tokens_as_output(shard: Shard) -> None:
    """Frequency and presence penalties see the output only, also after a preemption."""
    parameters = sampling(
        do_sample=True, seed=5, frequency_penalty=1.5, presence_penalty=1.0, repetition_penalty=1.3
    )
    expected = alone(parameters=parameters).play(shard.step)[0]
    shard.reset()
    assert preempted(expected[:6], parameters).play(shard.step)[0] == expected
    shard.reset()
    assert in_a_batch_of_32(parameters).play(shard.step)[0] == expected
