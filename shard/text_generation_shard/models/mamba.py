"""Mamba (Gu and Dao, 2023) and Falcon Mamba: state spaces instead of attention."""

from torch import Tensor

from text_generation_shard.batch.model_inputs import ModelInputs
from text_generation_shard.distributed import RankGroup
from text_generation_shard.kv_cache import KVCache, KVCacheSpec
from text_generation_shard.layers.norm import RMSNorm
from text_generation_shard.layers.state_space import SelectiveStateSpace
from text_generation_shard.models.decoder import output_head, token_embedding
from text_generation_shard.models.mamba_config import MambaConfig
from text_generation_shard.recurrent_state import LayerState, RecurrentSpec
from text_generation_shard.weights.scope import WeightScope


class MambaLayer:
    """x + state space(norm(x)); the stream x may be wider than what is computed."""

    def __init__(self, config: MambaConfig, weights: WeightScope, ranks: RankGroup) -> None:
        self._norm = RMSNorm(weights.scope("norm"), size=config.hidden_size, eps=config.norm_eps)
        self._mixer = SelectiveStateSpace(
            weights.scope("mixer"),
            ranks,
            config.shape,
            bias=config.bias,
            conv_bias=config.conv_bias,
            norm_eps=config.inner_norm_eps,
        )
        self._dtype = weights.dtype

    def __call__(self, x: Tensor, inputs: ModelInputs, state: LayerState) -> Tensor:
        """x: [tokens, hidden]. Returns the same shape and dtype."""
        normed = self._norm(x.to(self._dtype))
        if x.dtype is not self._dtype:
            return x + self._mixer(normed, inputs.sequences, state)
        return self._mixer(normed, inputs.sequences, state, addend=x)


class Mamba:
    """One rank's part of a Mamba; see `models.model.Model`."""

    def __init__(self, config: MambaConfig, weights: WeightScope, ranks: RankGroup) -> None:
        body = weights.body("backbone")
        # Checkpoints from before the conversion to transformers call it otherwise.
        name = "embedding" if "embedding.weight" in body else "embeddings"
        self.config = config
        self.cache_spec = _cache_spec(config, weights, ranks)
        self._dtype = weights.dtype
        self._embed = token_embedding(config, body.scope(name), ranks)
        self._layers = [
            MambaLayer(config, body.scope(f"layers.{index}"), ranks)
            for index in range(config.num_layers)
        ]
        self._norm = RMSNorm(body.scope("norm_f"), size=config.hidden_size, eps=config.norm_eps)
        self._head = output_head(config, weights, ranks, self._embed)

    def forward(self, inputs: ModelInputs, cache: KVCache) -> Tensor:
        """Hidden states after the last layer: [tokens, hidden]."""
        assert cache.states is not None
        if len(inputs.sequences.new_slots):
            cache.states.clear(inputs.sequences.new_slots)
        x = self._embed(inputs.token_ids)
        if self.config.residual_in_fp32:
            x = x.float()
        for layer, state in zip(self._layers, cache.states.layers, strict=True):
            x = layer(x, inputs, state)
        return x

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden: [rows, hidden]. Float32 [rows, part]: the rank's part of the vocabulary."""
        return self._head(self._norm(hidden.to(self._dtype)))


def _cache_spec(config: MambaConfig, weights: WeightScope, ranks: RankGroup) -> KVCacheSpec:
    """No keys and values; a state in every slot."""
    return KVCacheSpec(
        num_layers=0,
        num_kv_heads=0,
        head_dim=0,
        dtype=weights.dtype,
        device=weights.device,
        cache_dtype=weights.unscaled_cache_dtype,
        recurrent=RecurrentSpec(
            num_layers=config.num_layers,
            num_channels=len(config.shape.channels(ranks)),
            num_past_inputs=config.shape.kernel - 1,
            state_size=config.shape.state_size,
            dtype=weights.dtype,
        ),
    )
