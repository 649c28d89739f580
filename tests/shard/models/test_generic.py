"""Architectures without a family, against transformers: logits, chunks, company, ranks."""

import logging
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from text_generation_shard.generic.proven import PROVEN
from text_generation_shard.models import registry
from text_generation_shard.models.registry import FAMILIES

from tests.shard.engines import record, running_shard
from tests.shard.models.architectures import ARCHITECTURES
from tests.shard.models.families import MODELS, PROMPT, write
from tests.shard.models.test_families import Answers, Reference, check_parity, play_selected
from tests.shard.step_script import StepScript

# Plans of every kind: norms over all heads, fused gates, experts, latent attention, layers without
# RoPE, soft caps.
ON_TWO_RANKS = ["olmo2", "glm4", "granitemoe", "olmoe", "minicpm3", "smollm3", "vaultgemma"]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Reference]:
    """By name, each made once."""

    def make(name: str) -> Reference:
        return Reference(write(ARCHITECTURES[name], tmp_path_factory.mktemp(name)))

    return cache(make)


def test_what_is_called_proven_is_what_is_tested() -> None:
    assert set(PROVEN) == set(ARCHITECTURES)
    assert not set(PROVEN) & set(FAMILIES)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_parity(
    name: str, reference: Callable[[str], Reference], caplog: pytest.LogCaptureFixture
) -> None:
    check_parity(reference(name))
    ours = (entry for entry in caplog.records if entry.name.startswith("text_generation_shard"))
    warnings = [entry for entry in ours if entry.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert warnings[0].getMessage().startswith(f"{PROVEN[name].architecture} has no family here")


@pytest.fixture(scope="module")
def two_ranks(request: pytest.FixtureRequest, reference: Callable[[str], Reference]) -> Answers:
    return play_selected(
        request, reference, test="test_two_ranks_by_plan", scripts=Reference.scripts, world_size=2
    )


@pytest.mark.parametrize("name", ON_TWO_RANKS)
def test_two_ranks_by_plan(
    name: str, reference: Callable[[str], Reference], two_ranks: Answers
) -> None:
    results, model = two_ranks[name], reference(name)
    assert not isinstance(results, str), results
    model.check(model.scripts(), results)


def prefill_and_decode() -> StepScript:
    script = StepScript()
    script.admit(0, PROMPT)
    script.prefill(0, 8)
    script.decode([0], 1)
    return script


@pytest.mark.parametrize("name", ["olmo3", "minicpm3", "vaultgemma"])
def test_bfloat16(name: str, tmp_path: Path) -> None:
    """All arithmetic in the type, as on a GPU: logits stay near."""
    checkpoint = write(ARCHITECTURES[name], tmp_path, std=0.1)
    script = prefill_and_decode()
    with running_shard(tmp_path, dtype="bfloat16") as shard:
        assert shard.info().dtype == "bfloat16"
        recorded = record(shard).logits
        tokens = script.play(shard.step)[0]
    expected = checkpoint.logits([*PROMPT, tokens[0]])[-2:]
    assert torch.cosine_similarity(torch.cat(recorded), expected).min() > 0.99


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_a_family_gives_the_same_on_either_path(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(MODELS[name], tmp_path)

    def logits() -> torch.Tensor:
        with running_shard(tmp_path) as shard:
            recorded = record(shard).logits
            prefill_and_decode().play(shard.step)
        return torch.cat(recorded)

    native = logits()
    monkeypatch.setattr(registry, "FAMILIES", {})
    torch.testing.assert_close(logits(), native, atol=2e-5 * float(native.abs().max()), rtol=1e-4)
