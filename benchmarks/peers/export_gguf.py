"""Write one of our random Llama checkpoints as GGUF for llama.cpp: `MODEL PRECISION OUTPUT`.

Norms stay float32. With int4 (q4_0) the embedding, which is the head too, stays q8_0, as here. No
vocabulary: prompts are token ids.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf.quants import quantize

TYPES = {
    "bfloat16": gguf.GGMLQuantizationType.BF16,
    "int8": gguf.GGMLQuantizationType.Q8_0,
    "int4": gguf.GGMLQuantizationType.Q4_0,
}
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
Matrix = Any


def read_bfloat16(path: Path) -> Iterator[tuple[str, Matrix]]:
    """Name and float32 values of every tensor of a safetensors file in bfloat16."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        data = file.tell()
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            assert entry["dtype"] == "BF16", "write the checkpoint with --dtype bfloat16"
            begin, end = entry["data_offsets"]
            file.seek(data + begin)
            bits = np.frombuffer(file.read(end - begin), dtype="<u2").astype(np.uint32) << 16
            yield name, bits.view(np.float32).reshape(entry["shape"])


def gguf_name(name: str) -> str:
    """Such as blk.3.attn_q.weight."""
    module = name.removesuffix(".weight")
    if not module.startswith("model.layers."):
        return f"{NAMES[module]}.weight"
    _, _, index, rest = module.split(".", 3)
    return f"blk.{index}.{NAMES[rest]}.weight"


def interleaved(matrix: Matrix, num_heads: int) -> Matrix:
    """llama.cpp turns dimension 2i with 2i + 1, the checkpoint i with i + head_dim / 2."""
    halves = matrix.reshape(num_heads, 2, -1, matrix.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(matrix.shape)


def write_header(writer: Any, config: dict[str, Any]) -> None:
    head_dim = config["hidden_size"] // config["num_attention_heads"]
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_rope_dimension_count(head_dim)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")


def write(folder: Path, precision: str, output: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(str(output), "llama")
    write_header(writer, config)
    for name, values in read_bfloat16(folder / "model.safetensors"):
        kind = TYPES[precision]
        if values.ndim == 1:
            kind = gguf.GGMLQuantizationType.F32
        elif "embed_tokens" in name or "lm_head" in name:
            kind = TYPES["int8"] if precision == "int4" else kind
        matrix = values
        for part, heads in (("q_proj", "num_attention_heads"), ("k_proj", "num_key_value_heads")):
            if part in name:
                matrix = interleaved(values, config[heads])
        writer.add_tensor(gguf_name(name), quantize(matrix, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    source, precision, target = sys.argv[1:]
    write(Path(source), precision, Path(target))
