"""Causal attention over the paged KV cache, for a mixed batch of decode rows and prompt chunks.

The tokens of a step lie one sequence after the other, decode rows (one token each) first:

    query rows   [ d0 | d1 | d2 | c0 c0 c0 c0 | c1 c1 ]
                   decodes        chunks
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from text_generation_shard.ops.attention_window import AttentionChunk, Window
from text_generation_shard.ops.cpu.library import native_operators
from text_generation_shard.ops.flash_attention import FlashAttention, FlashPlan
from text_generation_shard.ops.gathered_context import Workspace
from text_generation_shard.ops.kv_write import UNSCALED, KVScales, is_float8
from text_generation_shard.ops.reference_attention import reference_attention
from text_generation_shard.ops.reference_plan import ReferencePlan, plan_chunks, plan_reference
from text_generation_shard.ops.triton import library as triton_library

if TYPE_CHECKING:
    from text_generation_shard.ops.triton.geometry import DeviceGeometry

_MAX_HEAD_DIM = 256


@dataclass(frozen=True)
class AttentionPlan:
    """The geometry of one step's attention, for layers of one window; see `plan_attention`.

    What an implementation derives from it is made when it is first asked for, once for all layers.
    """

    block_tables: Tensor
    query_lengths: Sequence[int]
    context_lengths: Sequence[int]
    block_size: int
    sliding_window: Window
    # Where the device alone knows the contexts, and context_lengths are what they may be at most.
    device_contexts: Tensor | None = None
    # What attends to chunks on a GPU instead of our own kernel.
    flash_attention: FlashAttention | None = None

    @cached_property
    def reference(self) -> ReferencePlan:
        """The indices of the torch reference, which needs to know the contexts."""
        self._require_contexts()
        return plan_reference(*self._numbers)

    @cached_property
    def flash(self) -> FlashPlan | None:
        """The chunks, if flash attention is to attend to them."""
        if self.flash_attention is None or max(self.query_lengths) == 1:
            return None
        chunks = plan_chunks(*self._numbers)
        device = self.block_tables.device
        return FlashPlan.of(self.flash_attention, chunks, self.sliding_window, device)

    @cached_property
    def on_device(self) -> "DeviceGeometry":
        """The indices of the Triton kernels."""
        from text_generation_shard.ops.triton.geometry import DeviceGeometry

        if self.device_contexts is not None:
            count = len(self.query_lengths)
            return DeviceGeometry(self.block_tables, self.device_contexts, count, None)
        return DeviceGeometry.of(self.block_tables, self.query_lengths, self.context_lengths)

    @cached_property
    def first_rows(self) -> Tensor:
        """[requests + 1], int64: where each request's rows begin, and where the last one's end."""
        return torch.tensor(list(accumulate(self.query_lengths, initial=0)))

    @cached_property
    def contexts(self) -> Tensor:
        """[requests], int64."""
        if self.device_contexts is not None:
            return self.device_contexts.long()
        return torch.tensor(self.context_lengths)

    @cached_property
    def native_window(self) -> tuple[int, int]:
        """Tokens of the sliding window and of a chunk; 0: there is none."""
        match self.sliding_window:
            case AttentionChunk(size):
                return 0, size
            case window:
                return window or 0, 0

    @cached_property
    def native(self) -> tuple[Tensor, Tensor, Tensor, int, int]:
        """All that the C++ operators want to know of it."""
        return self.block_tables, self.first_rows, self.contexts, *self.native_window

    @property
    def _numbers(self) -> tuple[Tensor, Sequence[int], Sequence[int], int, Window]:
        lengths = self.query_lengths, self.context_lengths
        return self.block_tables, *lengths, self.block_size, self.sliding_window

    def _require_contexts(self) -> None:
        """RuntimeError where context_lengths are only what the contexts may be at most."""
        if self.device_contexts is not None:
            raise RuntimeError("no kernel computes this attention from what the device knows")


def plan_attention(
    *,
    block_tables: Tensor,
    query_lengths: Sequence[int],
    context_lengths: Sequence[int],
    block_size: int,
    sliding_window: Window,
    flash_attention: FlashAttention | None = None,
) -> AttentionPlan:
    """Plan the attention of one step.

    block_tables: [requests, max_blocks], int32. query_lengths, context_lengths: per request, the
    tokens computed now and the tokens up to and with the last of them. Requests with one query
    token come first, best in ascending order of context. flash_attention: what attends to the
    others on a GPU, where it can; None: our own kernel.
    """
    lengths = query_lengths, context_lengths
    bounds = (block_size, sliding_window)
    return AttentionPlan(block_tables, *lengths, *bounds, flash_attention=flash_attention)


def plan_decode(
    *,
    block_tables: Tensor,
    contexts: Tensor,
    max_context: int,
    block_size: int,
    sliding_window: Window,
) -> AttentionPlan:
    """Plan a step of one token per request, whose contexts (int32 [requests], none above
    max_context) the host need not know. The reference cannot carry it out.
    """
    count = len(contexts)
    bounds = (block_size, sliding_window, contexts)
    return AttentionPlan(block_tables, [1] * count, [max_context] * count, *bounds)


def paged_attention(
    query: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    plan: AttentionPlan,
    workspace: Workspace,
    *,
    scale: float,
    soft_cap: float | None = None,
    alibi_slopes: Tensor | None = None,
    distance_bias: Tensor | None = None,
    sinks: Tensor | None = None,
    kv_scales: KVScales = UNSCALED,
) -> Tensor:
    """Attention of every query row over its own context, which the cache holds already.

    query: [tokens, num_heads, head_dim]; key_cache: [num_blocks, block_size, num_kv_heads,
    head_dim]; value_cache: the same with value_dim, or a view of the first value_dim of the keys.
    Both are of the queries' dtype, bfloat16 beside float32 on CPU, or of 8 bits that mean kv_scales
    times what they are; keys in int8 are spread (see `rounded_rows`).
    Query heads i * g .. (i + 1) * g - 1 read KV head i, with g = num_heads / num_kv_heads.
    A score is scale * q . k; with soft_cap c it becomes c * tanh(score / c) (Gemma 2). With
    alibi_slopes, float32 [num_heads], slope * (key position - query position) is added to it (Press
    et al., 2022). With distance_bias, float32 [num_heads, distances], the entry of the distance
    query position - key position is added, the last one for all that are farther (T5). At most one
    of the three is given. With sinks, float32 [num_heads], each head's softmax has one more score,
    whose share goes nowhere (gpt-oss), and only a soft cap goes with it. Returns [tokens,
    num_heads, value_dim].
    """
    caches = (key_cache, value_cache)
    scores: dict[str, Any] = {"scale": scale, "soft_cap": soft_cap, "alibi_slopes": alibi_slopes}
    scores |= {"distance_bias": distance_bias, "sinks": sinks, "kv_scales": kv_scales}
    is_latent = value_cache.shape[-1] < key_cache.shape[-1]
    if has_kernel(query, query.shape[-1], is_latent=is_latent):
        from text_generation_shard.ops.triton import paged_attention as kernels

        on_device = (plan.on_device, workspace)
        scores |= {"flash": plan.flash, "window": plan.sliding_window}
        return kernels.paged_attention(query, *caches, *on_device, **scores)
    is_widened = query.dtype is torch.bfloat16 and query.device.type == "cpu"
    wide = query.float() if is_widened else query
    native = None if is_float8(key_cache) else native_operators(wide)
    if native is None:
        return reference_attention(query, *caches, plan.reference, workspace, **scores)
    attended = native.attend(
        wide if wide[0].is_contiguous() else wide.contiguous(),
        kv_scales.with_caches(*caches),
        plan.native,
        scale,
        soft_cap or 0.0,
        alibi_slopes,
        distance_bias,
        sinks,
    )
    return attended.to(query.dtype)


def has_kernel(on: Tensor, head_dim: int, *, is_latent: bool) -> bool:
    """Whether the Triton kernels attend where the tensor `on` is: to heads as wide as 256, or to
    latent vectors. The rest is the reference's on a GPU.
    """
    return (is_latent or head_dim <= _MAX_HEAD_DIM) and triton_library.takes(on)
