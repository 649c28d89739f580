"""What the generic path cannot serve is refused by name, and never served wrongly."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from text_generation_shard.distributed import RankGroup
from text_generation_shard.errors import CapacityError, CheckpointError
from text_generation_shard.generic.survey import window_of
from text_generation_shard.models.loading import load_model, model_config
from torch import Tensor
from transformers.masking_utils import (
    bidirectional_mask_function,
    causal_mask_function,
    chunked_causal_mask_function,
    sliding_window_causal_mask_function,
)

from tests.shard.engines import running_shard
from tests.shard.models.architectures import ARCHITECTURES, REFUSED
from tests.shard.models.families import LONGROPE, write


def load(path: Path, **settings: Any) -> None:
    with running_shard(path, **settings):
        pass


@pytest.mark.parametrize("name", REFUSED)
def test_architectures(name: str, tmp_path: Path) -> None:
    model, reason = REFUSED[name]
    write(model, tmp_path)
    with pytest.raises(CheckpointError, match=re.escape(reason)) as refused:
        load(tmp_path)
    assert str(tmp_path) in str(refused.value)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"model_type": "no_such"}, "model_type 'no_such' is unknown here and to transformers"),
        ({}, "model_type 'None' is unknown"),
        ({"model_type": "vit"}, "model_type 'vit' is no causal language model"),
        ({"model_type": "bart"}, "model_type 'bart' is an encoder-decoder"),
        ({"model_type": "gemma3"}, "model_type 'gemma3' is made for more than text"),
        (
            {"model_type": "olmo2", "quantization_config": {"quant_method": "gptq"}},
            "quantization_config",
        ),
        (
            {"model_type": "olmo2", "rope_parameters": {"rope_type": "dynamic", "factor": 2.0}},
            "rope_type 'dynamic'",
        ),
        ({"model_type": "olmo2", "rope_parameters": LONGROPE}, "rope_type 'longrope'"),
        ({"model_type": "olmo2", "vocab_size": "many"}, "vocab_size"),
    ],
)
def test_configurations(config: dict[str, Any], reason: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=re.escape(reason)) as refused:
        model_config(tmp_path)
    assert str(tmp_path / "config.json") in str(refused.value)


def less(tensors: dict[str, Tensor]) -> None:
    del tensors["model.layers.1.mlp.up_proj.weight"]


def more(tensors: dict[str, Tensor]) -> None:
    tensors["model.layers.7.mlp.up_proj.weight"] = torch.ones(1)


def other(tensors: dict[str, Tensor]) -> None:
    tensors["model.norm.weight"] = torch.ones(5)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (less, "1 tensor(s) missing: model.layers.1.mlp.up_proj.weight"),
        (more, "1 tensor(s) that this model does not have: model.layers.7.mlp.up_proj.weight"),
        (other, "tensor model.norm.weight has shape [5], config.json implies [48]"),
    ],
)
def test_weights(change: Callable[[dict[str, Tensor]], None], reason: str, tmp_path: Path) -> None:
    write(ARCHITECTURES["olmo2"], tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    change(tensors)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=re.escape(reason)):
        load(tmp_path)


@pytest.mark.parametrize(
    ("settings", "kind", "reason"),
    [
        ({"quantize": "int8"}, CapacityError, "--quantize int8 is not available"),
        ({"rope_factor": 2.0}, CapacityError, "--rope-factor 2: not available for olmo2"),
    ],
)
def test_options(
    settings: dict[str, Any], kind: type[Exception], reason: str, tmp_path: Path
) -> None:
    write(ARCHITECTURES["olmo2"], tmp_path)
    with pytest.raises(kind, match=reason):
        load(tmp_path, **settings)


@pytest.mark.parametrize(
    ("name", "num_ranks", "reason"),
    [
        ("persimmon", 2, "PersimmonForCausalLM has no tensor-parallel plan"),
        ("olmo2", 3, "num_attention_heads (4) cannot be divided among 3 shards"),
        ("olmo2", 4, "num_key_value_heads (2) cannot be divided among 4 shards"),
    ],
)
def test_ranks(name: str, num_ranks: int, reason: str, tmp_path: Path) -> None:
    write(ARCHITECTURES[name], tmp_path)
    ranks = RankGroup(rank=0, world_size=num_ranks)
    with pytest.raises((CapacityError, CheckpointError), match=re.escape(reason)):
        load_model(
            tmp_path,
            model_config(tmp_path),
            ranks,
            dtype=torch.float32,
            device=torch.device("cpu"),
        )


def test_masks() -> None:
    """Only what a mask lets through counts, not how it is made."""
    assert window_of(causal_mask_function, 100) is None
    assert window_of(sliding_window_causal_mask_function(7), 100) == 7
    assert window_of(sliding_window_causal_mask_function(100), 100) is None
    no_padding = torch.zeros(1, dtype=torch.int64)
    for function in (bidirectional_mask_function, chunked_causal_mask_function(32, no_padding)):
        with pytest.raises(CheckpointError, match="neither causal nor a sliding window"):
            window_of(function, 100)
