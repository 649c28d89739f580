"""How the two halves of a layer are joined to the stream."""

from typing import Protocol

from torch import Tensor

from text_generation_shard.batch.model_inputs import ModelInputs
from text_generation_shard.kv_cache import LayerCache
from text_generation_shard.layers.attention import Attention, SelfAttention
from text_generation_shard.layers.norm import Norm
from text_generation_shard.ops.add import add_scaled
from text_generation_shard.ops.rotary import Rotation


class FeedForward(Protocol):
    """What a layer does with each token alone: an MLP, or a mixture of them."""

    def __call__(self, x: Tensor, addend: Tensor | None = None, norm: Norm | None = None) -> Tensor:
        """addend + self(norm(x)), which may overwrite the addend; norm None reads x as it is.

        x, addend: [tokens, hidden], the same tensor or two. Returns x's shape.
        """


class SequentialBlock:
    """x + scale * attention(norm(x)), then x + scale * mlp(norm(x)) (GPT-2 and most after it)."""

    def __init__(
        self,
        *,
        attention_norm: Norm,
        attention: Attention,
        mlp_norm: Norm,
        mlp: FeedForward,
        scale: float = 1.0,
    ) -> None:
        self._attention_norm = attention_norm
        self._attention = attention
        self._mlp_norm = mlp_norm
        self._mlp = mlp
        self._scale = scale

    def __call__(
        self, x: Tensor, rotation: Rotation | None, inputs: ModelInputs, cache: LayerCache
    ) -> Tensor:
        """x: [tokens, hidden]. Returns the same shape."""
        scale = self._scale
        if scale == 1 and self._attention.is_whole:
            x = self._attention(x, rotation, inputs, cache, norm=self._attention_norm, addend=x)
            return self._mlp(x, addend=x, norm=self._mlp_norm)
        attended = self._attention(x, rotation, inputs, cache, norm=self._attention_norm)
        normed = self._mlp_norm.after_adding(x, attended, scale=scale)
        return (
            self._mlp(normed, addend=x) if scale == 1 else add_scaled(x, self._mlp(normed), scale)
        )


class ParallelBlock:
    """x + attention(norm(x)) + mlp(norm(x)), with one norm or two (GPT-J and its relatives)."""

    def __init__(
        self,
        *,
        attention_norm: Norm,
        attention: SelfAttention,
        mlp: FeedForward,
        mlp_norm: Norm | None = None,
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
        x = self._attention(normed, rotation, inputs, cache, addend=x)
        return self._mlp(for_mlp, addend=x)


class PostNormBlock:
    """norm(x + attention(x)), then norm(x + mlp(x)): the first transformers (OPT-350M)."""

    def __init__(
        self,
        *,
        attention_norm: Norm,
        attention: SelfAttention,
        mlp_norm: Norm,
        mlp: FeedForward,
    ) -> None:
        self._attention_norm = attention_norm
        self._attention = attention
        self._mlp_norm = mlp_norm
        self._mlp = mlp

    def __call__(
        self, x: Tensor, rotation: Rotation | None, inputs: ModelInputs, cache: LayerCache
    ) -> Tensor:
        """x: [tokens, hidden]. Returns the same shape."""
        x = self._attention_norm(self._attention(x, rotation, inputs, cache, addend=x))
        return self._mlp_norm(self._mlp(x, addend=x))
