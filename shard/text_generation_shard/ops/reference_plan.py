"""Where the rows of a step find what they attend to, as `reference_attention` reads it.

    query rows   [ d0 | d1 | d2 | c0 c0 c0 c0 | c1 c1 ]
                   decode groups   chunks

The step's geometry becomes indices once; every layer reuses them. With a sliding window only what
some row sees is gathered. Places beyond a row's context point into the scrap block, which holds
zeros, so that nothing a former owner of a block left behind (not even a NaN) is read.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from text_generation_shard.ops.attention_window import Window, first_visible

# Context tokens that one decode group may gather: its keys and values should stay in the cache.
MAX_GROUP_TOKENS = 8192


@dataclass(frozen=True, slots=True)
class DecodeGroup:
    """Decode rows that are computed together."""

    rows: slice
    # [rows * width], int64: places in the cache of what each row sees, row by row, padded with
    # places of the scrap block.
    places: Tensor
    # [rows], int64: how many of its `width` places each row sees; its own token is the last.
    lengths: Tensor
    # [rows, 1, 1, width], bool: True where the row attends; None where all do.
    mask: Tensor | None


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive tokens of one sequence."""

    rows: slice
    # Position of the chunk's first token: the tokens before it lie in the cache already.
    start: int
    # Position of the first token that some row sees.
    first: int
    # [context - first], int64: places in the cache from there up to the chunk's last token.
    places: Tensor


@dataclass(frozen=True, slots=True)
class ReferencePlan:
    """The indices of one step's attention, for layers of one window."""

    decode_groups: tuple[DecodeGroup, ...]
    chunks: tuple[Chunk, ...]
    sliding_window: Window


def plan_reference(
    block_tables: Tensor,
    query_lengths: Sequence[int],
    context_lengths: Sequence[int],
    block_size: int,
    window: Window,
) -> ReferencePlan:
    """Arguments as `plan_attention` has them."""
    num_decodes = sum(1 for length in query_lengths if length == 1)
    assert all(length == 1 for length in query_lengths[:num_decodes])
    pages = _Pages(block_tables, block_size)
    seen = [length - first_visible(window, length - 1) for length in context_lengths]
    groups = tuple(
        _decode_group(pages, rows, context_lengths[rows], seen[rows])
        for rows in _group_decodes(seen[:num_decodes])
    )
    chunks = plan_chunks(block_tables, query_lengths, context_lengths, block_size, window)
    return ReferencePlan(groups, chunks, window)


def plan_chunks(
    block_tables: Tensor,
    query_lengths: Sequence[int],
    context_lengths: Sequence[int],
    block_size: int,
    window: Window,
) -> tuple[Chunk, ...]:
    """The requests with several query tokens; arguments as `plan_attention` has them."""
    pages = _Pages(block_tables, block_size)
    chunks = []
    first_row = 0
    for request, (length, context) in enumerate(zip(query_lengths, context_lengths, strict=True)):
        rows, start = slice(first_row, first_row + length), context - length
        first_row += length
        if length > 1:
            first = first_visible(window, start)
            chunks.append(Chunk(rows, start, first, pages.places(request, first, context)))
    return tuple(chunks)


@dataclass(frozen=True, slots=True)
class _Pages:
    """Block tables as places in the flattened cache."""

    block_tables: Tensor
    block_size: int

    def places(self, request: int, first: int, context: int) -> Tensor:
        """[context - first], int64: where the tokens of one request lie."""
        first_block, end_block = first // self.block_size, -(-context // self.block_size)
        blocks = self.block_tables[request, first_block:end_block].long()
        offsets = torch.arange(self.block_size, device=blocks.device)
        begin = first - first_block * self.block_size
        places = (blocks[:, None] * self.block_size + offsets).flatten()
        return places[begin : begin + context - first]

    def padded_places(self, rows: slice, starts: Tensor, lengths: Tensor, width: int) -> Tensor:
        """[rows, width], int64: where the tokens from `starts` on lie; scrap past `lengths`."""
        tables = self.block_tables[rows]
        columns = torch.arange(width, device=tables.device)
        positions = starts[:, None] + columns
        indices = (positions // self.block_size).clamp_(max=tables.shape[1] - 1)
        places = tables.gather(1, indices).long() * self.block_size + positions % self.block_size
        return torch.where(columns < lengths[:, None], places, 0)


def _group_decodes(seen: Sequence[int]) -> list[slice]:
    """Cut decode rows into groups that gather a bounded number; rows with as many neighbours."""
    groups: list[slice] = []
    start, width = 0, 0
    for end in range(1, len(seen) + 1):
        width = max(width, seen[end - 1])
        is_last = end == len(seen)
        if is_last or (end + 1 - start) * max(width, seen[end]) > MAX_GROUP_TOKENS:
            groups.append(slice(start, end))
            start, width = end, 0
    return groups


def _decode_group(
    pages: _Pages, rows: slice, contexts: Sequence[int], seen: Sequence[int]
) -> DecodeGroup:
    width = max(seen)
    device = pages.block_tables.device
    lengths = torch.tensor(seen, device=device)
    starts = torch.tensor(contexts, device=device) - lengths
    places = pages.padded_places(rows, starts, lengths, width).flatten()
    mask = None
    if min(seen) != width:
        columns = torch.arange(width, device=device)
        mask = (columns < lengths[:, None])[:, None, None, :]
    return DecodeGroup(rows, places, lengths, mask)
