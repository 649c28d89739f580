"""Every family against transformers: logits, greedy text, chunks, company, preemption, ranks."""

from collections.abc import Callable, Mapping
from functools import cache

import pytest
import torch
from text_generation_proto import shard_pb2 as pb
from text_generation_shard.models.registry import FAMILIES
from text_generation_shard.ops.cpu import library

from tests.shard.checkpoints import Checkpoint
from tests.shard.engines import record, running_shard
from tests.shard.models.families import (
    MODELS,
    NUM_GREEDY,
    PROMPT,
    PROMPTS,
    crowded_script,
    greedy_script,
    write_model,
)
from tests.shard.models.rank_pair import play_on_two_ranks
from tests.shard.step_script import StepScript

CHUNKS = (100, 7, 2)


class Reference:
    """A checkpoint, and what transformers makes of it."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.greedy = cache(lambda slot, count: checkpoint.greedy(PROMPTS[slot], count))

    def scripts(self) -> list[StepScript]:
        return [greedy_script(CHUNKS[1]), crowded_script(self.greedy(0, NUM_GREEDY))]

    def check(self, scripts: list[StepScript], results: list[list[pb.StepResult]]) -> None:
        alone, crowded = (
            script.tokens(answers) for script, answers in zip(scripts, results, strict=True)
        )
        assert alone == {0: self.greedy(0, NUM_GREEDY)}
        for sequence, tokens in crowded.items():
            expected = self.greedy(0 if sequence == 3 else sequence, _count(sequence, tokens))
            assert tokens == expected[: len(tokens)], f"sequence {sequence}"


def _count(sequence: int, tokens: list[int]) -> int:
    return NUM_GREEDY if sequence in (0, 3) else len(tokens)


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Reference]:
    """By name, each made once."""
    return cache(lambda name: Reference(write_model(name, tmp_path_factory.mktemp(name))))


@pytest.mark.parametrize("name", MODELS)
def test_parity(name: str, reference: Callable[[str], Reference]) -> None:
    check_parity(reference(name))


@pytest.mark.parametrize(
    "name", ["gemma2", "cohere2", "bloom", "gptj", "deepseek_v3", "llama4_text"]
)
def test_parity_without_native_operators(
    name: str, reference: Callable[[str], Reference], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Soft caps, windows, ALiBi and the like by torch alone."""
    monkeypatch.setattr(library, "operators", lambda: None)
    check_parity(reference(name))


def check_parity(model: Reference) -> None:
    greedy = model.greedy(0, NUM_GREEDY)
    expected = model.checkpoint.logits([*PROMPT, *greedy[:-1]])[len(PROMPT) - 1 :]
    tolerance = 2e-5 * float(expected.abs().max())
    with running_shard(model.checkpoint.path) as shard:
        for chunk in CHUNKS:
            recorded = record(shard).logits
            greedy_script(chunk).play(shard.step)
            actual = torch.cat(recorded)
            shard.reset()
            torch.testing.assert_close(actual, expected, atol=tolerance, rtol=1e-4)
        scripts = model.scripts()
        results = []
        for script in scripts:
            shard.reset()
            results.append([shard.step(request) for request in script.requests])
    model.check(scripts, results)


@pytest.fixture(scope="module")
def two_ranks(
    request: pytest.FixtureRequest, reference: Callable[[str], Reference]
) -> Mapping[str, list[list[pb.StepResult]] | str]:
    """The answers of one pair of processes for all models that this run selects."""
    names = [
        item.callspec.params["name"]
        for item in request.session.items
        if getattr(item, "originalname", "") == "test_two_ranks"
    ]
    return play_on_two_ranks(
        {
            name: (
                reference(name).checkpoint.path,
                [script.requests for script in reference(name).scripts()],
            )
            for name in names
        }
    )


@pytest.mark.parametrize("name", MODELS)
def test_two_ranks(
    name: str,
    reference: Callable[[str], Reference],
    two_ranks: Mapping[str, list[list[pb.StepResult]] | str],
) -> None:
    results = two_ranks[name]
    assert not isinstance(results, str), results
    model = reference(name)
    model.check(model.scripts(), results)


def test_every_family_is_tested() -> None:
    assert {name.split("-")[0] for name in MODELS} == set(FAMILIES)
