"""DBRX (Databricks, 2024): a mixture of experts; queries, keys and values are clipped."""

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from text_generation_shard.distributed import RankGroup
from text_generation_shard.layers.attention import SelfAttention
from text_generation_shard.layers.block import SequentialBlock
from text_generation_shard.layers.mixture import MixtureOfExperts, SoftmaxRouter
from text_generation_shard.layers.partition import AttentionShape
from text_generation_shard.layers.qkv_layout import StackedQKV
from text_generation_shard.layers.stacked_experts import Projection, stacked_experts
from text_generation_shard.models.decoder import (
    Decoder,
    attention_shape,
    cache_spec,
    output_head,
    rotary_embedding,
    token_embedding,
)
from text_generation_shard.models.fields import Fields
from text_generation_shard.models.mixture_config import experts_per_token
from text_generation_shard.models.plain import PlainConfig, plain_norm
from text_generation_shard.models.rope_config import rotary_settings
from text_generation_shard.weights.scope import WeightScope

# The tensors of the projections of all experts.
_NAMES: dict[Projection, str] = {"gate": "w1", "up": "v1", "down": "w2"}


@dataclass(frozen=True, kw_only=True)
class DbrxConfig(PlainConfig):
    """DBRX."""

    RENAMED: ClassVar = {
        "hidden_size": "d_model",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "max_position_embeddings": "max_seq_len",
    }

    clip: float | None
    num_experts: int
    experts_per_token: int
    is_normalised: bool

    @classmethod
    def settings(cls, fields: Fields) -> dict[str, Any]:
        attention, experts = fields.section("attn_config"), fields.section("ffn_config")
        experts.refuse("moe_normalize_expert_weights", unless=1)
        fields.refuse("tie_word_embeddings", unless=False)
        # The published checkpoints have no num_key_value_heads of their own.
        heads = {"num_key_value_heads": attention.integer("kv_n_heads", 1)}
        common = super().settings(fields.with_defaults(**heads))
        rotary = rotary_settings(fields, head_dim=common["head_dim"])
        # The one that DBRX was trained with; transformers 5 ignores it.
        theta = attention.number("rope_theta", rotary["rope"].theta)
        num_experts = experts.integer("moe_num_experts", 4)
        return {
            **common,
            **rotary,
            "rope": dataclasses.replace(rotary["rope"], theta=theta),
            "intermediate_size": experts.integer("ffn_hidden_size", 3584),
            "activation": experts.section("ffn_act_fn").activation("name", "silu"),
            "clip": attention.optional_number("clip_qkv"),
            "num_experts": num_experts,
            "experts_per_token": experts_per_token(experts, "moe_top_k", num_experts, 1),
            # To a sum of 1; null: not at all.
            "is_normalised": not experts.is_null("moe_normalize_expert_weights"),
        }


def dbrx_experts(config: DbrxConfig, weights: WeightScope, ranks: RankGroup) -> MixtureOfExperts:
    """The experts of a layer; every tensor holds [num_experts * intermediate, hidden]."""
    size, stacked = config.intermediate_size, weights.scope("experts.mlp")

    def read(projection: Projection, expert: int, share: range, destination: Tensor) -> None:
        stacked.read_into(
            destination,
            _NAMES[projection],
            shape=(config.num_experts * size, config.hidden_size),
            start=expert * size + share.start,
        )

    return MixtureOfExperts(
        ranks,
        router=SoftmaxRouter(
            weights.scope("router.layer"),
            hidden_size=config.hidden_size,
            num_experts=config.num_experts,
            experts_per_token=config.experts_per_token,
            is_normalised=config.is_normalised,
        ),
        experts=stacked_experts(
            weights,
            ranks,
            read,
            num_experts=config.num_experts,
            hidden_size=config.hidden_size,
            intermediate_size=size,
            activation=config.activation,
        ),
    )


def dbrx_layer(
    config: DbrxConfig, shape: AttentionShape, weights: WeightScope, ranks: RankGroup
) -> SequentialBlock:
    """Attention and experts, each on the normed stream and added to it."""
    first = weights.scope("norm_attn_norm")
    return SequentialBlock(
        attention_norm=plain_norm(config, first.scope("norm_1"), bias=False),
        attention=SelfAttention(
            first.scope("attn"),
            ranks,
            shape,
            layout=StackedQKV("Wqkv"),
            output="out_proj",
            clip=config.clip,
        ),
        mlp_norm=plain_norm(config, first.scope("norm_2"), bias=False),
        mlp=dbrx_experts(config, weights.scope("ffn"), ranks),
    )


def dbrx(config: DbrxConfig, weights: WeightScope, ranks: RankGroup) -> Decoder:
    """Embedding, layers, norm, head."""
    body, shape = weights.body("transformer"), attention_shape(config, ranks)
    embedding = token_embedding(config, body.scope("wte"), ranks)
    return Decoder(
        config,
        cache_spec(config, shape, weights),
        embed=lambda inputs: embedding(inputs.token_ids),
        layers=[
            dbrx_layer(config, shape, body.scope(f"blocks.{index}"), ranks)
            for index in range(config.num_layers)
        ],
        rotaries=[rotary_embedding(config, weights)] * config.num_layers,
        norm=plain_norm(config, body.scope("norm_f"), bias=False),
        head=output_head(config, weights, ranks, embedding),
    )
