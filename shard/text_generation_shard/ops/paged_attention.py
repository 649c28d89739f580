"""Causal attention over the paged KV cache, for a mixed batch of decode rows and prompt chunks.

The tokens of a step lie one sequence after the other, decode rows (one token each) first:

    query rows   [ d0 | d1 | d2 | c0 c0 c0 c0 | c1 c1 ]
                   decode groups   chunks

`plan_attention` turns the step's geometry into indices once; every layer reuses them. The reference
gathers each row's context into a workspace and calls torch's fused attention: decode rows in groups
of similar length, chunks one by one. Places beyond a row's context point into the scrap block,
which holds zeros, so that nothing a former owner of a block left behind (not even a NaN) is read.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

# Context tokens that one decode group may gather: its keys and values should stay in the cache.
MAX_GROUP_TOKENS = 8192
# Query rows of a chunk that are computed at one time: bounds the mask.
_TILE_ROWS = 256


@dataclass(frozen=True, slots=True)
class DecodeGroup:
    """Decode rows that are computed together."""

    rows: slice
    # [rows * width], int64: places in the cache, row by row, padded with places of the scrap block.
    places: Tensor
    # [rows, 1, 1, width], bool: True where the row attends; None where all do.
    mask: Tensor | None


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive tokens of one sequence."""

    rows: slice
    # Position of the chunk's first token: the tokens before it lie in the cache already.
    start: int
    # [context], int64: places in the cache of all tokens up to the chunk's last.
    places: Tensor


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    """The geometry of one step's attention."""

    decode_groups: tuple[DecodeGroup, ...]
    chunks: tuple[Chunk, ...]
    # Tokens before this distance are not attended to; None: all are.
    sliding_window: int | None


@dataclass(frozen=True, slots=True)
class Workspace:
    """Where contexts are gathered: reused by all layers, for fresh memory costs page faults.

    keys, values: [workspace tokens, num_kv_heads, head_dim].
    """

    keys: Tensor
    values: Tensor


def plan_attention(
    *,
    block_tables: Tensor,
    query_lengths: Sequence[int],
    context_lengths: Sequence[int],
    block_size: int,
    sliding_window: int | None,
) -> AttentionPlan:
    """Plan the attention of one step.

    block_tables: [requests, max_blocks], integer. query_lengths, context_lengths: per request, the
    tokens computed now and the tokens up to and with the last of them. Requests with one query
    token come first, in ascending order of context.
    """
    num_decodes = sum(1 for length in query_lengths if length == 1)
    assert all(length == 1 for length in query_lengths[:num_decodes])
    pages = _Pages(block_tables, block_size)
    groups = tuple(
        _decode_group(pages, rows, context_lengths, sliding_window)
        for rows in _group_decodes(context_lengths[:num_decodes])
    )
    chunks = []
    first_row = num_decodes
    for request in range(num_decodes, len(query_lengths)):
        length, context = query_lengths[request], context_lengths[request]
        rows = slice(first_row, first_row + length)
        chunks.append(Chunk(rows, context - length, pages.places(request, context)))
        first_row += length
    return AttentionPlan(groups, tuple(chunks), sliding_window)


def paged_attention(
    query: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    plan: AttentionPlan,
    workspace: Workspace,
    *,
    scale: float,
) -> Tensor:
    """Attention of every query row over its own context, which the cache holds already.

    query: [tokens, num_heads, head_dim]; caches: [num_blocks, block_size, num_kv_heads, head_dim].
    Query heads i * g .. (i + 1) * g - 1 read KV head i, with g = num_heads / num_kv_heads. Returns
    [tokens, num_heads, head_dim].
    """
    keys, values = key_cache.flatten(0, 1), value_cache.flatten(0, 1)
    output = query.new_empty(query.shape)
    for group in plan.decode_groups:
        gathered = _gather(keys, values, group.places, workspace)
        output[group.rows] = _attend_decodes(query[group.rows], gathered, group.mask, scale)
    for chunk in plan.chunks:
        gathered = _gather(keys, values, chunk.places, workspace)
        _attend_chunk(query, gathered, chunk, plan.sliding_window, scale, output)
    return output


