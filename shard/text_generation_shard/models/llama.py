"""Llama (Touvron et al., 2023), and models that differ from it in configuration only.

Those are: biases, normed queries and keys (Qwen 3), a checkpoint with fused layers (Phi-3), and
factors on the embedding, the branches, the scores and the logits (Granite).
"""

from collections.abc import Callable
from typing import Any

from text_generation_shard.distributed import RankGroup
from text_generation_shard.layers.attention import Attention, SelfAttention
from text_generation_shard.layers.block import FeedForward, SequentialBlock
from text_generation_shard.layers.mlp import GatedMLP, StackedGateUp
from text_generation_shard.layers.norm import RMSNorm
from text_generation_shard.layers.partition import AttentionShape
from text_generation_shard.layers.qkv_layout import SeparateQKV, StackedQKV
from text_generation_shard.models.decoder import (
    Decoder,
    attention_shape,
    cache_spec,
    output_head,
    rotary_embedding,
    token_embedding,
)
from text_generation_shard.models.llama_config import LlamaConfig
from text_generation_shard.weights.scope import WeightScope


def llama_attention(
    config: LlamaConfig,
    index: int,
    shape: AttentionShape,
    weights: WeightScope,
    ranks: RankGroup,
) -> SelfAttention:
    """The attention of a layer, under `weights`."""
    norms = None
    if config.has_qk_norms:
        size, eps = config.head_dim, config.rms_norm_eps
        query_norm, key_norm = (
            RMSNorm(weights.scope(name), size=size, eps=eps) for name in ("q_norm", "k_norm")
        )
        norms = query_norm, key_norm
    sinks = None
    if config.has_sinks:
        sinks = weights.read("sinks", (shape.total_num_heads,)).float()[list(shape.query_heads)]
    return SelfAttention(
        weights,
        ranks,
        shape,
        layout=StackedQKV("qkv_proj") if config.is_fused else SeparateQKV(),
        output="o_proj",
        qkv_bias=config.qkv_bias,
        output_bias=config.output_bias,
        scale=config.attention_scale,
        sliding_window=config.layer_windows[index],
        sinks=sinks,
        qk_norms=norms,
    )


def llama_mlp(
    config: LlamaConfig, _index: int, weights: WeightScope, ranks: RankGroup
) -> FeedForward:
    """The MLP of a layer, the same for all; `weights` are the layer's."""
    return GatedMLP(
        weights.scope("mlp"),
        ranks,
        gate_up=StackedGateUp("gate_up_proj") if config.is_fused else ("gate_proj", "up_proj"),
        down="down_proj",
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        bias=config.mlp_bias,
        activation=config.activation,
    )


def llama_layer(
    config: LlamaConfig, weights: WeightScope, *, attention: Attention, mlp: FeedForward
) -> SequentialBlock:
    """A layer of these two halves, under `weights`."""
    size, eps = config.hidden_size, config.rms_norm_eps
    return SequentialBlock(
        attention_norm=RMSNorm(weights.scope("input_layernorm"), size=size, eps=eps),
        attention=attention,
        mlp_norm=RMSNorm(weights.scope("post_attention_layernorm"), size=size, eps=eps),
        mlp=mlp,
        scale=config.residual_scale,
    )


def llama(
    config: LlamaConfig,
    weights: WeightScope,
    ranks: RankGroup,
    *,
    make_mlp: Callable[[Any, int, WeightScope, RankGroup], FeedForward] = llama_mlp,
) -> Decoder:
    """Embedding, layers, norm, head."""
    body, shape = weights.body("model"), attention_shape(config, ranks)
    embedding = token_embedding(config, body.scope("embed_tokens"), ranks)
    layers = []
    for index in range(config.num_layers):
        layer = body.scope(f"layers.{index}")
        attention = llama_attention(config, index, shape, layer.scope("self_attn"), ranks)
        mlp = make_mlp(config, index, layer, ranks)
        layers.append(llama_layer(config, layer, attention=attention, mlp=mlp))
    scale = config.embedding_scale
    return Decoder(
        config,
        cache_spec(config, shape, weights),
        embed=lambda inputs: embedding(inputs.token_ids, scale=scale),
        layers=layers,
        rotaries=[rotary_embedding(config, weights)] * config.num_layers,
        norm=RMSNorm(body.scope("norm"), size=config.hidden_size, eps=config.rms_norm_eps),
        head=output_head(config, weights, ranks, embedding, scale=config.logits_scale),
    )
