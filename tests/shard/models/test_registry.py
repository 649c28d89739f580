"""What the registry promises beyond parity: documents, older checkpoints, refusals by name."""

import importlib.util
import json
import re
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from text_generation_shard.errors import CapacityError, CheckpointError
from text_generation_shard.models.loading import model_config
from text_generation_shard.ops.cpu import library
from torch import Tensor

from tests.shard.checkpoints import VOCAB_SIZE, Checkpoint
from tests.shard.engines import record, running_shard
from tests.shard.models.families import (
    LONGROPE,
    MODELS,
    PROMPT,
    greedy_script,
    like_llama,
    write,
    write_model,
)
from tests.shard.step_script import StepScript

# Of logits with those of the float32 weights, in the median prompt: where rounding turns a router
# of random weights to another expert, a single one says nothing.
QUANTIZED_SIMILARITY = {"int8": 0.999, "int4": 0.975}
QUANTIZED_PROMPTS = [
    [((7 + 2 * number) * index * index + 3 + number) % VOCAB_SIZE for index in range(len(PROMPT))]
    for number in range(12)
]

ROOT = Path(__file__).parents[3]


def test_generated_pages_are_current() -> None:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "tools/generate_docs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, text in module.pages().items():
        assert (ROOT / "docs" / name).read_text() == text, f"{name}: run `make generate`"


def test_model_files_are_short() -> None:
    paths = (ROOT / "shard/text_generation_shard/models").glob("*.py")
    lengths = {path.name: len(path.read_text().splitlines()) for path in paths}
    del lengths["registry.py"]
    assert max(lengths.values()) <= 150, lengths


