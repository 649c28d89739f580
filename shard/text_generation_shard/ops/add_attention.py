"""Self-attention on the normed stream, added to it, in one operator."""

from typing import NamedTuple

from torch import Tensor

from text_generation_shard.ops.cpu.library import native_operators
from text_generation_shard.ops.kv_write import UNSCALED, KVScales, is_eight_bit
from text_generation_shard.ops.linear import PackedWeight, Projection
from text_generation_shard.ops.normed_qkv import project_and_write
from text_generation_shard.ops.paged_attention import AttentionPlan, Workspace, paged_attention


class ScoreOptions(NamedTuple):
    """What a model does to its scores, as `paged_attention` has it."""

    scale: float
    soft_cap: float | None = None
    alibi_slopes: Tensor | None = None
    distance_bias: Tensor | None = None
    sinks: Tensor | None = None


def add_attention(
    stream: Tensor,
    norm_weight: Tensor,
    eps: float,
    qkv: Projection,
    output: Projection,
    rotation: tuple[Tensor, Tensor],
    cache: tuple[Tensor, Tensor],
    slot_mapping: Tensor,
    plan: AttentionPlan,
    workspace: Workspace,
    scores: ScoreOptions,
    kv_scales: KVScales = UNSCALED,
) -> Tensor:
    """stream + output(attention of the turned queries of rms_norm(stream)).

    stream: [tokens, hidden], which may be overwritten; output: of all heads' values, one after the
    other; rotation: cos and signed_sin; cache: of keys and of values; the rest as
    `project_and_write` and `paged_attention` have it. Returns [tokens, hidden].
    """
    is_known = plan.device_contexts is None and not is_eight_bit(cache[0])
    native = native_operators(stream) if is_known else None
    if (
        native is not None
        and isinstance(qkv.weight, PackedWeight)
        and isinstance(output.weight, PackedWeight)
    ):
        return native.add_attention(
            stream,
            norm_weight,
            eps,
            qkv.weight.matrix,
            qkv.bias,
            output.weight.matrix,
            output.bias,
            *rotation,
            *cache,
            slot_mapping,
            plan.block_tables,
            plan.first_rows,
            plan.contexts,
            *plan.native_window,
            scores.scale,
            scores.soft_cap or 0.0,
            scores.alibi_slopes,
            scores.distance_bias,
            scores.sinks,
        )
    places = (*cache, slot_mapping)
    query = project_and_write(stream, norm_weight, eps, qkv, *rotation, *places, kv_scales)
    attended = paged_attention(
        query, *cache, plan, workspace, kv_scales=kv_scales, **scores._asdict()
    )
    return output.weight(attended.flatten(1), output.bias, stream)
