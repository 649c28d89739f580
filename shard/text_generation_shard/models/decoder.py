"""What all families here are: an embedding, layers, a norm and a head. Families say of what."""

from collections.abc import Callable, Sequence
from typing import Protocol

from torch import Tensor

from text_generation_shard.batch.model_inputs import ModelInputs
from text_generation_shard.distributed import RankGroup
from text_generation_shard.kv_cache import KVCache, KVCacheSpec, LayerCache
from text_generation_shard.layers.embedding import ParallelHead, VocabParallelEmbedding
from text_generation_shard.layers.partition import AttentionShape, HeadPartition
from text_generation_shard.layers.rotary import RotaryEmbedding
from text_generation_shard.models.config import ModelConfig
from text_generation_shard.ops.rotary import Rotation
from text_generation_shard.weights.scope import WeightScope


class Layer(Protocol):
    """One layer of a decoder."""

    def __call__(
        self, x: Tensor, rotation: Rotation | None, inputs: ModelInputs, cache: LayerCache
    ) -> Tensor:
        """x: [tokens, hidden]. Returns the same shape."""


class Decoder:
    """One rank's part of a decoder; see `models.model.Model`."""

    def __init__(
        self,
        config: ModelConfig,
        cache_spec: KVCacheSpec,
        *,
        embed: Callable[[ModelInputs], Tensor],
        layers: Sequence[Layer],
        norm: Callable[[Tensor], Tensor],
        head: ParallelHead,
        rotaries: Sequence[RotaryEmbedding | None] = (),
    ) -> None:
        """rotaries: what turns the positions of each layer; empty: no layer turns them."""
        self.config = config
        self.cache_spec = cache_spec
        self._embed = embed
        self._layers = layers
        self._norm = norm
        self._head = head
        self._rotaries = rotaries or [None] * len(layers)

    def forward(self, inputs: ModelInputs, cache: KVCache) -> Tensor:
        """Hidden states after the last layer: [tokens, hidden]."""
        x = self._embed(inputs)
        rotations: dict[RotaryEmbedding | None, Rotation | None] = {None: None}
        rotations |= {rotary: rotary(inputs) for rotary in set(self._rotaries) if rotary}
        for layer, rotary, layer_cache in zip(
            self._layers, self._rotaries, cache.layers, strict=True
        ):
            x = layer(x, rotations[rotary], inputs, layer_cache)
        return x

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden: [rows, hidden]. Float32 [rows, part]: the rank's part of the vocabulary."""
        return self._head(self._norm(hidden))


def attention_shape(config: ModelConfig, ranks: RankGroup) -> AttentionShape:
    """The heads of a rank; CapacityError if they cannot be cut evenly."""
    heads = HeadPartition.of_rank(
        ranks.rank,
        ranks.world_size,
        total_num_heads=config.total_num_heads,
        total_num_kv_heads=config.total_num_kv_heads,
    )
    return AttentionShape(
        heads=heads,
        total_num_heads=config.total_num_heads,
        total_num_kv_heads=config.total_num_kv_heads,
        head_dim=config.head_dim,
        hidden_size=config.hidden_size,
    )


def cache_spec(
    config: ModelConfig,
    shape: AttentionShape,
    weights: WeightScope,
    *,
    latent_dim: int | None = None,
) -> KVCacheSpec:
    """Keys and values of every layer, for the heads of a rank."""
    return KVCacheSpec(
        num_layers=config.num_layers,
        num_kv_heads=shape.heads.num_kv_heads,
        head_dim=config.head_dim,
        dtype=weights.dtype,
        device=weights.device,
        latent_dim=latent_dim,
        # Latent vectors have no scales.
        cache_dtype=weights.cache_dtype if latent_dim is None else weights.unscaled_cache_dtype,
    )


def token_embedding(
    config: ModelConfig, weights: WeightScope, ranks: RankGroup, *, size: int | None = None
) -> VocabParallelEmbedding:
    """The table of the tokens, or an untied head's, under `weights`; size: if not hidden_size."""
    size = config.hidden_size if size is None else size
    return VocabParallelEmbedding(weights, ranks, vocab_size=config.vocab_size, hidden_size=size)


def rotary_embedding(config: ModelConfig, weights: WeightScope) -> RotaryEmbedding:
    """The model's only one, which turns dimension i with i + rotary_dim / 2."""
    assert config.rope is not None
    return RotaryEmbedding(config.rope, dtype=weights.dtype, device=weights.device)


def output_head(
    config: ModelConfig,
    weights: WeightScope,
    ranks: RankGroup,
    embedding: VocabParallelEmbedding,
    *,
    name: str = "lm_head",
    size: int | None = None,
    bias: bool = False,
    scale: float = 1.0,
    soft_cap: float | None = None,
) -> ParallelHead:
    """The head of the module `name`, or the embedding's table where they are tied."""
    own = weights.scope(name)
    table = embedding
    if not config.tie_word_embeddings:
        table = token_embedding(config, own, ranks, size=size)
    return ParallelHead(
        table,
        ranks,
        vocab_size=config.vocab_size,
        bias=own.read("bias", (config.vocab_size,)) if bias else None,
        scale=scale,
        soft_cap=soft_cap,
    )
