"""Gemma 1, 2 and 3 (Gemma Team, 2024 and 2025), the text models.

The embedding is scaled, norms weigh by 1 + w. From Gemma 2 on every branch is normed before and
after, and layers with a sliding window alternate with others; Gemma 2 caps scores and logits, Gemma
3 norms queries and keys and turns positions of its windowed layers faster.
"""

import torch
from torch import Tensor

from text_generation_shard.batch.model_inputs import ModelInputs
from text_generation_shard.distributed import RankGroup
from text_generation_shard.kv_cache import LayerCache
from text_generation_shard.layers.attention import SelfAttention
from text_generation_shard.layers.mlp import GatedMLP
from text_generation_shard.layers.norm import RMSNorm
from text_generation_shard.layers.partition import AttentionShape
from text_generation_shard.layers.qkv_layout import SeparateQKV
from text_generation_shard.layers.rotary import RotaryEmbedding
from text_generation_shard.models.decoder import (
    Decoder,
    attention_shape,
    cache_spec,
    output_head,
    rotary_embedding,
    token_embedding,
)
from text_generation_shard.models.gemma_config import GemmaConfig
from text_generation_shard.ops.rotary import Rotation
from text_generation_shard.weights.scope import WeightScope


class GemmaLayer:
    """Attention and MLP, each on the normed stream and added to it."""

    def __init__(
        self,
        config: GemmaConfig,
        index: int,
        shape: AttentionShape,
        weights: WeightScope,
        ranks: RankGroup,
    ) -> None:
        self.attention_norm = gemma_norm(config, weights.scope("input_layernorm"))
        self.attention = gemma_attention(config, index, shape, weights.scope("self_attn"), ranks)
        self.post_attention_norm = self.post_mlp_norm = None
        mlp_norm = post = weights.scope("post_attention_layernorm")
        if config.has_post_norms:
            mlp_norm = weights.scope("pre_feedforward_layernorm")
            self.post_attention_norm = gemma_norm(config, post)
            self.post_mlp_norm = gemma_norm(config, weights.scope("post_feedforward_layernorm"))
        self.mlp_norm = gemma_norm(config, mlp_norm)
        self.mlp = GatedMLP(
            weights.scope("mlp"),
            ranks,
            gate_up=("gate_proj", "up_proj"),
            down="down_proj",
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            activation=config.activation,
        )

    def __call__(
        self, x: Tensor, rotation: Rotation | None, inputs: ModelInputs, cache: LayerCache
    ) -> Tensor:
        """x: [tokens, hidden]. Returns the same shape."""
        norm = self.attention_norm
        if self.post_attention_norm is None or self.post_mlp_norm is None:
            x = self.attention(x, rotation, inputs, cache, norm=norm, addend=x)
            return self.mlp(x, addend=x, norm=self.mlp_norm)
        attended = self.attention(x, rotation, inputs, cache, norm=norm)
        x = self.post_attention_norm(attended, addend=x)
        return self.post_mlp_norm(self.mlp(x, norm=self.mlp_norm), addend=x)


def gemma_norm(config: GemmaConfig, weights: WeightScope, size: int | None = None) -> RMSNorm:
    """x / rms(x) * (1 + w)."""
    return RMSNorm(weights, size=size or config.hidden_size, eps=config.rms_norm_eps, offset=1.0)


def gemma_attention(
    config: GemmaConfig,
    index: int,
    shape: AttentionShape,
    weights: WeightScope,
    ranks: RankGroup,
) -> SelfAttention:
    """The attention of layer `index`."""
    norms = None
    if config.has_qk_norms:
        size = config.head_dim
        norms = (
            gemma_norm(config, weights.scope("q_norm"), size),
            gemma_norm(config, weights.scope("k_norm"), size),
        )
    return SelfAttention(
        weights,
        ranks,
        shape,
        layout=SeparateQKV(),
        output="o_proj",
        qkv_bias=config.attention_bias,
        output_bias=config.attention_bias,
        scale=config.attention_scale,
        soft_cap=config.attention_soft_cap,
        sliding_window=config.layer_windows[index],
        qk_norms=norms,
    )


def gemma(config: GemmaConfig, weights: WeightScope, ranks: RankGroup) -> Decoder:
    """Scaled embedding, layers, norm, head."""
    body, shape = weights.body("model"), attention_shape(config, ranks)
    embedding = token_embedding(config, body.scope("embed_tokens"), ranks)
    # Rounded to the type of the weights, as it was in training.
    scale = float(torch.tensor(config.hidden_size**0.5, dtype=weights.dtype))
    rotary = local = rotary_embedding(config, weights)
    if config.local_rope is not None:
        local = RotaryEmbedding(config.local_rope, dtype=weights.dtype, device=weights.device)
    return Decoder(
        config,
        cache_spec(config, shape, weights),
        embed=lambda inputs: embedding(inputs.token_ids, scale=scale),
        layers=[
            GemmaLayer(config, index, shape, body.scope(f"layers.{index}"), ranks)
            for index in range(config.num_layers)
        ],
        rotaries=[local if window else rotary for window in config.layer_windows],
        norm=gemma_norm(config, body.scope("norm")),
        head=output_head(config, weights, ranks, embedding, soft_cap=config.logits_soft_cap),
    )
