import json
import os

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from text_generation_shard.errors import CheckpointError
from text_generation_shard.weights import convert as module
from text_generation_shard.weights.convert import convert

from tests.shard.weights_download.checkpoints import (
    make_tensors,
    write_bin,
    write_sharded_bin,
)


def metadata(path):
    with safe_open(path, framework="pt") as file:
        return file.metadata()


@pytest.mark.parametrize("new_format", [True, False])
def test_a_file_becomes_safetensors_beside_it(tmp_path, new_format):
    torch.save(
        make_tensors(),
        tmp_path / "pytorch_model.bin",
        _use_new_zipfile_serialization=new_format,
    )
    convert(tmp_path, ["pytorch_model.bin"])
    loaded = load_file(tmp_path / "model.safetensors")
    for name, tensor in make_tensors().items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "model.safetensors",
        "pytorch_model.bin",
    ]


def test_a_name_loses_its_prefix_and_no_other_letters(tmp_path):
    write_bin(tmp_path, "consolidated.pt")
    convert(tmp_path, ["consolidated.pt"])
    assert (tmp_path / "consolidated.safetensors").is_file()


def test_a_sharded_checkpoint_gets_an_index(tmp_path):
    write_sharded_bin(tmp_path)
    convert(tmp_path, [f"pytorch_model-0000{number}-of-00002.bin" for number in (1, 2)])
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    assert index["weight_map"] == {
        name: names[number - 1] for number in (1, 2) for name in make_tensors(number)
    }
    assert index["metadata"]["total_size"] == 2 * (4 * 6 * 4 + 6 * 2)
    assert torch.equal(
        load_file(tmp_path / names[1])["layers.2.weight"], make_tensors(2)["layers.2.weight"]
    )


def test_one_name_is_kept_of_a_tied_tensor(tmp_path):
    embedding, tied = torch.randn(8, 4), torch.randn(3)
    state = {
        "lm_head.weight": embedding,
        "model.embed_tokens.weight": embedding,
        "encoder.block.embed.weight": tied,
        "shared.weight": tied,
    }
    torch.save(state, tmp_path / "pytorch_model.bin")
    convert(tmp_path, ["pytorch_model.bin"])
    path = tmp_path / "model.safetensors"
    assert load_file(path).keys() == {"model.embed_tokens.weight", "shared.weight"}
    assert metadata(path) == {
        "format": "pt",
        "lm_head.weight": "model.embed_tokens.weight",
        "encoder.block.embed.weight": "shared.weight",
    }


def test_views_of_one_memory_become_tensors_of_their_own(tmp_path):
    fused = torch.randn(6, 4)
    state = {
        "q": fused[:2],
        "k": fused[2:4],
        "whole": fused,
        "transposed": torch.randn(3, 5).T,
        "column": torch.randn(5, 5)[:, 1],
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "other_empty": torch.zeros(0, 3),
    }
    torch.save(state, tmp_path / "pytorch_model.bin")
    convert(tmp_path, ["pytorch_model.bin"])
    loaded = load_file(tmp_path / "model.safetensors")
    assert loaded.keys() == state.keys()
    for name, tensor in state.items():
        assert torch.equal(loaded[name], tensor), name


def test_not_a_number_survives(tmp_path):
    torch.save({"w": torch.tensor([float("nan"), 1.0])}, tmp_path / "pytorch_model.bin")
    convert(tmp_path, ["pytorch_model.bin"])
    assert load_file(tmp_path / "model.safetensors")["w"][0].isnan()


def test_a_nested_state_dict_is_found(tmp_path):
    torch.save({"epoch": 3, "state_dict": make_tensors()}, tmp_path / "model.pt")
    convert(tmp_path, ["model.pt"])
    assert load_file(tmp_path / "model.safetensors").keys() == make_tensors().keys()


class Attack:
    def __reduce__(self):
        return os.system, ("touch /tmp/never",)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"w": torch.zeros(2), "epoch": 3}, "epoch is a int, not a tensor"),
        ({}, "holds no dictionary"),
        ([torch.zeros(2)], "holds no dictionary"),
        ({"w": torch.zeros(2, 2).to_sparse()}, "tensor w is not dense"),
        ({"w": Attack()}, "is not a PyTorch checkpoint"),
    ],
)
def test_what_is_no_dictionary_of_tensors_is_refused_and_leaves_nothing(tmp_path, state, message):
    torch.save(state, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=rf"pytorch_model\.bin: .*{message}"):
        convert(tmp_path, ["pytorch_model.bin"])
    assert [path.name for path in tmp_path.iterdir()] == ["pytorch_model.bin"]


@pytest.mark.parametrize("kept", [0, 10, -50])
def test_a_damaged_source_is_refused_by_name(tmp_path, kept):
    path = write_bin(tmp_path) / "pytorch_model.bin"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin: is not a PyTorch checkpoint"):
        convert(tmp_path, ["pytorch_model.bin"])


def test_a_tensor_in_two_files_is_refused(tmp_path):
    for number in (1, 2):
        write_bin(tmp_path, f"part-{number}.bin")
    with pytest.raises(CheckpointError, match=r"layers\.0\.\w+ is in part-1\.\w+ and in part-2"):
        convert(tmp_path, ["part-1.bin", "part-2.bin"])
    assert not list(tmp_path.glob("*.safetensors*"))


def test_two_sources_of_one_name_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="the same new name"):
        convert(tmp_path, ["model.bin", "pytorch_model.bin"])


def test_a_directory_that_is_not_writable_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(CheckpointError, match="not writable"):
        convert(write_bin(tmp_path), ["pytorch_model.bin"])


def test_what_was_written_wrong_never_gets_its_name(tmp_path, monkeypatch):
    def save_wrong(tensors, path, metadata):
        save_file({name: tensor + 1 for name, tensor in tensors.items()}, path, metadata)

    save_file = module.save_file
    monkeypatch.setattr(module, "save_file", save_wrong)
    write_bin(tmp_path)
    with pytest.raises(CheckpointError, match=r"tensor layers\.0\.\w+ changed"):
        convert(tmp_path, ["pytorch_model.bin"])
    assert not list(tmp_path.glob("*.safetensors*"))
    assert not list(tmp_path.glob(".*"))
