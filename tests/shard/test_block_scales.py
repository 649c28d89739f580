"""Checkpoints whose matrices are 8-bit floats with a scale for every block."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from text_generation_shard.errors import CheckpointError
from text_generation_shard.models.loading import model_config
from text_generation_shard.weights.block_scales import ScaleBlocks
from text_generation_shard.weights.reader import CheckpointReader
from torch import Tensor

from tests.shard.coded_checkpoints import set_quantization, write_block_scaled
from tests.shard.engines import record, running_shard
from tests.shard.models.families import PROMPT, write_model
from tests.shard.step_script import StepScript

BLOCKS = ScaleBlocks(16, 12)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model in 8-bit floats, and the same values in float32."""
    narrow_path, wide_path = (tmp_path_factory.mktemp(name) for name in ("narrow", "wide"))
    write_block_scaled(narrow_path, wide_path)
    return narrow_path, wide_path


def logits_of(path: Path) -> Tensor:
    script = StepScript()
    script.admit(0, PROMPT)
    script.prefill(0, 100)
    with running_shard(path) as shard:
        recorded = record(shard).logits
        script.play(shard.step)
    return recorded[0]


def test_a_model_computes_what_the_scaled_floats_stand_for(paths: tuple[Path, Path]) -> None:
    narrow, wide = paths
    assert torch.equal(logits_of(narrow), logits_of(wide))


@pytest.mark.parametrize(("dim", "start", "length"), [(0, 5, 30), (1, 7, 13), (0, 16, 16)])
def test_parts(paths: tuple[Path, Path], dim: int, start: int, length: int) -> None:
    """As ranks read them, wherever blocks begin."""
    name, shape = "model.layers.0.mlp.gate_proj.weight", (80, 48)
    expected = load_file(paths[1] / "model.safetensors")[name].narrow(dim, start, length)
    part = torch.empty(expected.shape)
    with CheckpointReader(paths[0], scale_blocks=BLOCKS) as reader:
        reader.read_into(part, name, shape=shape, dim=dim, start=start)
    assert torch.equal(part, expected)


def test_scales_of_another_block_size_are_refused(paths: tuple[Path, Path]) -> None:
    name = "model.layers.0.mlp.gate_proj.weight"
    with (
        CheckpointReader(paths[0], scale_blocks=ScaleBlocks(128, 128)) as reader,
        pytest.raises(CheckpointError, match=re.escape(f"{name}_scale_inv has shape [5, 4]")),
    ):
        reader.read_into(torch.empty(80, 48), name, shape=(80, 48), dim=0, start=0)


@pytest.mark.parametrize(
    "quantization",
    [
        {"quant_method": "gptq", "bits": 4},
        {"quant_method": "fp8"},
        {"quant_method": "fp8", "weight_block_size": [128]},
    ],
)
def test_other_formats_are_refused(quantization: dict[str, Any], tmp_path: Path) -> None:
    write_model("llama", tmp_path)
    set_quantization(tmp_path, quantization)
    with pytest.raises(CheckpointError, match="quantization_config: checkpoints quantized by"):
        model_config(tmp_path)


def test_8_bit_floats_without_a_word_in_the_config_are_refused(tmp_path: Path) -> None:
    write_model("llama", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    tensors[name] = tensors[name].to(torch.float8_e4m3fn)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="F8_E4M3"), running_shard(tmp_path):
        pass
