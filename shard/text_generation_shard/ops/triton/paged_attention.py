"""Attention over the paged KV cache: decode rows by one kernel, chunks by another or by others'."""

import torch
from torch import Tensor

from text_generation_shard.ops.attention_window import Window
from text_generation_shard.ops.flash_attention import FlashPlan
from text_generation_shard.ops.gathered_context import Workspace
from text_generation_shard.ops.kv_write import UNSCALED, KVScales, is_float8
from text_generation_shard.ops.triton.decode_attention import decode_attention
from text_generation_shard.ops.triton.geometry import AttentionCall, DeviceGeometry
from text_generation_shard.ops.triton.latent_attention import latent_attention
from text_generation_shard.ops.triton.prefill_attention import prefill_attention


def paged_attention(
    query: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    geometry: DeviceGeometry,
    workspace: Workspace,
    *,
    flash: FlashPlan | None,
    window: Window,
    scale: float,
    soft_cap: float | None = None,
    alibi_slopes: Tensor | None = None,
    distance_bias: Tensor | None = None,
    sinks: Tensor | None = None,
    kv_scales: KVScales = UNSCALED,
) -> Tensor:
    """Arguments and result as `ops.paged_attention.paged_attention` has them; flash: what attends
    to chunks instead, where it can.
    """
    query = query.contiguous()
    assert key_cache.is_contiguous()
    if not is_float8(key_cache):
        kv_scales = UNSCALED
    assert isinstance(kv_scales.keys, float) and isinstance(kv_scales.values, float)
    shape = (*query.shape[:2], value_cache.shape[3])
    output = torch.empty(shape, dtype=query.dtype, device=query.device)
    if value_cache.shape != key_cache.shape:
        assert query.dtype == key_cache.dtype and key_cache.shape[2] == 1
        options = (window, soft_cap, alibi_slopes, distance_bias, sinks)
        assert all(each is None for each in options)
        latent_attention(query, output, key_cache, geometry, scale=scale)
        return output
    call = AttentionCall(
        num_heads=query.shape[1],
        head_dim=query.shape[2],
        key_cache=key_cache,
        value_cache=value_cache,
        block_tables=geometry.block_tables,
        window=window,
        scale=scale * kv_scales.keys,
        soft_cap=soft_cap,
        alibi_slopes=alibi_slopes,
        distance_bias=None if distance_bias is None else distance_bias.contiguous(),
        sinks=sinks,
    )
    num_decodes = geometry.num_decodes
    if num_decodes:
        decode_attention(query[:num_decodes], output[:num_decodes], geometry.contexts, call)
    if geometry.chunks is not None:
        caches, others = (key_cache, value_cache), (alibi_slopes, distance_bias, sinks)
        if flash is not None and flash.takes(*caches, soft_cap, others):
            flash.attend(query, output, caches, workspace, scale=scale, soft_cap=soft_cap)
        else:
            prefill_attention(query, output, geometry.chunks, call)
    return output if kv_scales.values == 1 else output.mul_(kv_scales.values)
