"""Our paged attention, as transformers' models call for attention: by a name in their config."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from transformers import AttentionInterface

from text_generation_shard.batch.model_inputs import ModelInputs
from text_generation_shard.kv_cache import KVCache
from text_generation_shard.ops.kv_write import write_kv
from text_generation_shard.ops.paged_attention import paged_attention

# As attention implementation of a model. There is no function for masks of this name, and so
# transformers makes none.
PAGED = "text_generation_paged"


@dataclass(slots=True)
class CurrentStep:
    """What the layers of one model compute on at present."""

    inputs: ModelInputs | None = None
    cache: KVCache | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PagedLayer:
    """The attention of one layer. It lies as `paged_layer` on the module that asks for it."""

    step: CurrentStep
    index: int
    scale: float
    soft_cap: float | None
    sliding_window: int | None

    def attend(self, query: Tensor, key: Tensor, value: Tensor, sinks: Tensor | None) -> Tensor:
        """Store keys and values, then attend.

        query: [tokens, num_heads, head_dim]; key, value: [tokens, num_kv_heads, ...], the value's
        heads at most head_dim wide; sinks: [num_heads]. Returns [tokens, num_heads, value_dim].
        """
        inputs, cache = self.step.inputs, self.step.cache
        assert inputs is not None and cache is not None
        layer = cache.layers[self.index]
        value_dim, head_dim = value.shape[-1], key.shape[-1]
        if value_dim < head_dim:
            value = F.pad(value, (0, head_dim - value_dim))
        write_kv(key, value, layer.keys, layer.values, inputs.slot_mapping)
        attended = paged_attention(
            query,
            layer.keys,
            layer.values,
            inputs.attention[self.sliding_window],
            layer.workspace,
            scale=self.scale,
            soft_cap=self.soft_cap,
            sinks=None if sinks is None else sinks.float(),
        )
        return attended[..., :value_dim]


def attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,  # noqa: ARG001  none is made
    *,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """query: [1, num_heads, tokens, head_dim], key and value alike; s_aux: sinks.

    Returns [1, tokens, num_heads, value_dim]. What else is passed was looked at in the survey.
    """
    layer = module.paged_layer
    assert isinstance(layer, PagedLayer)
    query, key, value = (heads[0].transpose(0, 1) for heads in (query, key, value))
    return layer.attend(query, key, value, s_aux)[None], None


AttentionInterface.register(PAGED, attend)
