"""Phi-3.5-MoE (Abdin et al., 2024): layer norms, and SparseMixer's choice of two experts."""

from dataclasses import dataclass
from typing import Any

from text_generation_shard.distributed import RankGroup
from text_generation_shard.layers.block import SequentialBlock
from text_generation_shard.layers.mixture import ExpertRouter
from text_generation_shard.layers.norm import LayerNorm
from text_generation_shard.layers.partition import AttentionShape
from text_generation_shard.models.config import read_layer_windows
from text_generation_shard.models.decoder import (
    Decoder,
    attention_shape,
    cache_spec,
    output_head,
    rotary_embedding,
    token_embedding,
)
from text_generation_shard.models.fields import Fields
from text_generation_shard.models.llama import llama_attention
from text_generation_shard.models.mixtral import mixture
from text_generation_shard.models.mixture_config import ExpertNames, MixtureConfig
from text_generation_shard.ops.route import NEAR, RoutingRule
from text_generation_shard.weights.scope import WeightScope


@dataclass(frozen=True, kw_only=True)
class PhiMoeConfig(MixtureConfig):
    """Phi-3.5-MoE."""

    head_bias: bool

    @classmethod
    def settings(cls, fields: Fields) -> dict[str, Any]:
        fields.refuse("num_experts_per_tok", unless=2)
        fields.refuse("router_jitter_noise", unless=NEAR / 2)
        common = super().settings(fields)
        return {
            **common,
            "rms_norm_eps": fields.number("rms_norm_eps", 1e-5),
            "layer_windows": read_layer_windows(fields, common["num_layers"]),
            "names": ExpertNames(block="block_sparse_moe", gate_up=("w1", "w3"), down="w2"),
            "expert_size": fields.integer("intermediate_size"),
            "head_bias": fields.boolean("lm_head_bias", default=False),
        }


class SparseMixer(ExpertRouter):
    """Two experts, each weighed by its probability among those with nearly its score."""

    def __init__(
        self, weights: WeightScope, *, hidden_size: int, num_experts: int, **_: object
    ) -> None:
        rule = RoutingRule(scoring="sparse_mixer", experts_per_token=2)
        super().__init__(weights.read("weight", (num_experts, hidden_size)), rule)


def phimoe_layer(
    config: PhiMoeConfig,
    index: int,
    shape: AttentionShape,
    weights: WeightScope,
    ranks: RankGroup,
) -> SequentialBlock:
    """Attention and experts, each on the normed stream and added to it."""
    return SequentialBlock(
        attention_norm=phimoe_norm(config, weights.scope("input_layernorm")),
        attention=llama_attention(config, index, shape, weights.scope("self_attn"), ranks),
        mlp_norm=phimoe_norm(config, weights.scope("post_attention_layernorm")),
        mlp=mixture(config, index, weights, ranks, router=SparseMixer),
    )


def phimoe_norm(config: PhiMoeConfig, weights: WeightScope) -> LayerNorm:
    """Layer normalisation of the stream."""
    return LayerNorm(weights, size=config.hidden_size, eps=config.rms_norm_eps)


def phimoe(config: PhiMoeConfig, weights: WeightScope, ranks: RankGroup) -> Decoder:
    """Embedding, layers, norm, head."""
    body, shape = weights.body("model"), attention_shape(config, ranks)
    embedding = token_embedding(config, body.scope("embed_tokens"), ranks)
    return Decoder(
        config,
        cache_spec(config, shape, weights),
        embed=lambda inputs: embedding(inputs.token_ids),
        layers=[
            phimoe_layer(config, index, shape, body.scope(f"layers.{index}"), ranks)
            for index in range(config.num_layers)
        ],
        rotaries=[rotary_embedding(config, weights)] * config.num_layers,
        norm=phimoe_norm(config, body.scope("norm")),
        head=output_head(config, weights, ranks, embedding, bias=config.head_bias),
    )
