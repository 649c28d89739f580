"""Tiny models of architectures without a family here, which run on transformers' code."""

from tests.shard.models.families import Model, like_llama, plain

ALTERNATING = {"sliding_window": 9, "layer_types": ["sliding_attention", "full_attention"]}
LATENT = {
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
}

# By model_type.
ARCHITECTURES: dict[str, Model] = {
    "apertus": like_llama("ApertusConfig"),
    "arcee": like_llama("ArceeConfig"),
    "biogpt": plain("BioGptConfig", intermediate_size=80),
    "ernie4_5": like_llama("Ernie4_5Config", head_dim=12),
    "exaone4": like_llama("Exaone4Config", **ALTERNATING),
    "glm4": like_llama("Glm4Config", head_dim=12),
    "granitemoe": like_llama("GraniteMoeConfig", num_local_experts=5, logits_scaling=2.0),
    "helium": like_llama("HeliumConfig", head_dim=12),
    "hunyuan_v1_dense": like_llama("HunYuanDenseV1Config", head_dim=12),
    "minicpm3": like_llama("MiniCPM3Config", **LATENT),
    "nemotron": like_llama("NemotronConfig", head_dim=12),
    "olmo2": like_llama("Olmo2Config"),
    "olmo3": like_llama("Olmo3Config", **ALTERNATING),
    "olmoe": like_llama("OlmoeConfig", num_experts=6, num_experts_per_tok=3),
    "persimmon": plain("PersimmonConfig", intermediate_size=80),
    "seed_oss": like_llama("SeedOssConfig", head_dim=12),
    "smollm3": like_llama("SmolLM3Config", no_rope_layers=[1, 0], tie_word_embeddings=True),
    "stablelm": like_llama("StableLmConfig", hidden_size=64, use_qkv_bias=True),
    "vaultgemma": like_llama(
        "VaultGemmaConfig", head_dim=12, final_logit_softcapping=20.0, **ALTERNATING
    ),
}

# What cannot be served, and a part of the reason that is given.
REFUSED: dict[str, tuple[Model, str]] = {
    "mamba2": (
        plain("Mamba2Config", num_heads=4, head_dim=24, n_groups=1, state_size=16),
        "Mamba2ForCausalLM keeps a recurrent state",
    ),
    "falcon_h1": (like_llama("FalconH1Config"), "FalconH1ForCausalLM keeps a recurrent state"),
    "lfm2": (
        like_llama("Lfm2Config", layer_types=["conv", "full_attention"]),
        "1 of 2 layers use transformers' interface for attention; the others keep a state",
    ),
    "diffllama": (like_llama("DiffLlamaConfig"), "attends more than once"),
    "xglm": (
        plain("XGLMConfig", d_model=48, num_layers=2, attention_heads=4, ffn_dim=80),
        "its attention cannot be found out",
    ),
    "doge": (like_llama("DogeConfig"), "its attention cannot be found out"),
    "mimo_v2_flash": (
        like_llama("MiMoV2FlashConfig", n_routed_experts=4, num_experts_per_tok=2),
        "different key and value heads",
    ),
}
