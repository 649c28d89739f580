"""Llama (Touvron et al., 2023) and models that differ from it in configuration only."""

from torch import Tensor

from text_generation_shard.batch.model_inputs import ModelInputs
from text_generation_shard.distributed import RankGroup
from text_generation_shard.kv_cache import KVCache, KVCacheSpec, LayerCache
from text_generation_shard.layers.attention import RotaryAttention
from text_generation_shard.layers.embedding import ParallelHead, VocabParallelEmbedding
from text_generation_shard.layers.linear import (
    ColumnParallelLinear,
    RowParallelLinear,
    qkv_parts,
)
from text_generation_shard.layers.mlp import GatedMLP
from text_generation_shard.layers.norm import RMSNorm
from text_generation_shard.layers.partition import HeadPartition
from text_generation_shard.layers.rotary import RotaryEmbedding, Rotation
from text_generation_shard.models.config import ModelConfig
from text_generation_shard.weights.reader import WeightScope

# Modules of the checkpoint that are fused into one product.
QKV = ("q_proj", "k_proj", "v_proj")
GATE_UP = ("gate_proj", "up_proj")


class LlamaAttention:
    """Self-attention: project, turn by position, attend, project back."""

    def __init__(
        self, config: ModelConfig, heads: HeadPartition, weights: WeightScope, ranks: RankGroup
    ) -> None:
        total_heads = (config.total_num_heads, config.total_num_kv_heads)
        first, size = heads.first_head * config.head_dim, heads.num_heads * config.head_dim
        self.qkv_proj = ColumnParallelLinear(
            weights,
            qkv_parts(QKV, heads, total_heads=total_heads, head_dim=config.head_dim),
            num_inputs=config.hidden_size,
            bias=config.attention_bias,
        )
        self.attention = RotaryAttention(heads, head_dim=config.head_dim)
        self.o_proj = RowParallelLinear(
            weights.scope("o_proj"),
            ranks,
            inputs=range(first, first + size),
            total_inputs=config.total_num_heads * config.head_dim,
            num_outputs=config.hidden_size,
            bias=config.attention_bias,
        )

    def __call__(
        self, x: Tensor, rotation: Rotation, inputs: ModelInputs, cache: LayerCache
    ) -> Tensor:
        """x: [tokens, hidden]. Returns the same shape."""
        return self.o_proj(self.attention(self.qkv_proj(x), rotation, inputs, cache))


class LlamaLayer:
    """Attention and MLP, each on the normed stream and added to it."""

    def __init__(
        self, config: ModelConfig, heads: HeadPartition, weights: WeightScope, ranks: RankGroup
    ) -> None:
        size, eps = config.hidden_size, config.rms_norm_eps
        self.input_norm = RMSNorm(weights.scope("input_layernorm"), size=size, eps=eps)
        self.attention = LlamaAttention(config, heads, weights.scope("self_attn"), ranks)
        self.mlp_norm = RMSNorm(weights.scope("post_attention_layernorm"), size=size, eps=eps)
        self.mlp = GatedMLP(
            weights.scope("mlp"),
            ranks,
            gate_up=GATE_UP,
            down="down_proj",
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            bias=config.mlp_bias,
        )

    def __call__(
        self, x: Tensor, rotation: Rotation, inputs: ModelInputs, cache: LayerCache
    ) -> Tensor:
        """x: [tokens, hidden]. Returns the same shape."""
        x = x + self.attention(self.input_norm(x), rotation, inputs, cache)
        return x + self.mlp(self.mlp_norm(x))


class Llama:
    """Embedding, layers, norm, head."""

    def __init__(self, config: ModelConfig, weights: WeightScope, ranks: RankGroup) -> None:
        self.config = config
        vocab_size, hidden_size = config.vocab_size, config.hidden_size
        heads = HeadPartition.of_rank(
            ranks.rank,
            ranks.world_size,
            total_num_heads=config.total_num_heads,
            total_num_kv_heads=config.total_num_kv_heads,
        )
        self.cache_spec = KVCacheSpec(
            num_layers=config.num_layers,
            num_kv_heads=heads.num_kv_heads,
            head_dim=config.head_dim,
            dtype=weights.dtype,
            device=weights.device,
        )
        body = weights.scope("model")
        self.embedding = VocabParallelEmbedding(
            body.scope("embed_tokens"), ranks, vocab_size=vocab_size, hidden_size=hidden_size
        )
        self.rotary = RotaryEmbedding(
            config.rope, head_dim=config.head_dim, dtype=weights.dtype, device=weights.device
        )
        layers = body.scope("layers")
        self.layers = [
            LlamaLayer(config, heads, layers.scope(str(index)), ranks)
            for index in range(config.num_layers)
        ]
        self.norm = RMSNorm(body.scope("norm"), size=hidden_size, eps=config.rms_norm_eps)
        table = self.embedding
        if not config.tie_word_embeddings:
            table = VocabParallelEmbedding(
                weights.scope("lm_head"), ranks, vocab_size=vocab_size, hidden_size=hidden_size
            )
        self.head = ParallelHead(table, ranks, vocab_size=vocab_size)

    def forward(self, inputs: ModelInputs, cache: KVCache) -> Tensor:
        """Hidden states after the last layer: [tokens, hidden]."""
        x = self.embedding(inputs.token_ids)
        rotation = self.rotary(inputs.positions)
        for layer, layer_cache in zip(self.layers, cache.layers, strict=True):
            x = layer(x, rotation, inputs, layer_cache)
        return x

    def logits(self, hidden: Tensor) -> Tensor | None:
        """hidden: [rows, hidden]. Float32 [rows, vocab] on rank 0, None on the other ranks."""
        return self.head(self.norm(hidden))
