"""The torch reference of `paged_attention`: what it computes, on every device.

Each row's context is gathered into a workspace, and torch's fused attention called: decode rows in
groups of similar length, chunks one by one, as `plan_reference` lists them.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from text_generation_shard.ops.attention_window import Window, first_visible, visible
from text_generation_shard.ops.gathered_context import Workspace, gather_context
from text_generation_shard.ops.kv_write import UNSCALED, KVScales
from text_generation_shard.ops.reference_plan import Chunk, DecodeGroup, ReferencePlan
from text_generation_shard.ops.rounded_rows import spread

# Query rows of a chunk that are computed at one time: bounds the mask.
_TILE_ROWS = 256
# On CPU torch's attention takes scores that are no numbers for small ones if there are fewer keys
# than this and no mask (2.13): damaged weights would give text.
_MIN_UNMASKED_KEYS = 16


def reference_attention(
    query: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    plan: ReferencePlan,
    workspace: Workspace,
    *,
    scale: float,
    soft_cap: float | None = None,
    alibi_slopes: Tensor | None = None,
    distance_bias: Tensor | None = None,
    sinks: Tensor | None = None,
    kv_scales: KVScales = UNSCALED,
) -> Tensor:
    """Arguments and result as `paged_attention` has them."""
    assert sum(each is not None for each in (soft_cap, alibi_slopes, distance_bias)) <= 1
    assert sinks is None or (alibi_slopes is None and distance_bias is None)
    keys, values = key_cache.flatten(0, 1), value_cache.flatten(0, 1)
    if keys.dtype is torch.int8:
        query = spread(query)
    scores = _Scores(scale, soft_cap, alibi_slopes, distance_bias, sinks)
    output = query.new_empty((*query.shape[:2], values.shape[-1]))
    for group in plan.decode_groups:
        gathered = gather_context(keys, values, group.places, workspace, kv_scales)
        output[group.rows] = _attend_decodes(query[group.rows], gathered, group, scores)
    for chunk in plan.chunks:
        gathered = gather_context(keys, values, chunk.places, workspace, kv_scales)
        _attend_chunk(query, gathered, chunk, plan.sliding_window, scores, output)
    return output


@dataclass(frozen=True, slots=True)
class _Scores:
    """How scores are made of queries and keys; shapes: [batch, kv_heads or group, rows, keys]."""

    scale: float
    soft_cap: float | None
    # float32 [num_heads]
    alibi_slopes: Tensor | None
    # float32 [num_heads, distances]
    distance_bias: Tensor | None
    # float32 [num_heads]
    sinks: Tensor | None

    def bias(self, distances: Tensor, num_kv_heads: int) -> Tensor | None:
        """What is added to the scores, float32 [num_kv_heads, group, rows, keys]; None: nothing.

        distances: int64 [rows, keys], position of the key less that of the query.
        """
        if self.alibi_slopes is not None:
            return self.alibi_slopes.view(num_kv_heads, -1, 1, 1) * distances.float()
        if self.distance_bias is not None:
            columns = distances.neg().clamp_(0, self.distance_bias.shape[1] - 1)
            return self.distance_bias[:, columns].view(num_kv_heads, -1, *distances.shape)
        return None

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        bias: Tensor | None,
        sinks: Tensor | None,
    ) -> Tensor:
        """Softmax over the masked scores, times the values.

        query: [a, b, rows, head_dim]; key: [a, b, keys, head_dim]; value: [a, b, keys, value_dim];
        mask: bool, bias: float32, both broadcast to [a, b, rows, keys]; sinks: float32, to [a, b,
        rows, 1]. Returns [a, b, rows, value_dim].
        """
        if self.soft_cap is not None or sinks is not None:
            return self._attend_written_out(query, key, value, mask, sinks)
        if bias is not None:
            mask = (bias if mask is None else bias.masked_fill(~mask, -torch.inf)).to(query.dtype)
        if mask is None and key.shape[-2] < _MIN_UNMASKED_KEYS:
            mask = torch.ones(1, dtype=torch.bool, device=key.device).expand(1, key.shape[-2])
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=self.scale)

    def _attend_written_out(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        sinks: Tensor | None,
    ) -> Tensor:
        """No fused kernel has a cap or sinks: the same, written out."""
        scores = torch.matmul(query, key.transpose(-1, -2)).float().mul_(self.scale)
        if self.soft_cap is not None:
            scores = scores.div_(self.soft_cap).tanh_().mul_(self.soft_cap)
        if mask is not None:
            scores.masked_fill_(~mask, -torch.inf)
        if sinks is not None:
            scores = torch.cat([scores, sinks.expand(*scores.shape[:-1], 1)], dim=-1)
        shares = scores.softmax(-1)[..., : key.shape[-2]]
        return torch.matmul(shares.to(value.dtype), value)

    def sinks_of(self, *shape: int) -> Tensor | None:
        """The sinks of the query heads, shaped for `attend`."""
        return None if self.sinks is None else self.sinks.view(*shape)


def _attend_decodes(
    query: Tensor, context: Workspace, group: DecodeGroup, scores: _Scores
) -> Tensor:
    """query: [rows, num_heads, head_dim]; context: [rows * width, num_kv_heads, ...]. Returns
    [rows, num_heads, value_dim].

    The query heads of one KV head stand where a sequence's rows usually stand, so that keys and
    values are not repeated.
    """
    num_rows, num_heads, head_dim = query.shape
    num_kv_heads = context.keys.shape[1]
    width = len(group.places) // num_rows
    distances = torch.arange(width, device=query.device) - (group.lengths[:, None] - 1)
    bias = scores.bias(distances, num_kv_heads)
    attended = scores.attend(
        query.view(num_rows, num_kv_heads, num_heads // num_kv_heads, head_dim),
        context.keys.view(num_rows, width, num_kv_heads, head_dim).transpose(1, 2),
        context.values.view(num_rows, width, num_kv_heads, -1).transpose(1, 2),
        group.mask,
        None if bias is None else bias.permute(2, 0, 1, 3),
        scores.sinks_of(num_kv_heads, -1, 1),
    )
    return attended.reshape(num_rows, num_heads, -1)


def _attend_chunk(
    query: Tensor,
    context: Workspace,
    chunk: Chunk,
    window: Window,
    scores: _Scores,
    output: Tensor,
) -> None:
    """Fill output[chunk.rows], tile by tile; context: [context - first, num_kv_heads, ...].

    key positions   first ...... start ... tile start .. tile end ... context
    read by a tile       [ begins ......................... ]
    """
    num_kv_heads, head_dim = context.keys.shape[1:]
    num_tokens = chunk.rows.stop - chunk.rows.start
    positions = torch.arange(chunk.start + num_tokens, device=query.device)
    for offset in range(0, num_tokens, _TILE_ROWS):
        size = min(_TILE_ROWS, num_tokens - offset)
        tile, end = chunk.start + offset, chunk.start + offset + size
        begin = first_visible(window, tile)
        rows = slice(chunk.rows.start + offset, chunk.rows.start + offset + size)
        query_positions, key_positions = positions[tile:end, None], positions[begin:end]
        grouped = query[rows].view(size, num_kv_heads, -1, head_dim).permute(1, 2, 0, 3)
        seen = slice(begin - chunk.first, end - chunk.first)
        attended = scores.attend(
            grouped,
            _per_query_head(context.keys[seen], grouped.shape[1]),
            _per_query_head(context.values[seen], grouped.shape[1]),
            visible(window, query_positions, key_positions),
            scores.bias(key_positions - query_positions, num_kv_heads),
            scores.sinks_of(num_kv_heads, -1, 1, 1),
        )
        output[rows] = attended.permute(2, 0, 1, 3).flatten(1, 2)


def _per_query_head(kv: Tensor, group_size: int) -> Tensor:
    """[keys, num_kv_heads, head_dim] as [num_kv_heads, group_size, keys, head_dim], not copied."""
    return kv.transpose(0, 1).unsqueeze(1).expand(-1, group_size, -1, -1)
