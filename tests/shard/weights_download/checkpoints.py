"""Small model directories."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

CONFIG = json.dumps({"model_type": "llama", "vocab_size": 4})


def make_tensors(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        f"layers.{seed}.weight": torch.randn(4, 6, generator=generator),
        f"layers.{seed}.bias": torch.randn(6, generator=generator).bfloat16(),
    }


def write_config(directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(CONFIG)
    return directory


def write_safetensors(directory: Path) -> Path:
    write_config(directory)
    save_file(make_tensors(), directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def write_bin(directory: Path, name="pytorch_model.bin", tensors=None) -> Path:
    write_config(directory)
    torch.save(make_tensors() if tensors is None else tensors, directory / name)
    return directory


def write_sharded_bin(directory: Path) -> Path:
    weight_map = {}
    for number in (1, 2):
        name = f"pytorch_model-0000{number}-of-00002.bin"
        write_bin(directory, name, make_tensors(number))
        weight_map |= dict.fromkeys(make_tensors(number), name)
    (directory / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return directory
