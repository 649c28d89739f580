"""Llama 4 (Meta, 2025): chunked attention, layers without positions, one expert per token."""

from torch import Tensor

from text_generation_shard.distributed import RankGroup
from text_generation_shard.layers.attention import SelfAttention
from text_generation_shard.layers.block import FeedForward, SequentialBlock
from text_generation_shard.layers.mixture import ExpertRouter, MixtureOfExperts
from text_generation_shard.layers.mlp import GatedMLP
from text_generation_shard.layers.norm import RMSNorm, UnitNorm
from text_generation_shard.layers.partition import AttentionShape
from text_generation_shard.layers.qkv_layout import SeparateQKV
from text_generation_shard.layers.rotary import RotaryEmbedding
from text_generation_shard.layers.stacked_experts import Projection, stacked_experts
from text_generation_shard.models.decoder import (
    Decoder,
    attention_shape,
    cache_spec,
    output_head,
    token_embedding,
)
from text_generation_shard.models.llama import llama_layer
from text_generation_shard.models.llama4_config import Llama4TextConfig
from text_generation_shard.ops.route import RoutingRule
from text_generation_shard.weights.scope import WeightScope


def llama4_attention(
    config: Llama4TextConfig,
    index: int,
    shape: AttentionShape,
    weights: WeightScope,
    ranks: RankGroup,
) -> SelfAttention:
    """The attention of a layer; queries and keys are normed after they are turned, if they are."""
    is_rotary = config.is_rotary[index]
    norm = UnitNorm(weights, size=config.head_dim, eps=config.rms_norm_eps)
    return SelfAttention(
        weights,
        ranks,
        shape,
        layout=SeparateQKV(),
        output="o_proj",
        qkv_bias=config.qkv_bias,
        output_bias=config.output_bias,
        sliding_window=config.layer_windows[index],
        qk_norms=(norm, norm) if config.has_qk_norms and is_rotary else None,
        norms_turned=True,
        temperature=None if is_rotary else config.temperature,
    )


def llama4_mlp(
    config: Llama4TextConfig, size: int, weights: WeightScope, ranks: RankGroup, *, is_summed: bool
) -> GatedMLP:
    """A layer without experts, or the expert for all tokens."""
    return GatedMLP(
        weights,
        ranks,
        gate_up=("gate_proj", "up_proj"),
        down="down_proj",
        hidden_size=config.hidden_size,
        intermediate_size=size,
        activation=config.activation,
        is_summed=is_summed,
    )


def llama4_experts(
    config: Llama4TextConfig, weights: WeightScope, ranks: RankGroup
) -> MixtureOfExperts:
    """The experts of a layer.

    gate_up_proj: [num_experts, hidden, 2 * size], gates first; down_proj: [num_experts, size,
    hidden].
    """
    size, hidden, stacked = config.expert_size, config.hidden_size, weights.scope("experts")

    def read(projection: Projection, expert: int, share: range, destination: Tensor) -> None:
        is_down, experts = projection == "down", config.num_experts
        stacked.read_into(
            destination if is_down else destination.t(),
            "down_proj" if is_down else "gate_up_proj",
            shape=(experts, size, hidden) if is_down else (experts, hidden, 2 * size),
            dim=1 if is_down else 2,
            start=share.start + (size if projection == "up" else 0),
            index=expert,
        )

    return MixtureOfExperts(
        ranks,
        router=ExpertRouter(
            weights.scope("router").read("weight", (config.num_experts, hidden)),
            RoutingRule(scoring="sigmoid", experts_per_token=config.experts_per_token),
        ),
        experts=stacked_experts(
            weights,
            ranks,
            read,
            num_experts=config.num_experts,
            hidden_size=hidden,
            intermediate_size=size,
            activation=config.activation,
        ),
        shared=llama4_mlp(config, size, weights.scope("shared_expert"), ranks, is_summed=False),
        weighs_inputs=True,
    )


def llama4(config: Llama4TextConfig, weights: WeightScope, ranks: RankGroup) -> Decoder:
    """Embedding, layers, norm, head; in a model that also reads images, of its text part."""
    weights = weights.body("language_model")
    body, shape = weights.body("model"), attention_shape(config, ranks)
    embedding = token_embedding(config, body.scope("embed_tokens"), ranks)
    assert config.rope is not None
    rotary = RotaryEmbedding(
        config.rope, dtype=weights.dtype, device=weights.device, interleaved=True
    )

    def feed_forward(index: int, layer: WeightScope) -> FeedForward:
        if index in config.dense_layers:
            return llama4_mlp(config, config.intermediate_size, layer, ranks, is_summed=True)
        return llama4_experts(config, layer, ranks)

    def layer(index: int, own: WeightScope) -> SequentialBlock:
        attention = llama4_attention(config, index, shape, own.scope("self_attn"), ranks)
        mlp = feed_forward(index, own.scope("feed_forward"))
        return llama_layer(config, own, attention=attention, mlp=mlp)

    return Decoder(
        config,
        cache_spec(config, shape, weights),
        embed=lambda inputs: embedding(inputs.token_ids),
        layers=[layer(index, body.scope(f"layers.{index}")) for index in range(config.num_layers)],
        rotaries=[rotary if turns else None for turns in config.is_rotary],
        norm=RMSNorm(body.scope("norm"), size=config.hidden_size, eps=config.rms_norm_eps),
        head=output_head(config, weights, ranks, embedding),
    )
