"""The first half of attention in one operator: norm, projection, turn, and write to the cache."""

from torch import Tensor

from text_generation_shard.ops.cpu.library import native_operators
from text_generation_shard.ops.kv_write import UNSCALED, KVScales, is_float8
from text_generation_shard.ops.linear import PackedWeight, Projection
from text_generation_shard.ops.norm import NormWeights, normed
from text_generation_shard.ops.rotary import Rotation
from text_generation_shard.ops.write_heads import PLAIN_HEADS, HeadOptions, write_heads


def project_heads(
    x: Tensor,
    norm: NormWeights | None,
    qkv: Projection,
    rotation: Rotation | None,
    cache: tuple[Tensor, Tensor],
    slot_mapping: Tensor,
    *,
    options: HeadOptions = PLAIN_HEADS,
    temperature: Tensor | None = None,
    scales: KVScales = UNSCALED,
) -> Tensor:
    """The queries of norm(x), [tokens, num_heads, head_dim].

    x: [tokens, hidden]; norm: None where x is read as it is; qkv: to queries, keys and values, one
    after the other; cache: of keys and of values; the rest as `write_heads` has it.
    """
    native = None if is_float8(cache[0]) else native_operators(x)
    if native is not None and isinstance(qkv.weight, PackedWeight):
        return native.project_and_store(
            x,
            norm,
            (qkv.weight.matrix, qkv.bias),
            options,
            rotation,
            temperature,
            scales.with_caches(*cache),
            slot_mapping,
        )
    projected = qkv(x if norm is None else normed(x, norm))
    return write_heads(
        projected.view(len(x), -1, cache[0].shape[-1]),
        rotation,
        *cache,
        slot_mapping,
        options=options,
        temperature=temperature,
        scales=scales,
    )
