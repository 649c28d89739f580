import json

import pytest
from text_generation_shard.errors import CheckpointError
from text_generation_shard.weights.weight_files import (
    WeightFormat,
    choose_weight_files,
    read_weight_map,
    weight_file_sets,
)

INDICES = {
    "model.safetensors.index.json": {"a": "model-1.safetensors", "b": "model-2.safetensors"},
    "pytorch_model.bin.index.json": {"a": "pytorch_model-1.bin", "b": "pytorch_model-1.bin"},
}


def choose(names):
    return choose_weight_files(weight_file_sets(names, INDICES.__getitem__), names)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["model.safetensors", "pytorch_model.bin"], ["model.safetensors"]),
        (["model.safetensors", "consolidated.safetensors"], ["model.safetensors"]),
        (
            [*INDICES["model.safetensors.index.json"].values(), *INDICES, "x.safetensors"],
            ["model-1.safetensors", "model-2.safetensors"],
        ),
        (["b.safetensors", "a.safetensors"], ["a.safetensors", "b.safetensors"]),
        (["a.safetensors", "consolidated.safetensors"], ["a.safetensors"]),
        (["consolidated.safetensors"], ["consolidated.safetensors"]),
        (["adapter_model.safetensors", "pytorch_model.bin"], ["pytorch_model.bin"]),
        (["onnx/model.safetensors", "pytorch_model.bin"], ["pytorch_model.bin"]),
        (["training_args.bin", "optimizer.pt", "x.bin", "x.pt"], ["x.bin"]),
        (["pytorch_model.bin.index.json", "pytorch_model-1.bin"], ["pytorch_model-1.bin"]),
        (["optimizer.pt", "model.pt"], ["model.pt"]),
    ],
)
def test_choice_among_the_files_of_a_repository(names, expected):
    assert list(choose(names).names) == expected


def test_a_whole_set_goes_before_a_better_format_that_is_not_whole():
    chosen = choose(["model.safetensors.index.json", "model-1.safetensors", "pytorch_model.bin"])
    assert chosen.format is WeightFormat.BIN
    chosen = choose(["model.safetensors.index.json", "model-1.safetensors"])
    assert chosen.names == ("model-1.safetensors", "model-2.safetensors")


def test_no_weights():
    assert choose(["config.json", "training_args.bin", "adapter_model.bin"]) is None


@pytest.mark.parametrize(
    "content", ["nonsense", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": "../x.bin"}}']
)
def test_an_index_that_is_none_is_refused_by_name(tmp_path, content):
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(content)
    with pytest.raises(CheckpointError, match=r"index\.json: "):
        read_weight_map(path)


def test_an_index(tmp_path):
    path = tmp_path / "index.json"
    path.write_text(json.dumps({"metadata": {}, "weight_map": {"a": "x.safetensors"}}))
    assert read_weight_map(path) == {"a": "x.safetensors"}
