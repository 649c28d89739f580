"""Tiny models of every family, and the steps that each of them is tried on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from tests.shard.checkpoints import VOCAB_SIZE, Checkpoint
from tests.shard.step_script import StepScript

PROMPT = [(7 * index * index + 3) % VOCAB_SIZE for index in range(19)]
OTHER = [(5 * index + 11) % VOCAB_SIZE for index in range(30)]
NUM_GREEDY = 32

COMMON: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}


@dataclass(frozen=True)
class Model:
    """A configuration class of transformers, and what is set in it."""

    config: str
    settings: dict[str, Any]
    # Which of transformers' attentions is the reference.
    attention: str = "eager"
    auto_class: str = "AutoModelForCausalLM"
    # Whether a sequence can begin with tokens that another has computed.
    shares_prefixes: bool = True


def plain(config: str, **settings: Any) -> Model:
    return Model(config, {**COMMON, **settings})


def like_llama(config: str, **settings: Any) -> Model:
    return plain(config, **{"intermediate_size": 80, "num_key_value_heads": 2, **settings})


def deepseek(config: str, **settings: Any) -> Model:
    return plain(
        config,
        **{
            "intermediate_size": 80,
            "num_key_value_heads": 4,
            "kv_lora_rank": 24,
            "q_lora_rank": 20,
            "qk_nope_head_dim": 12,
            "qk_rope_head_dim": 8,
            "v_head_dim": 10,
            "num_hidden_layers": 3,
            "first_k_dense_replace": 1,
            "n_routed_experts": 9,
            "n_shared_experts": 2,
            "num_experts_per_tok": 3,
            "moe_intermediate_size": 24,
            "routed_scaling_factor": 1.5,
            **settings,
        },
    )


LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5],
    "long_factor": [1.0, 2.0, 3.0, 4.0, 6.0, 8.0],
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
}

TOKENS = {
    "vocab_size": VOCAB_SIZE,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
GPT = {**TOKENS, "n_embd": 48, "n_layer": 2, "n_head": 4, "n_positions": 256}
BLOOM = {**TOKENS, "hidden_size": 48, "n_layer": 2}
MAMBA = {**TOKENS, "hidden_size": 48, "num_hidden_layers": 2, "state_size": 8}
MPT = {**TOKENS, "d_model": 48, "n_layers": 2, "n_heads": 4, "max_seq_len": 256}

DBRX = {
    **TOKENS,
    "d_model": 48,
    "n_layers": 2,
    "n_heads": 4,
    "max_seq_len": 256,
    "attn_config": {"kv_n_heads": 2, "clip_qkv": 2.0, "rope_theta": 5000.0},
    "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0},
    "ffn_config": {"ffn_hidden_size": 40, "moe_num_experts": 5, "moe_top_k": 2},
}

GPT_OSS = {
    "head_dim": 16,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_local_experts": 5,
    "num_experts_per_tok": 2,
    "sliding_window": 9,
    "swiglu_limit": 3.0,
}
LLAMA4 = {
    "head_dim": 16,
    "num_key_value_heads": 2,
    "intermediate_size": 40,
    "intermediate_size_mlp": 72,
    "num_hidden_layers": 3,
    "num_local_experts": 5,
    "no_rope_layer_interval": 2,
    "attention_chunk_size": 9,
    "floor_scale": 6,
    "attn_scale": 0.5,
}
VISION = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}

# The name begins with the model_type.
MODELS: dict[str, Model] = {
    "llama": like_llama("LlamaConfig"),
    "llama-yarn": like_llama("LlamaConfig", rope_parameters=YARN),
    "mistral": like_llama("MistralConfig", sliding_window=9, head_dim=20),
    "qwen2": like_llama("Qwen2Config"),
    "qwen2-window": like_llama(
        "Qwen2Config", use_sliding_window=True, sliding_window=9, max_window_layers=1
    ),
    "qwen3": like_llama("Qwen3Config", head_dim=16, tie_word_embeddings=True),
    "phi3": like_llama("Phi3Config", sliding_window=11),
    "phi3-partial": like_llama("Phi3Config", partial_rotary_factor=0.5),
    # The served length, 160, is below the original one, or above it.
    "phi3-short": like_llama(
        "Phi3Config", rope_parameters=LONGROPE, original_max_position_embeddings=256
    ),
    "granite": like_llama(
        "GraniteConfig",
        embedding_multiplier=3.0,
        attention_multiplier=0.2,
        residual_multiplier=0.7,
        logits_scaling=2.0,
        attention_bias=True,
    ),
    "mixtral": like_llama("MixtralConfig", num_local_experts=5),
    "qwen2_moe": like_llama(
        "Qwen2MoeConfig",
        num_experts=6,
        num_experts_per_tok=3,
        moe_intermediate_size=24,
        shared_expert_intermediate_size=40,
    ),
    "qwen3_moe": like_llama(
        "Qwen3MoeConfig",
        head_dim=16,
        num_hidden_layers=3,
        num_experts=6,
        num_experts_per_tok=3,
        moe_intermediate_size=24,
        norm_topk_prob=True,
        mlp_only_layers=[1],
    ),
    "phimoe": like_llama(
        "PhimoeConfig", num_local_experts=5, attention_bias=True, lm_head_bias=True
    ),
    "deepseek_v2": deepseek(
        "DeepseekV2Config", topk_method="group_limited_greedy", n_group=3, topk_group=2
    ),
    "deepseek_v2-lite": deepseek(
        "DeepseekV2Config",
        q_lora_rank=None,
        rope_parameters={**YARN, "mscale": 0.9, "mscale_all_dim": 0.7},
    ),
    "deepseek_v3": deepseek("DeepseekV3Config", n_group=3, topk_group=2, attention_bias=True),
    "deepseek_v3-halves": deepseek(
        "DeepseekV3Config", n_group=1, topk_group=1, norm_topk_prob=False, rope_interleave=False
    ),
    "llama4_text": plain("Llama4TextConfig", **LLAMA4),
    "llama4_text-dense": plain(
        "Llama4TextConfig",
        **LLAMA4 | {"interleave_moe_layer_step": 2, "num_experts_per_tok": 2, "use_qk_norm": False},
    ),
    "llama4": Model(
        "Llama4Config",
        {"text_config": {**COMMON, **LLAMA4}, "vision_config": VISION},
        auto_class="AutoModelForImageTextToText",
    ),
    "gpt_oss": like_llama("GptOssConfig", **GPT_OSS),
    "dbrx": Model("DbrxConfig", DBRX),
    "gemma": like_llama("GemmaConfig", head_dim=16),
    "gemma2": like_llama(
        "Gemma2Config",
        head_dim=16,
        sliding_window=9,
        query_pre_attn_scalar=24,
        attn_logit_softcapping=3.0,
        final_logit_softcapping=20.0,
    ),
    "gemma3_text": like_llama(
        "Gemma3TextConfig",
        head_dim=16,
        sliding_window=9,
        num_hidden_layers=3,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        query_pre_attn_scalar=16,
    ),
    "cohere": like_llama("CohereConfig", logit_scale=0.5),
    "cohere-norms": like_llama("CohereConfig", use_qk_norm=True),
    "cohere2": like_llama(
        "Cohere2Config", sliding_window=9, layer_types=["sliding_attention", "full_attention"]
    ),
    "starcoder2": like_llama("Starcoder2Config", sliding_window=9),
    "phi": like_llama("PhiConfig", head_dim=12, hidden_size=48),
    "phi-norms": like_llama("PhiConfig", hidden_size=64, qk_layernorm=True),
    "gpt2": Model("GPT2Config", GPT),
    "gpt2-scaled": Model(
        "GPT2Config", {**GPT, "scale_attn_by_inverse_layer_idx": True, "n_inner": 72}
    ),
    "gpt_bigcode": Model("GPTBigCodeConfig", GPT),
    "gpt_bigcode-heads": Model("GPTBigCodeConfig", {**GPT, "multi_query": False}),
    "gptj": Model("GPTJConfig", {**GPT, "rotary_dim": 8}),
    "gpt_neox": plain("GPTNeoXConfig", hidden_size=64),
    "gpt_neox-sequential": plain(
        "GPTNeoXConfig", hidden_size=64, use_parallel_residual=False, attention_bias=False
    ),
    "opt": plain("OPTConfig", ffn_dim=80),
    "opt-350m": plain("OPTConfig", ffn_dim=80, do_layer_norm_before=False, word_embed_proj_dim=32),
    "bloom": Model("BloomConfig", {**BLOOM, "n_head": 4}),
    "bloom-six-heads": Model("BloomConfig", {**BLOOM, "n_head": 6}),
    "falcon": plain("FalconConfig"),
    # transformers' eager attention adds ALiBi twice, its default once.
    "falcon-rw": Model(
        "FalconConfig",
        {**COMMON, "alibi": True, "multi_query": False, "parallel_attn": False, "bias": True},
        attention="sdpa",
    ),
    "falcon-40b": plain("FalconConfig", new_decoder_architecture=True, num_kv_heads=2),
    "falcon-11b": plain(
        "FalconConfig",
        new_decoder_architecture=True,
        num_kv_heads=2,
        num_ln_in_parallel_attn=1,
        ffn_hidden_size=96,
    ),
    "mpt": Model("MptConfig", MPT),
    "mamba": Model("MambaConfig", {**MAMBA, "state_size": 16}, shares_prefixes=False),
    "mamba-biased": Model(
        "MambaConfig",
        {
            **MAMBA,
            "use_bias": True,
            "use_conv_bias": False,
            "conv_kernel": 3,
            "expand": 3,
            "time_step_rank": 5,
            "tie_word_embeddings": False,
        },
        shares_prefixes=False,
    ),
    "falcon_mamba": Model("FalconMambaConfig", MAMBA, shares_prefixes=False),
    "mpt-six-heads": Model("MptConfig", {**MPT, "n_heads": 6, "attn_config": {"clip_qkv": 2.0}}),
}


def write_model(name: str, path: Path) -> Checkpoint:
    """One of the models above."""
    return write(MODELS[name], path)


def write(model: Model, path: Path, *, std: float = 0.4) -> Checkpoint:
    """std: of the weights, so large that greedy choices are no ties."""
    config = getattr(transformers, model.config)(**model.settings)
    torch.manual_seed(0)
    auto_class = getattr(transformers, model.auto_class)
    reference = auto_class.from_config(config, attn_implementation=model.attention)
    randomize(reference, std)
    reference.save_pretrained(path)
    return Checkpoint(path, reference.eval())


def randomize(reference: Any, std: float) -> None:
    """New weights, also where an architecture begins with ones or zeros."""
    with torch.no_grad():
        for parameter_name, parameter in reference.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=std)
            elif parameter_name.endswith("bias"):
                parameter.normal_(std=0.2)
            else:
                parameter.uniform_(0.5, 1.5)
        for buffer_name, buffer in reference.named_buffers():
            if buffer_name.endswith("correction_bias"):
                buffer.normal_(std=0.2)


def greedy_script(chunk: int, num_tokens: int = NUM_GREEDY) -> StepScript:
    """One sequence alone."""
    script = StepScript()
    script.admit(0, PROMPT)
    script.prefill(0, chunk)
    script.decode([0], num_tokens - 1)
    return script


def crowded_script(greedy: list[int], *, shares_prefixes: bool = True) -> StepScript:
    """What a busy server does: sequences 0 to 4 of different lengths in mixed steps.

    greedy: the continuation of PROMPT. Sequence 3 is preempted; 4 finds 12 tokens of 0's prompt,
    if it may.
    """
    script = StepScript()
    script.admit(0, PROMPT)
    script.admit(1, OTHER)
    script.admit(2, OTHER[:3])
    script.step({0: 8, 1: 20, 2: 3})
    script.step({2: 1, 0: 11, 1: 10})
    script.admit(3, PROMPT)
    script.step({0: 1, 3: 19, 1: 1, 2: 1})
    script.decode([3, 0, 2, 1], 2)
    script.retire(3)
    blocks = script.retire(0)[: 3 * shares_prefixes]
    num_cached = 4 * len(blocks)
    script.admit(4, PROMPTS[4], block_ids=blocks, num_cached_tokens=num_cached)
    script.step({1: 1, 4: len(PROMPTS[4]) - num_cached})
    script.admit(5, [*PROMPT, *greedy[:3]], sequence_id=3, num_emitted=3)
    script.step({5: 13, 4: 1, 2: 1})
    script.step({5: 9, 4: 1, 1: 1})
    script.decode([2, 5, 4, 1], 4)
    return script


PROMPTS = {0: PROMPT, 1: OTHER, 2: OTHER[:3], 3: PROMPT, 4: [*PROMPT[:12], *OTHER[:9]]}
