"""Self-attention in one operator, from the stream to what is added to it."""

from typing import NamedTuple

from torch import Tensor

from text_generation_shard.ops.cpu.library import native_operators
from text_generation_shard.ops.gathered_context import Workspace
from text_generation_shard.ops.kv_write import UNSCALED, KVScales, is_float8
from text_generation_shard.ops.linear import PackedWeight, Projection
from text_generation_shard.ops.norm import NormWeights
from text_generation_shard.ops.paged_attention import AttentionPlan, paged_attention
from text_generation_shard.ops.project_heads import project_heads
from text_generation_shard.ops.rotary import Rotation
from text_generation_shard.ops.write_heads import PLAIN_HEADS, HeadOptions


class ScoreOptions(NamedTuple):
    """What a model does to its scores, as `paged_attention` has it."""

    scale: float
    soft_cap: float | None = None
    alibi_slopes: Tensor | None = None
    distance_bias: Tensor | None = None
    sinks: Tensor | None = None


def add_attention(
    x: Tensor,
    norm: NormWeights | None,
    addend: Tensor | None,
    qkv: Projection,
    output: Projection,
    rotation: Rotation | None,
    cache: tuple[Tensor, Tensor],
    slot_mapping: Tensor,
    plan: AttentionPlan,
    workspace: Workspace,
    scores: ScoreOptions,
    *,
    heads: HeadOptions = PLAIN_HEADS,
    temperature: Tensor | None = None,
    kv_scales: KVScales = UNSCALED,
) -> Tensor:
    """addend + output(attention of the queries of norm(x)).

    x, addend: [tokens, hidden], the same tensor or two; the addend may be overwritten; output: of
    all heads' values, one after the other; the rest as `project_heads` and `paged_attention` have
    it. Returns [tokens, hidden].
    """
    native = None if is_float8(cache[0]) else native_operators(x)
    if (
        native is not None
        and isinstance(qkv.weight, PackedWeight)
        and isinstance(output.weight, PackedWeight)
    ):
        return native.attention(
            x,
            norm,
            (qkv.weight.matrix, qkv.bias),
            heads,
            rotation,
            temperature,
            kv_scales.with_caches(*cache),
            slot_mapping,
            plan.native,
            scores,
            (output.weight.matrix, output.bias),
            addend,
        )
    query = project_heads(
        x,
        norm,
        qkv,
        rotation,
        cache,
        slot_mapping,
        options=heads,
        temperature=temperature,
        scales=kv_scales,
    )
    attended = paged_attention(
        query, *cache, plan, workspace, kv_scales=kv_scales, **scores._asdict()
    )
    return output.weight(attended.flatten(1), output.bias, addend)
