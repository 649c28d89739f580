"""Every family against transformers: logits, greedy text, chunks, company, preemption, ranks."""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import pytest
import torch
from text_generation_proto import shard_pb2 as pb
from text_generation_shard.models.registry import FAMILIES
from text_generation_shard.ops.cpu import library

from tests.shard.checkpoints import Checkpoint
from tests.shard.engines import record, running_shard
from tests.shard.models.encoder_decoders import ENCODER_DECODERS
from tests.shard.models.families import (
    MODELS,
    NUM_GREEDY,
    PROMPT,
    PROMPTS,
    crowded_script,
    greedy_script,
    write_model,
)
from tests.shard.models.rank_groups import play_models_on_ranks
from tests.shard.models.torch_operators import torch_operators
from tests.shard.step_script import StepScript

CHUNKS = (100, 7, 2)


class Reference:
    """A checkpoint, and what transformers makes of it."""

    def __init__(self, checkpoint: Checkpoint, *, shares_prefixes: bool = True) -> None:
        self.checkpoint = checkpoint
        self.shares_prefixes = shares_prefixes
        self.greedy = cache(lambda slot, count: checkpoint.greedy(PROMPTS[slot], count))

    def scripts(self) -> list[StepScript]:
        crowded = crowded_script(self.greedy(0, NUM_GREEDY), shares_prefixes=self.shares_prefixes)
        return [greedy_script(CHUNKS[1]), crowded]

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

    def make(name: str) -> Reference:
        checkpoint = write_model(name, tmp_path_factory.mktemp(name))
        return Reference(checkpoint, shares_prefixes=MODELS[name].shares_prefixes)

    return cache(make)


@pytest.mark.parametrize("name", MODELS)
def test_parity(name: str, reference: Callable[[str], Reference]) -> None:
    check_parity(reference(name))


@pytest.mark.parametrize("name", MODELS)
def test_decode_steps_are_our_operators(name: str, reference: Callable[[str], Reference]) -> None:
    """No operator of torch computes between embedding and logits: such steps can be replayed."""
    if library.operators() is None:
        pytest.skip("no C++ operators here")
    with running_shard(reference(name).checkpoint.path) as shard:
        left = torch_operators(shard)
    assert not left


@pytest.mark.parametrize(
    "name",
    ["gemma2", "cohere2", "bloom", "gptj", "deepseek_v3", "llama4_text", "mamba", "falcon_mamba"],
)
def test_parity_without_native_operators(
    name: str, reference: Callable[[str], Reference], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Soft caps, windows, ALiBi, scans and the like by torch alone."""
    monkeypatch.setattr(library, "operators", lambda: None)
    check_parity(reference(name))


def check_parity(model: Reference, **settings: Any) -> None:
    greedy = model.greedy(0, NUM_GREEDY)
    expected = model.checkpoint.logits([*PROMPT, *greedy[:-1]])[len(PROMPT) - 1 :]
    tolerance = 2e-5 * float(expected.abs().max())
    with running_shard(model.checkpoint.path, **settings) as shard:
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


# Per model, the answers to its scripts, or the error that ended them.
Answers = Mapping[str, list[list[pb.StepResult]] | str]

# KV heads that two of four ranks share, or all; experts; a vocabulary that four does not divide. A
# short script: four processes take turns on few cores.
ON_FOUR_RANKS = ["llama", "gpt_bigcode", "bloom", "qwen3_moe", "deepseek_v3"]
SHORT_SCRIPT = greedy_script(CHUNKS[1], num_tokens=6)


def play_selected(
    request: pytest.FixtureRequest,
    reference: Callable[[str], Reference],
    *,
    test: str,
    scripts: Callable[[Reference], list[StepScript]],
    world_size: int,
) -> Answers:
    """The answers of one group of processes for all models for which this run has the test."""
    models = {
        item.callspec.params["name"]: reference(item.callspec.params["name"])
        for item in request.session.items
        if getattr(item, "originalname", "") == test and item.path == request.path
    }
    played = {
        name: (model.checkpoint.path, [script.requests for script in scripts(model)])
        for name, model in models.items()
    }
    return play_models_on_ranks(played, world_size=world_size)


@pytest.fixture(scope="module")
def two_ranks(request: pytest.FixtureRequest, reference: Callable[[str], Reference]) -> Answers:
    return play_selected(
        request, reference, test="test_two_ranks", scripts=Reference.scripts, world_size=2
    )


@pytest.fixture(scope="module")
def four_ranks(request: pytest.FixtureRequest, reference: Callable[[str], Reference]) -> Answers:
    return play_selected(
        request, reference, test="test_four_ranks", scripts=lambda _: [SHORT_SCRIPT], world_size=4
    )


@pytest.mark.parametrize("name", MODELS)
def test_two_ranks(name: str, reference: Callable[[str], Reference], two_ranks: Answers) -> None:
    results, model = two_ranks[name], reference(name)
    assert not isinstance(results, str), results
    model.check(model.scripts(), results)


@pytest.mark.parametrize("name", ON_FOUR_RANKS)
def test_four_ranks(name: str, reference: Callable[[str], Reference], four_ranks: Answers) -> None:
    results = four_ranks[name]
    assert not isinstance(results, str), results
    tokens = SHORT_SCRIPT.tokens(results[0])[0]
    assert tokens == reference(name).greedy(0, len(tokens)) and len(tokens) == 6


def test_every_family_is_tested() -> None:
    names = [*MODELS, *ENCODER_DECODERS]
    assert {name.split("-")[0] for name in names} == set(FAMILIES)
