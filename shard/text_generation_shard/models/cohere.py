"""Command R (Cohere, 2024) and Command R7B and A, its successors ("Cohere 2").

Attention and MLP read the same normed stream and are added together. Norms have no bias; neighbours
turn with each other. Cohere 2 turns positions in layers with a sliding window only.
"""

from collections.abc import Sequence

from text_generation_shard.distributed import RankGroup
from text_generation_shard.layers.attention import SelfAttention
from text_generation_shard.layers.block import ParallelBlock
from text_generation_shard.layers.mlp import GatedMLP
from text_generation_shard.layers.norm import HeadLayerNorm, LayerNorm
from text_generation_shard.layers.partition import AttentionShape
from text_generation_shard.layers.qkv_layout import SeparateQKV
from text_generation_shard.layers.rotary import RotaryEmbedding
from text_generation_shard.models.cohere_config import CohereConfig
from text_generation_shard.models.decoder import (
    Decoder,
    attention_shape,
    cache_spec,
    output_head,
    token_embedding,
)
from text_generation_shard.weights.scope import WeightScope


def cohere_layer(
    config: CohereConfig,
    index: int,
    shape: AttentionShape,
    weights: WeightScope,
    ranks: RankGroup,
) -> ParallelBlock:
    """x + attention(norm(x)) + mlp(norm(x))."""
    attention = weights.scope("self_attn")
    return ParallelBlock(
        attention_norm=cohere_norm(config, weights.scope("input_layernorm")),
        attention=SelfAttention(
            attention,
            ranks,
            shape,
            layout=SeparateQKV(),
            output="o_proj",
            qkv_bias=config.attention_bias,
            output_bias=config.attention_bias,
            sliding_window=config.layer_windows[index],
            qk_norms=_qk_norms(config, shape, attention) if config.has_qk_norms else None,
        ),
        mlp=GatedMLP(
            weights.scope("mlp"),
            ranks,
            gate_up=("gate_proj", "up_proj"),
            down="down_proj",
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            activation=config.activation,
        ),
    )


def cohere_norm(config: CohereConfig, weights: WeightScope) -> LayerNorm:
    """Layer normalisation without bias."""
    return LayerNorm(weights, size=config.hidden_size, eps=config.layer_norm_eps, bias=False)


def _qk_norms(
    config: CohereConfig, shape: AttentionShape, weights: WeightScope
) -> tuple[HeadLayerNorm, HeadLayerNorm]:
    def norm(name: str, total_heads: int, heads: Sequence[int]) -> HeadLayerNorm:
        return HeadLayerNorm(
            weights.scope(name),
            total_heads=total_heads,
            heads=heads,
            head_dim=config.head_dim,
            eps=config.layer_norm_eps,
        )

    return (
        norm("q_norm", config.total_num_heads, shape.query_heads),
        norm("k_norm", config.total_num_kv_heads, shape.heads.kv_heads),
    )


def cohere(config: CohereConfig, weights: WeightScope, ranks: RankGroup) -> Decoder:
    """Embedding, layers, norm, scaled head."""
    body, shape = weights.body("model"), attention_shape(config, ranks)
    embedding = token_embedding(config, body.scope("embed_tokens"), ranks)
    assert config.rope is not None
    rotary = RotaryEmbedding(
        config.rope, dtype=weights.dtype, device=weights.device, interleaved=True
    )
    return Decoder(
        config,
        cache_spec(config, shape, weights),
        embed=lambda inputs: embedding(inputs.token_ids),
        layers=[
            cohere_layer(config, index, shape, body.scope(f"layers.{index}"), ranks)
            for index in range(config.num_layers)
        ],
        rotaries=[
            rotary if window or not config.is_rope_local else None
            for window in config.layer_windows
        ],
        norm=cohere_norm(config, body.scope("norm")),
        head=output_head(config, weights, ranks, embedding, scale=config.logits_scale),
    )
