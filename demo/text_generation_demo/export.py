"""Writes a checkpoint of the training as a model folder, with weights rounded to bfloat16.

python -m text_generation_demo.export --checkpoint /tmp/demo-checkpoint.pt
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from text_generation_demo import MODEL_DIR
from text_generation_demo.architecture import ROPE_THETA, end_token_ids, model_config

TIED_HEAD = "lm_head.weight"
CONFIG_KEYS = (
    "model_type",
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "max_position_embeddings",
    "rms_norm_eps",
    "rope_parameters",
    "initializer_range",
    "attention_bias",
    "attention_dropout",
    "mlp_bias",
    "tie_word_embeddings",
    "use_cache",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)


def export_model(weights: dict[str, torch.Tensor], output: Path) -> None:
    """`output` must hold the tokenizer already; its other files are written here."""
    tokenizer = Tokenizer.from_file(str(output / "tokenizer.json"))
    rounded = {
        name: tensor.to(torch.bfloat16).contiguous()
        for name, tensor in weights.items()
        if name != TIED_HEAD
    }
    save_file(rounded, output / "model.safetensors", metadata={"format": "pt"})
    (output / "model.safetensors").chmod(0o644)
    _write_json(_config_content(tokenizer), output / "config.json")
    end_ids = end_token_ids(tokenizer)
    generation = {"eos_token_id": end_ids, "pad_token_id": end_ids[-1]}
    _write_json(generation, output / "generation_config.json")


def _config_content(tokenizer: Tokenizer) -> dict[str, object]:
    """Only what describes a Llama model, with the keys of older and newer readers."""
    config = model_config(tokenizer).to_dict()
    return {
        **{key: config[key] for key in CONFIG_KEYS},
        "architectures": ["LlamaForCausalLM"],
        "rope_theta": ROPE_THETA,
        "dtype": "bfloat16",
        "torch_dtype": "bfloat16",
    }


def _write_json(content: Mapping[str, object], path: Path) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=MODEL_DIR)
    arguments = parser.parse_args()
    checkpoint = torch.load(arguments.checkpoint, weights_only=True)
    export_model(checkpoint["average"], arguments.output)
    print(f"step {checkpoint['step']} written to {arguments.output}")


if __name__ == "__main__":
    main()