def rewrite(path: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    tensors = change(load_file(path / "model.safetensors"))
    save_file(tensors, path / "model.safetensors")


def first_token(path: Path) -> int:
    script = StepScript()
    script.admit(0, PROMPT)
    script.prefill(0, 100)
    with running_shard(path) as shard:
        return script.play(shard.step)[0][0]


@pytest.mark.parametrize(
    ("name", "prefix", "buffer"),
    [
        ("gpt2", "transformer.", "h.0.attn.bias"),
        ("bloom", "transformer.", None),
        ("opt", "model.", None),
        ("gpt_neox", "gpt_neox.", "layers.1.attention.masked_bias"),
    ],
)
def test_checkpoints_saved_without_a_head(
    name: str, prefix: str, buffer: str | None, tmp_path: Path
) -> None:
    """As on the hub: names without the model's own, buffers that follow from the configuration."""
    checkpoint = write_model(name, tmp_path)

    def strip(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        stripped = {key.removeprefix(prefix): tensor for key, tensor in tensors.items()}
        return stripped if buffer is None else {**stripped, buffer: torch.ones(1)}

    rewrite(tmp_path, strip)
    assert first_token(tmp_path) == checkpoint.greedy(PROMPT, 1)[0]


@pytest.mark.parametrize(("layer", "is_known"), [(3, True), (4, False)])
def test_layers_for_multi_token_prediction(layer: int, is_known: bool, tmp_path: Path) -> None:
    """DeepSeek V3 has one more layer than it counts; a second one would be an error."""
    checkpoint = write_model("deepseek_v3", tmp_path)
    name = f"model.layers.{layer}.eh_proj.weight"
    rewrite(tmp_path, lambda tensors: {**tensors, name: torch.ones(1)})
    if is_known:
        assert first_token(tmp_path) == checkpoint.greedy(PROMPT, 1)[0]
    else:
        with pytest.raises(CheckpointError, match=re.escape(name)):
            first_token(tmp_path)


def test_longrope_beyond_the_original_length(tmp_path: Path) -> None:
    """The long factors from the first token on, where longer sequences are served."""
    model = like_llama("Phi3Config", rope_parameters=LONGROPE, original_max_position_embeddings=16)
    checkpoint = write(model, tmp_path)
    with running_shard(tmp_path) as shard:
        recorded = record(shard).logits
        greedy_script(7).play(shard.step)
    torch.testing.assert_close(recorded[0], checkpoint.logits(PROMPT)[-1:], atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("name", [name for name in MODELS if "-" not in name])
def test_bfloat16(name: str, tmp_path: Path) -> None:
    """Every operator takes the type, and logits stay near: rounding is all that differs."""
    model = MODELS[name]
    checkpoint: Checkpoint = write(model, tmp_path, std=0.1)
    script = StepScript()
    script.admit(0, PROMPT)
    script.prefill(0, 8)
    script.decode([0], 1)
    with running_shard(tmp_path, dtype="bfloat16") as shard:
        recorded = record(shard).logits
        tokens = script.play(shard.step)[0]
    expected = checkpoint.logits([*PROMPT, tokens[0]])[-2:]
    actual = torch.cat(recorded).float()
    similarity = torch.cosine_similarity(actual, expected).min()
    assert similarity > 0.99


@pytest.mark.skipif(library.operators() is None, reason="no CPU operators here")
@pytest.mark.parametrize("name", ["deepseek_v3", "dbrx", "llama4_text"])
@pytest.mark.parametrize("quantize", ["int8", "int4"])
def test_quantized(name: str, quantize: str, tmp_path: Path) -> None:
    """Matrices of single heads and of stacked experts are packed like others."""
    checkpoint: Checkpoint = write(MODELS[name], tmp_path, std=0.1)
    similarities = []
    with running_shard(tmp_path, quantize=quantize) as shard:
        recorded = record(shard).logits
        for prompt in QUANTIZED_PROMPTS:
            script = StepScript()
            script.admit(0, prompt)
            script.prefill(0, 100)
            shard.reset()
            script.play(shard.step)
            expected = checkpoint.logits(prompt)[-1:]
            similarities.append(float(torch.cosine_similarity(recorded[-1], expected)))
    assert statistics.median(similarities) > QUANTIZED_SIMILARITY[quantize]


@pytest.mark.parametrize(
    ("name", "settings", "text"),
    [
        ("gpt2", {"activation_function": "quick_gelu"}, "activation_function 'quick_gelu'"),
        ("gpt2", {"n_embd": 50}, "hidden_size (50)"),
        ("gptj", {"rotary_dim": 13}, "rotary_dim (13)"),
        ("gptj", {"rotary_dim": 64}, "rotary_dim (64)"),
        ("bloom", {"apply_residual_connection_post_layernorm": True}, "apply_residual"),
        ("mpt", {"attn_config": {"alibi": False}}, "alibi False"),
        ("mpt", {"attn_config": {"attn_type": "multiquery_attention"}}, "attn_type"),
        ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 3}, "num_kv_heads (3)"),
        ("falcon", {"new_decoder_architecture": True, "parallel_attn": False}, "parallel_attn"),
        ("gemma3_text", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("cohere2", {"use_qk_norm": True}, "use_qk_norm"),
        ("mixtral", {"num_experts_per_tok": 9}, "num_experts_per_tok (9)"),
        ("phimoe", {"num_experts_per_tok": 3}, "num_experts_per_tok 3"),
        ("qwen3", {"layer_types": ["linear_attention"] * 2}, "layer_types"),
        ("phi3", {"rope_parameters": {**LONGROPE, "long_factor": [1.0]}}, "long_factor"),
        ("gpt_neox", {"rope_parameters": {"partial_rotary_factor": 3.0}}, "partial_rotary_factor"),
        ("deepseek_v2", {"norm_topk_prob": True}, "norm_topk_prob True"),
        ("deepseek_v2", {"topk_method": "noaux_tc"}, "topk_method 'noaux_tc'"),
        ("deepseek_v3", {"scoring_func": "softmax"}, "scoring_func 'softmax'"),
        ("deepseek_v3", {"n_group": 2}, "n_group (2)"),
        ("deepseek_v3", {"n_group": 9}, "n_group (9)"),
        ("deepseek_v3", {"topk_group": 4}, "topk_group (4)"),
        ("deepseek_v3", {"kv_lora_rank": 0}, "kv_lora_rank"),
        ("dbrx", {"ffn_config": {"moe_normalize_expert_weights": 2}}, "moe_normalize_expert"),
        ("dbrx", {"ffn_config": {"moe_num_experts": 4, "moe_top_k": 5}}, "moe_top_k (5)"),
        ("llama4_text", {"no_rope_layers": [1]}, "no_rope_layers"),
        ("llama4_text", {"layer_types": ["sliding_attention"] * 3}, "layer_types"),
        ("llama4", {"text_config": None}, "text_config"),
        ("llama", {"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
    ],
)
def test_refusals_name_the_setting(
    name: str, settings: dict[str, Any], text: str, tmp_path: Path
) -> None:
    config = {"model_type": name, **MODELS[name].settings, **settings}
    config |= {"use_sliding_window": True, "sliding_window": 9}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=re.escape(text)):
        model_config(tmp_path)


def test_rope_flags_need_a_rotary_embedding(tmp_path: Path) -> None:
    write_model("bloom", tmp_path)
    with (
        pytest.raises(CapacityError, match="--rope-scaling: bloom"),
        running_shard(tmp_path, rope_factor=2.0),
    ):
        pass
