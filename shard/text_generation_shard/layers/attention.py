"""Attention over the paged KV cache."""

from torch import Tensor

from text_generation_shard.batch.model_inputs import ModelInputs
from text_generation_shard.kv_cache import LayerCache
from text_generation_shard.layers.partition import HeadPartition
from text_generation_shard.layers.rotary import Rotation
from text_generation_shard.ops.kv_write import write_kv
from text_generation_shard.ops.paged_attention import paged_attention
from text_generation_shard.ops.rotary import apply_rotary


class RotaryAttention:
    """Grouped-query attention with rotary positions, for the heads of one rank."""

    def __init__(self, heads: HeadPartition, *, head_dim: int) -> None:
        self._heads = heads
        self._head_dim = head_dim
        self._scale = head_dim**-0.5

    def __call__(
        self, qkv: Tensor, rotation: Rotation, inputs: ModelInputs, cache: LayerCache
    ) -> Tensor:
        """Write the new keys and values, then attend.

        qkv: [tokens, (num_heads + 2 * num_kv_heads) * head_dim]; queries, then keys, then values.
        Returns [tokens, num_heads * head_dim].
        """
        num_heads, num_kv_heads = self._heads.num_heads, self._heads.num_kv_heads
        heads = qkv.view(len(qkv), -1, self._head_dim)
        turned = apply_rotary(heads[:, :-num_kv_heads], rotation.cos, rotation.signed_sin)
        query, key = turned[:, :num_heads], turned[:, num_heads:]
        value = heads[:, -num_kv_heads:]
        write_kv(key, value, cache.keys, cache.values, inputs.slot_mapping)
        attended = paged_attention(
            query, cache.keys, cache.values, inputs.attention, cache.workspace, scale=self._scale
        )
        return attended.flatten(1)
