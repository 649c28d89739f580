"""gpt-oss as it is published: experts of 4-bit floats with an exponent for each 32 of them."""

from pathlib import Path

import pytest
import torch
from text_generation_shard.errors import CheckpointError
from text_generation_shard.models.loading import model_config
from text_generation_shard.weights.mxfp4 import widen
from torch import Tensor

from tests.shard.coded_checkpoints import MXFP4_MODEL, set_quantization, write_mxfp4
from tests.shard.engines import record, running_shard
from tests.shard.models.families import PROMPT, VOCAB_SIZE, write
from tests.shard.models.rank_groups import play_models_on_ranks
from tests.shard.step_script import StepScript


def test_codes_and_exponents() -> None:
    """By the table of the standard; 127 is the exponent of one."""
    codes = torch.zeros(2, 1, 16, dtype=torch.uint8)
    codes[0, 0, 0], codes[1, 0, 15] = 0x7 | 0x9 << 4, 0xF << 4
    values = widen(codes, torch.tensor([[127], [130]], dtype=torch.uint8))
    assert values.shape == (2, 32)
    assert values[0, :3].tolist() == [6.0, -0.5, 0.0] and values[1, -1] == -48.0


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model with random codes, and the same values in float32."""
    narrow_path, wide_path = (tmp_path_factory.mktemp(name) for name in ("narrow", "wide"))
    write_mxfp4(narrow_path, wide_path)
    return narrow_path, wide_path


def prompt_script() -> StepScript:
    script = StepScript()
    script.admit(0, PROMPT)
    script.prefill(0, 100)
    script.decode([0], 3)
    return script


def logits_of(path: Path) -> Tensor:
    with running_shard(path) as shard:
        recorded = record(shard).logits
        prompt_script().play(shard.step)
    return torch.cat(recorded)


def test_a_model_computes_what_the_codes_stand_for(paths: tuple[Path, Path]) -> None:
    narrow, wide = map(logits_of, paths)
    assert narrow.shape == (4, VOCAB_SIZE) and torch.equal(narrow, wide)


def test_ranks_read_halves_of_experts(paths: tuple[Path, Path]) -> None:
    """Two ranks read a half of every expert each."""
    script = prompt_script()
    with running_shard(paths[1]) as shard:
        expected = script.play(shard.step)
    played = play_models_on_ranks({"narrow": (paths[0], [script.requests])}, world_size=2)
    assert not isinstance(played["narrow"], str), played
    assert script.tokens(played["narrow"][0]) == expected


def test_another_format_is_refused(tmp_path: Path) -> None:
    write(MXFP4_MODEL, tmp_path)
    set_quantization(tmp_path, {"quant_method": "fp8", "weight_block_size": [128, 128]})
    with pytest.raises(CheckpointError, match="quant_method 'fp8'"):
        model_config(tmp_path)
