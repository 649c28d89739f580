"""What the engine needs of a model."""

from typing import Protocol

from torch import Tensor

from text_generation_shard.batch.model_inputs import ModelInputs
from text_generation_shard.kv_cache import KVCache, KVCacheSpec
from text_generation_shard.models.config import ModelConfig


class Model(Protocol):
    """One rank's part of a decoder. All ranks call it alike."""

    @property
    def config(self) -> ModelConfig:
        """What the model is."""

    @property
    def cache_spec(self) -> KVCacheSpec:
        """What its layers keep per token."""

    def forward(self, inputs: ModelInputs, cache: KVCache) -> Tensor:
        """Hidden states after the last layer: [tokens, hidden]. Fills the cache."""

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden: [rows, hidden]. Float32 [rows, part]: the rank's part of the vocabulary."""