@dataclass(frozen=True, slots=True)
class _Pages:
    """Block tables as places in the flattened cache."""

    block_tables: Tensor
    block_size: int

    def places(self, request: int, context: int) -> Tensor:
        """[context], int64: where the tokens of one request lie."""
        num_blocks = -(-context // self.block_size)
        blocks = self.block_tables[request, :num_blocks].long()
        return self._expand(blocks).flatten()[:context]

    def padded_places(self, rows: slice, contexts: Tensor, width: int) -> Tensor:
        """[rows, width], int64: where the tokens of several requests lie; scrap past the end."""
        num_blocks = -(-width // self.block_size)
        blocks = self.block_tables[rows, :num_blocks].long()
        places = self._expand(blocks).flatten(1)[:, :width]
        is_valid = torch.arange(width, device=places.device) < contexts[:, None]
        return torch.where(is_valid, places, 0)

    def _expand(self, blocks: Tensor) -> Tensor:
        offsets = torch.arange(self.block_size, device=blocks.device)
        return blocks[..., None] * self.block_size + offsets


def _group_decodes(contexts: Sequence[int]) -> list[slice]:
    """Cut decode rows, ascending by context, into groups that gather a bounded number of tokens."""
    groups: list[slice] = []
    start = 0
    for end in range(1, len(contexts) + 1):
        is_last = end == len(contexts)
        if is_last or (end + 1 - start) * contexts[end] > MAX_GROUP_TOKENS:
            groups.append(slice(start, end))
            start = end
    return groups


def _decode_group(
    pages: _Pages, rows: slice, context_lengths: Sequence[int], sliding_window: int | None
) -> DecodeGroup:
    contexts = context_lengths[rows]
    width = contexts[-1]
    device = pages.block_tables.device
    lengths = torch.tensor(contexts, device=device)
    places = pages.padded_places(rows, lengths, width).flatten()
    is_full = contexts[0] == width and (sliding_window is None or width <= sliding_window)
    if is_full:
        return DecodeGroup(rows, places, None)
    key_positions = torch.arange(width, device=device)
    mask = _visible(lengths[:, None] - 1, key_positions, sliding_window)
    return DecodeGroup(rows, places, mask[:, None, None, :])


def _visible(query_positions: Tensor, key_positions: Tensor, sliding_window: int | None) -> Tensor:
    """True where a query may read a key: not after it, and not before its window."""
    visible = key_positions <= query_positions
    if sliding_window is not None:
        visible &= key_positions > query_positions - sliding_window
    return visible


def _gather(keys: Tensor, values: Tensor, places: Tensor, workspace: Workspace) -> Workspace:
    length = len(places)
    gathered = Workspace(workspace.keys[:length], workspace.values[:length])
    torch.index_select(keys, 0, places, out=gathered.keys)
    torch.index_select(values, 0, places, out=gathered.values)
    return gathered


def _attend_decodes(query: Tensor, context: Workspace, mask: Tensor | None, scale: float) -> Tensor:
    """query: [rows, num_heads, head_dim]; context: [rows * width, num_kv_heads, head_dim].

    The query heads of one KV head stand where a sequence's rows usually stand, so that keys and
    values are not repeated.
    """
    num_rows, num_heads, head_dim = query.shape
    num_kv_heads = context.keys.shape[1]
    attended = F.scaled_dot_product_attention(
        query.view(num_rows, num_kv_heads, num_heads // num_kv_heads, head_dim),
        context.keys.view(num_rows, -1, num_kv_heads, head_dim).transpose(1, 2),
        context.values.view(num_rows, -1, num_kv_heads, head_dim).transpose(1, 2),
        attn_mask=mask,
        scale=scale,
    )
    return attended.reshape(num_rows, num_heads, head_dim)


def _attend_chunk(
    query: Tensor,
    context: Workspace,
    chunk: Chunk,
    sliding_window: int | None,
    scale: float,
    output: Tensor,
) -> None:
    """Fill output[chunk.rows], tile by tile; context: [context, num_kv_heads, head_dim].

    key positions   0 ........ start ... tile start .. tile end ... context
    read by a tile  [ first ......................... ]
    """
    num_kv_heads, head_dim = context.keys.shape[1:]
    num_tokens = chunk.rows.stop - chunk.rows.start
    key_positions = torch.arange(chunk.start + num_tokens, device=query.device)
    for offset in range(0, num_tokens, _TILE_ROWS):
        size = min(_TILE_ROWS, num_tokens - offset)
        begin, end = chunk.start + offset, chunk.start + offset + size
        first = 0 if sliding_window is None else max(0, begin - sliding_window + 1)
        rows = slice(chunk.rows.start + offset, chunk.rows.start + offset + size)
        mask = _visible(key_positions[begin:end, None], key_positions[first:end], sliding_window)
        grouped = query[rows].view(size, num_kv_heads, -1, head_dim).permute(1, 2, 0, 3)
        attended = F.scaled_dot_product_attention(
            grouped,
            _per_query_head(context.keys[first:end], grouped.shape[1]),
            _per_query_head(context.values[first:end], grouped.shape[1]),
            attn_mask=mask,
            scale=scale,
        )
        output[rows] = attended.permute(2, 0, 1, 3).flatten(1, 2)


def _per_query_head(kv: Tensor, group_size: int) -> Tensor:
    """[keys, num_kv_heads, head_dim] as [num_kv_heads, group_size, keys, head_dim], not copied."""
    return kv.transpose(0, 1).unsqueeze(1).expand(-1, group_size, -1, -1)
