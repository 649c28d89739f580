"""The first half of attention in one operator: norm, projection, turn, and write to the cache."""

from torch import Tensor

from text_generation_shard.ops.cpu.library import native_operators
from text_generation_shard.ops.kv_write import UNSCALED, KVScales, is_eight_bit
from text_generation_shard.ops.linear import PackedWeight, Projection
from text_generation_shard.ops.rms_norm import rms_norm
from text_generation_shard.ops.rotary_kv import rotate_and_write


def project_and_write(
    stream: Tensor,
    norm_weight: Tensor,
    eps: float,
    qkv: Projection,
    cos: Tensor,
    signed_sin: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    slot_mapping: Tensor,
    scales: KVScales = UNSCALED,
) -> Tensor:
    """The turned queries of rms_norm(stream), [tokens, num_heads, head_dim].

    stream: [tokens, hidden]; norm_weight, eps: as `rms_norm` has them; qkv: to queries, keys and
    values, one after the other; the rest as `rotate_and_write` has it.
    """
    native = None if is_eight_bit(key_cache) else native_operators(stream)
    if native is not None and isinstance(qkv.weight, PackedWeight):
        return native.project_and_store(
            stream,
            norm_weight,
            eps,
            qkv.weight.matrix,
            qkv.bias,
            cos,
            signed_sin,
            key_cache,
            value_cache,
            slot_mapping,
        )
    heads = qkv(rms_norm(stream, norm_weight, eps)).view(len(stream), -1, key_cache.shape[-1])
    places = (key_cache, value_cache, slot_mapping)
    return rotate_and_write(heads, cos, signed_sin, *places, scales=scales)
