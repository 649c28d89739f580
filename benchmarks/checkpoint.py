"""Write a random-weight Llama checkpoint of a named size, for speed runs.

    python -m benchmarks.checkpoint 398m --output /tmp/llama-398m --dtype bfloat16

The folder is a whole model as transformers and this server read it: configuration, safetensors
(written tensor by tensor, in memory of one tensor), tokenizer, chat template, generation defaults.
The same size, dtype and seed give the same bytes.
"""

import argparse
import json
import math
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from benchmarks.vocabulary import write_tokenizer

Dtype = Literal["float32", "float16", "bfloat16"]
DTYPES: tuple[str, ...] = get_args(Dtype)
SAFETENSORS_NAMES: dict[Dtype, str] = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
INITIALIZER_RANGE = 0.02
# Rows of a matrix that are drawn at one time.
ROWS_PER_DRAW = 1024


@dataclass(frozen=True, kw_only=True)
class LlamaShape:
    """The dimensions of one Llama model."""

    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    intermediate_size: int
    vocab_size: int
    tie_word_embeddings: bool = False
    max_position_embeddings: int = 4096
    rope_theta: float = 10000.0

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Name and shape of every weight, in the order that they are written."""
        hidden, kv = self.hidden_size, self.num_kv_heads * self.head_dim
        yield "model.embed_tokens.weight", (self.vocab_size, hidden)
        for index in range(self.num_layers):
            layer = f"model.layers.{index}"
            yield f"{layer}.input_layernorm.weight", (hidden,)
            yield f"{layer}.self_attn.q_proj.weight", (hidden, hidden)
            yield f"{layer}.self_attn.k_proj.weight", (kv, hidden)
            yield f"{layer}.self_attn.v_proj.weight", (kv, hidden)
            yield f"{layer}.self_attn.o_proj.weight", (hidden, hidden)
            yield f"{layer}.post_attention_layernorm.weight", (hidden,)
            yield f"{layer}.mlp.gate_proj.weight", (self.intermediate_size, hidden)
            yield f"{layer}.mlp.up_proj.weight", (self.intermediate_size, hidden)
            yield f"{layer}.mlp.down_proj.weight", (hidden, self.intermediate_size)
        yield "model.norm.weight", (hidden,)
        if not self.tie_word_embeddings:
            yield "lm_head.weight", (self.vocab_size, hidden)

    def num_parameters(self) -> int:
        """Tied embeddings count once."""
        return sum(math.prod(shape) for _, shape in self.tensors())

    def config(self, dtype: Dtype) -> dict[str, Any]:
        """config.json as transformers writes it."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_kv_heads,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "max_position_embeddings": self.max_position_embeddings,
            "initializer_range": INITIALIZER_RANGE,
            "rms_norm_eps": 1e-5,
            "rope_theta": self.rope_theta,
            "tie_word_embeddings": self.tie_word_embeddings,
            "attention_bias": False,
            "mlp_bias": False,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "torch_dtype": dtype,
        }


SHAPES: dict[str, LlamaShape] = {
    "tiny": LlamaShape(
        hidden_size=64,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        intermediate_size=128,
        vocab_size=1024,
        max_position_embeddings=2048,
    ),
    "135m": LlamaShape(
        hidden_size=576,
        num_layers=30,
        num_heads=9,
        num_kv_heads=3,
        intermediate_size=1536,
        vocab_size=49152,
        tie_word_embeddings=True,
    ),
    "398m": LlamaShape(
        hidden_size=1024,
        num_layers=24,
        num_heads=16,
        num_kv_heads=4,
        intermediate_size=4096,
        vocab_size=32000,
        tie_word_embeddings=True,
    ),
    "llama-3.2-1b": LlamaShape(
        hidden_size=2048,
        num_layers=16,
        num_heads=32,
        num_kv_heads=8,
        intermediate_size=8192,
        vocab_size=128256,
        tie_word_embeddings=True,
        max_position_embeddings=8192,
        rope_theta=500000.0,
    ),
    "llama-3.1-8b": LlamaShape(
        hidden_size=4096,
        num_layers=32,
        num_heads=32,
        num_kv_heads=8,
        intermediate_size=14336,
        vocab_size=128256,
        max_position_embeddings=8192,
        rope_theta=500000.0,
    ),
}


# The values of a tensor, by its number and dimensions, as they are stored, in pieces of whole rows.
Draw = Callable[[int, tuple[int, ...]], Iterator[NDArray[Any]]]


def write_checkpoint(
    folder: Path, shape: LlamaShape, *, dtype: Dtype, seed: int = 0, draw: Draw | None = None
) -> None:
    """Write the whole model; `folder` is made if need be. draw: in place of NumPy's numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = partial(_draw, seed, dtype) if draw is None else draw
    _write_weights(folder / "model.safetensors", shape, dtype, draw)
    write_tokenizer(folder, shape.vocab_size, shape.max_position_embeddings)
    (folder / "config.json").write_text(json.dumps(shape.config(dtype), indent=2) + "\n")
    generation = {"bos_token_id": 1, "eos_token_id": 2, "do_sample": False}
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")


def _write_weights(path: Path, shape: LlamaShape, dtype: Dtype, draw: Draw) -> None:
    """The safetensors layout: length of the header (8 bytes), header (JSON), the tensors."""
    item_size = 4 if dtype == "float32" else 2
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, dimensions in shape.tensors():
        end = offset + math.prod(dimensions) * item_size
        header[name] = {
            "dtype": SAFETENSORS_NAMES[dtype],
            "shape": list(dimensions),
            "data_offsets": [offset, end],
        }
        offset = end
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        for index, (_, dimensions) in enumerate(shape.tensors()):
            for values in draw(index, dimensions):
                file.write(values.data)


def _draw(
    seed: int, dtype: Dtype, index: int, dimensions: tuple[int, ...]
) -> Iterator[NDArray[Any]]:
    """One tensor: ones for a norm, else small normal noise."""
    if len(dimensions) == 1:
        yield _encode(np.ones(dimensions, dtype=np.float32), dtype)
        return
    generator = np.random.default_rng((seed, index))
    rows, columns = dimensions
    for start in range(0, rows, ROWS_PER_DRAW):
        piece = (min(ROWS_PER_DRAW, rows - start), columns)
        noise = generator.standard_normal(piece, dtype=np.float32)
        yield _encode(noise * np.float32(INITIALIZER_RANGE), dtype)


def _encode(values: NDArray[np.float32], dtype: Dtype) -> NDArray[Any]:
    """float32 values as the little-endian storage of `dtype`."""
    if dtype == "float32":
        return values.astype("<f4")
    if dtype == "float16":
        return values.astype("<f2")
    # bfloat16 is the upper half of float32, rounded to nearest, ties to even.
    bits = values.view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return (rounded >> np.uint32(16)).astype("<u2")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.checkpoint",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("size", choices=SHAPES)
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.output.exists() and any(options.output.iterdir()):
        sys.exit(f"{options.output} is not empty")
    shape = SHAPES[options.size]
    write_checkpoint(options.output, shape, dtype=options.dtype, seed=options.seed)
    print(f"{shape.num_parameters() / 1e6:.1f} M parameters in {options.output}")


if __name__ == "__main__":
    main()
