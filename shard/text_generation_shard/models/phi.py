"""Phi-1, Phi-1.5 and Phi-2 (Li et al., 2023): both halves read one norm, half of a head turns."""

from dataclasses import dataclass
from typing import Any

from text_generation_shard.distributed import RankGroup
from text_generation_shard.layers.attention import SelfAttention
from text_generation_shard.layers.block import ParallelBlock
from text_generation_shard.layers.norm import LayerNorm
from text_generation_shard.layers.partition import AttentionShape
from text_generation_shard.layers.qkv_layout import SeparateQKV
from text_generation_shard.models.decoder import (
    Decoder,
    attention_shape,
    cache_spec,
    output_head,
    rotary_embedding,
    token_embedding,
)
from text_generation_shard.models.fields import Fields
from text_generation_shard.models.plain import PlainConfig, plain_mlp, plain_norm
from text_generation_shard.models.rope_config import rotary_settings
from text_generation_shard.weights.scope import WeightScope


@dataclass(frozen=True, kw_only=True)
class PhiConfig(PlainConfig):
    """Phi."""

    has_qk_norms: bool

    @classmethod
    def settings(cls, fields: Fields) -> dict[str, Any]:
        common = super().settings(fields)
        return {
            **common,
            **rotary_settings(fields, head_dim=common["head_dim"], fraction=0.5),
            "activation": fields.activation("hidden_act", "gelu_new"),
            "has_qk_norms": fields.boolean("qk_layernorm", default=False),
        }


def phi_layer(
    config: PhiConfig, shape: AttentionShape, weights: WeightScope, ranks: RankGroup
) -> ParallelBlock:
    """x + attention(norm(x)) + mlp(norm(x))."""
    attention, norms = weights.scope("self_attn"), None
    if config.has_qk_norms:
        size, eps = config.head_dim, config.layer_norm_eps
        norms = (
            LayerNorm(attention.scope("q_layernorm"), size=size, eps=eps),
            LayerNorm(attention.scope("k_layernorm"), size=size, eps=eps),
        )
    return ParallelBlock(
        attention_norm=plain_norm(config, weights.scope("input_layernorm")),
        attention=SelfAttention(
            attention,
            ranks,
            shape,
            layout=SeparateQKV(),
            output="dense",
            qkv_bias=True,
            output_bias=True,
            qk_norms=norms,
        ),
        mlp=plain_mlp(config, weights.scope("mlp"), ranks, ("fc1", "fc2")),
    )


def phi(config: PhiConfig, weights: WeightScope, ranks: RankGroup) -> Decoder:
    """Embedding, layers, norm, head with a bias."""
    body, shape = weights.body("model"), attention_shape(config, ranks)
    embedding = token_embedding(config, body.scope("embed_tokens"), ranks)
    return Decoder(
        config,
        cache_spec(config, shape, weights),
        embed=lambda inputs: embedding(inputs.token_ids),
        layers=[
            phi_layer(config, shape, body.scope(f"layers.{index}"), ranks)
            for index in range(config.num_layers)
        ],
        rotaries=[rotary_embedding(config, weights)] * config.num_layers,
        norm=plain_norm(config, body.scope("final_layernorm")),
        head=output_head(config, weights, ranks, embedding, bias=True),
    )
