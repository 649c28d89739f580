"""Loading takes the model's share and one tensor more, never the checkpoint twice."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from text_generation_shard.ops.cpu import library
from torch import Tensor

HIDDEN, INTERMEDIATE, LAYERS, VOCAB = 512, 1536, 6, 8000
# Of the largest matrix of a layer, gate and up-projection fused, before it is packed.
LARGEST_BYTES = 2 * INTERMEDIATE * HIDDEN * 4
MIB = 1 << 20

needs_operators = pytest.mark.skipif(library.operators() is None, reason="no CPU operators here")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of 48 MiB in bfloat16."""
    path = tmp_path_factory.mktemp("large")
    config = {
        "model_type": "llama",
        "vocab_size": VOCAB,
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 8,
        "tie_word_embeddings": True,
    }
    (path / "config.json").write_text(json.dumps(config))
    save_file(_tensors(), path / "model.safetensors")
    return path


def _tensors() -> dict[str, Tensor]:
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens": (VOCAB, HIDDEN),
        "model.norm": (HIDDEN,),
    }
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        for name in ("q", "k", "v", "o"):
            shapes[f"{prefix}self_attn.{name}_proj"] = (HIDDEN, HIDDEN)
        for name in ("gate", "up"):
            shapes[f"{prefix}mlp.{name}_proj"] = (INTERMEDIATE, HIDDEN)
        shapes[f"{prefix}mlp.down_proj"] = (HIDDEN, INTERMEDIATE)
        shapes[f"{prefix}input_layernorm"] = (HIDDEN,)
        shapes[f"{prefix}post_attention_layernorm"] = (HIDDEN,)
    return {
        f"{name}.weight": torch.full(shape, 0.01, dtype=torch.bfloat16)
        for name, shape in shapes.items()
    }


@needs_operators
def test_peak_memory(checkpoint: Path) -> None:
    cases = [("dense", 1), ("bfloat16", 1), ("int8", 1), ("int4", 1), ("dense", 2), ("int8", 2)]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "tests.shard.loading_memory",
            str(checkpoint),
            *(str(part) for case in cases for part in case),
        ],
        capture_output=True,
        text=True,
        # Large pieces of memory go back at once, so that what is resident is what is in use.
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for case, result in zip(cases, json.loads(done.stdout.splitlines()[-1]), strict=True):
        assert result["peak"] - result["stays"] <= LARGEST_BYTES + MIB, (case, result)
        # Packed matrices lie side by side in pages of 2 MiB.
        assert result["stays"] <= 1.1 * result["kept"] + 4 * MIB, (case, result)
