"""Checkpoints whose matrices are codes, and the same ones with the values that these stand for."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from text_generation_shard.weights.mxfp4 import widen
from torch import Tensor

from tests.shard.models.families import GPT_OSS, like_llama, write, write_model

BLOCK_SCALED = {"quant_method": "fp8", "weight_block_size": [16, 12], "fmt": "e4m3"}
MXFP4 = {"quant_method": "mxfp4", "modules_to_not_convert": []}
MXFP4_MODEL = like_llama("GptOssConfig", **GPT_OSS | {"hidden_size": 64})


def write_block_scaled(path: Path, wide_path: Path | None = None) -> None:
    """8-bit floats with a scale for every block."""
    write_model("deepseek_v3", path)
    tensors = load_file(path / "model.safetensors")
    values = dict(tensors)
    for name, tensor in list(tensors.items()):
        if "proj" in name and name.endswith("weight"):
            tensors[name], tensors[name + "_scale_inv"], values[name] = _quantize(tensor)
    save_file(tensors, path / "model.safetensors")
    if wide_path is not None:
        write_model("deepseek_v3", wide_path)
        save_file(values, wide_path / "model.safetensors")
    set_quantization(path, BLOCK_SCALED)


def _quantize(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The 8-bit floats, their scales, and the values that they stand for; block by block."""
    rows, columns = (-(-size // block) for size, block in zip(matrix.shape, (16, 12), strict=True))
    narrow, wide = torch.empty(matrix.shape, dtype=torch.float8_e4m3fn), matrix.clone()
    scales = torch.empty(rows, columns)
    for row in range(rows):
        for column in range(columns):
            place = slice(16 * row, 16 * row + 16), slice(12 * column, 12 * column + 12)
            scales[row, column] = matrix[place].abs().max() / 448
            narrow[place] = (matrix[place] / scales[row, column]).to(narrow.dtype)
            wide[place] = narrow[place].float() * scales[row, column]
    return narrow, scales, wide


def write_mxfp4(path: Path, wide_path: Path | None = None) -> None:
    """4-bit floats, random codes, 32 of which share an exponent."""
    write(MXFP4_MODEL, path)
    tensors = load_file(path / "model.safetensors")
    values = dict(tensors)
    for name, tensor in list(tensors.items()):
        if name.endswith(("gate_up_proj", "down_proj")):
            experts, inputs, outputs = tensor.shape
            shape = (experts, outputs, inputs // 32)
            codes = torch.randint(256, (*shape, 16), dtype=torch.uint8)
            scales = torch.randint(123, 126, shape, dtype=torch.uint8)
            tensors[f"{name}_blocks"], tensors[f"{name}_scales"] = codes, scales
            del tensors[name]
            wide = [widen(*expert).t() for expert in zip(codes, scales, strict=True)]
            values[name] = torch.stack(wide).contiguous()
    save_file(tensors, path / "model.safetensors")
    if wide_path is not None:
        write(MXFP4_MODEL, wide_path)
        save_file(values, wide_path / "model.safetensors")
    set_quantization(path, MXFP4)


def set_quantization(path: Path, quantization: dict[str, object]) -> None:
    """In config.json."""
    config = json.loads((path / "config.json").read_bytes())
    config["quantization_config"] = quantization
    (path / "config.json").write_text(json.dumps(config))
