"""How the two halves of a layer are joined to the stream."""

from collections.abc import Callable

from torch import Tensor

from text_generation_shard.batch.model_inputs import ModelInputs
from text_generation_shard.kv_cache import LayerCache
from text_generation_shard.layers.attention import SelfAttention
from text_generation_shard.layers.mixture import MixtureOfExperts
from text_generation_shard.layers.mlp import MLP, GatedMLP
from text_generation_shard.layers.norm import Norm
from text_generation_shard.layers.rotary import Rotation

# [tokens, hidden] to the same
Transform = Callable[[Tensor], Tensor]


class SequentialBlock:
    """x + attention(norm(x)), then x + mlp(norm(x)) (GPT-2 and most after it)."""

    def __init__(
        self,
        *,
        attention_norm: Transform,
        attention: SelfAttention,
        mlp_norm: Transform,
        mlp: Transform,
    ) -> None:
        self._attention_norm = attention_norm
        self._attention = attention
        self._mlp_norm = mlp_norm
        self._mlp = mlp

    def __call__(
        self, x: Tensor, rotation: Rotation | None, inputs: ModelInputs, cache: LayerCache
    ) -> Tensor:
        """x: [tokens, hidden]. Returns the same shape."""
        x = self._attention.add_to(x, self._attention_norm, rotation, inputs, cache)
        return add_mlp(x, self._mlp_norm, self._mlp)


def add_mlp(stream: Tensor, norm: Norm, mlp: Transform) -> Tensor:
    """stream + mlp(norm(stream)), which may overwrite it. stream: [tokens, hidden]."""
    if isinstance(mlp, GatedMLP | MLP | MixtureOfExperts):
        return mlp.add_to(stream, norm)
    return stream + mlp(norm(stream))


class ParallelBlock:
    """x + attention(norm(x)) + mlp(norm(x)), with one norm or two (GPT-J and its relatives)."""

    def __init__(
        self,
        *,
        attention_norm: Transform,
        attention: SelfAttention,
        mlp: Transform,
        mlp_norm: Transform | None = None,
    ) -> None:
        """mlp_norm: None where both halves read the same."""
        self._attention_norm = attention_norm
        self._attention = attention
        self._mlp_norm = mlp_norm
        self._mlp = mlp

    def __call__(
        self, x: Tensor, rotation: Rotation | None, inputs: ModelInputs, cache: LayerCache
    ) -> Tensor:
        """x: [tokens, hidden]. Returns the same shape."""
        normed = self._attention_norm(x)
        for_mlp = normed if self._mlp_norm is None else self._mlp_norm(x)
        return x + self._attention(normed, rotation, inputs, cache) + self._mlp(for_mlp)


class PostNormBlock:
    """norm(x + attention(x)), then norm(x + mlp(x)): the first transformers (OPT-350M)."""

    def __init__(
        self,
        *,
        attention_norm: Transform,
        attention: SelfAttention,
        mlp_norm: Transform,
        mlp: Transform,
    ) -> None:
        self._attention_norm = attention_norm
        self._attention = attention
        self._mlp_norm = mlp_norm
        self._mlp = mlp

    def __call__(
        self, x: Tensor, rotation: Rotation | None, inputs: ModelInputs, cache: LayerCache
    ) -> Tensor:
        """x: [tokens, hidden]. Returns the same shape."""
        x = self._attention_norm(x + self._attention(x, rotation, inputs, cache))
        return self._mlp_norm(x + self._mlp(x))
