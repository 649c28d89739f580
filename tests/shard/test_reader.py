"""Strict reading of checkpoints: every refusal names file and tensor."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from text_generation_shard.distributed import RankGroup
from text_generation_shard.errors import CheckpointError
from text_generation_shard.models.loading import LoadedModel, load_model, model_config
from text_generation_shard.weights import loading_progress
from text_generation_shard.weights.reader import CheckpointReader
from torch import Tensor

from tests.shard.checkpoints import Checkpoint, write_checkpoint

Q_PROJ = "model.layers.1.self_attn.q_proj.weight"


def load(path: Path, ranks: RankGroup | None = None) -> LoadedModel:
    return load_model(
        path,
        model_config(path),
        RankGroup() if ranks is None else ranks,
        dtype=torch.float32,
        device=torch.device("cpu"),
    )


@pytest.fixture
def model_path(checkpoint: Checkpoint, tmp_path: Path) -> Path:
    """A copy to damage."""
    for source in checkpoint.path.iterdir():
        (tmp_path / source.name).write_bytes(source.read_bytes())
    return tmp_path


def rewrite(path: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    tensors = load_file(path / "model.safetensors")
    change(tensors)
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()}, path / "model.safetensors"
    )


def assert_refused(path: Path, *texts: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        load(path)
    for text in texts:
        assert text in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_tensor(model_path: Path) -> None:
    rewrite(model_path, lambda tensors: tensors.pop(Q_PROJ))
    assert_refused(model_path, str(model_path), f"{Q_PROJ} is missing")


def test_leftover_tensor(model_path: Path) -> None:
    rewrite(model_path, lambda tensors: tensors.update(surprise=torch.zeros(2)))
    assert_refused(model_path, "model.safetensors", "surprise")


def test_wrong_shape(model_path: Path) -> None:
    rewrite(model_path, lambda tensors: tensors.update({Q_PROJ: tensors[Q_PROJ][:-1]}))
    assert_refused(model_path, "model.safetensors", Q_PROJ, "[47, 48]", "[48, 48]")


def test_data_type_that_is_not_a_number_of_ours(model_path: Path) -> None:
    rewrite(model_path, lambda tensors: tensors.update({Q_PROJ: tensors[Q_PROJ].to(torch.int8)}))
    assert_refused(model_path, "model.safetensors", Q_PROJ, "I8")


def test_rotary_buffers_of_old_checkpoints_are_harmless(model_path: Path) -> None:
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    rewrite(model_path, lambda tensors: tensors.update({name: torch.ones(6)}))
    load(model_path)


@pytest.mark.parametrize("kept_bytes", [0, 4, 1000, -1])
def test_truncated_file(model_path: Path, kept_bytes: int) -> None:
    weights = model_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept_bytes])
    assert_refused(model_path, str(weights))


def test_no_weights(model_path: Path) -> None:
    (model_path / "model.safetensors").unlink()
    assert_refused(model_path, str(model_path), "no safetensors")


def test_tied_head_may_be_stored_or_not(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, tie_word_embeddings=True)
    load(tmp_path)
    rewrite(
        tmp_path,
        lambda tensors: tensors.update(
            {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}
        ),
    )
    load(tmp_path)


def test_sharded_checkpoint(checkpoint: Checkpoint, tmp_path: Path) -> None:
    write_checkpoint(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    assert load(tmp_path).weight_bytes == load(checkpoint.path).weight_bytes


@pytest.fixture
def sharded_path(tmp_path: Path) -> Path:
    write_checkpoint(tmp_path, max_shard_size="40KB")
    return tmp_path


def test_missing_file_of_a_sharded_checkpoint(sharded_path: Path) -> None:
    missing = sorted(sharded_path.glob("*.safetensors"))[1]
    missing.unlink()
    assert_refused(sharded_path, str(missing))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": [1]}'])
def test_index_that_is_none(sharded_path: Path, text: str) -> None:
    (sharded_path / "model.safetensors.index.json").write_text(text)
    assert_refused(sharded_path, "model.safetensors.index.json")


def change_index(path: Path, name: str, file_name: str) -> None:
    index_path = path / "model.safetensors.index.json"
    index = json.loads(index_path.read_text())
    index["weight_map"][name] = file_name
    index_path.write_text(json.dumps(index))


def test_index_that_lies(sharded_path: Path) -> None:
    first, second = sorted(file.name for file in sharded_path.glob("*.safetensors"))[:2]
    with CheckpointReader(sharded_path) as reader:
        wrong = next(name for name in reader._tensors if reader._tensors[name].path.name == first)
    change_index(sharded_path, wrong, second)
    assert_refused(sharded_path, second, wrong)


def test_index_that_points_elsewhere(sharded_path: Path) -> None:
    change_index(sharded_path, Q_PROJ, "../other.safetensors")
    assert_refused(sharded_path, "../other.safetensors", "not in the directory")


def test_what_the_download_takes_for_no_weights_is_not_read(sharded_path: Path) -> None:
    (sharded_path / "model.safetensors.index.json").unlink()
    save_file({"surprise": torch.zeros(2)}, sharded_path / "adapter_model.safetensors")
    load(sharded_path)


def test_progress_is_told_in_bytes_of_the_files(
    checkpoint: Checkpoint,
    sharded_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(loading_progress, "_INTERVAL_S", 0.0)
    caplog.set_level(logging.INFO)
    load(sharded_path)
    fields = [record.fields for record in caplog.records if hasattr(record, "fields")]
    told = [entry for entry in fields if entry.get("progress") == "weights"]
    done = [entry["bytes_done"] for entry in told]
    parameters = sum(parameter.numel() for parameter in checkpoint.reference.parameters())
    assert {entry["bytes_total"] for entry in told} == {4 * parameters}
    assert len(done) > 10
    assert done == sorted(done)
    assert done[-2:] == [4 * parameters] * 2, "the last tensor, and the end"
    assert told[-1]["bytes_read"] == 4 * parameters
    assert told[-1]["seconds"] > 0


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_read_their_part_only(checkpoint: Checkpoint, world_size: int) -> None:
    """Norms and replicated KV heads are read by every rank, the rest once."""
    whole = load(checkpoint.path).weight_bytes
    parts = [
        load(checkpoint.path, RankGroup(rank=rank, world_size=world_size)).weight_bytes
        for rank in range(world_size)
    ]
    norm_bytes = 5 * 48 * 4
    kv_bytes = 2 * 2 * 24 * 48 * 4
    replicated = (world_size - 1) * norm_bytes + (world_size // 2 - 1) * kv_bytes
    assert sum(parts) == whole + replicated
