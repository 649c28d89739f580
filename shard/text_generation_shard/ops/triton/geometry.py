"""A step's attention as the kernels want it: indices on the device, tiles, compiled constants."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

import torch
import triton
from torch import Tensor

from text_generation_shard.ops.attention_window import AttentionChunk, Window
from text_generation_shard.ops.to_device import to_device

# The smallest side of a tile that the matrix units multiply.
_MIN_ROWS = 16


@dataclass(frozen=True, slots=True)
class Chunks:
    """The requests with several query tokens; all int32 on the device.

    first_rows: [chunks + 1]; contexts: [chunks]; block_tables: [chunks, max_blocks].
    """

    count: int
    max_tokens: int
    first_rows: Tensor
    contexts: Tensor
    block_tables: Tensor


@dataclass(frozen=True, slots=True)
class DeviceGeometry:
    """The geometry of a step's attention; see `ops.paged_attention.plan_attention`.

    contexts: int32 [requests]; the first num_decodes requests have one query token each.
    """

    block_tables: Tensor
    contexts: Tensor
    num_decodes: int
    chunks: Chunks | None

    @classmethod
    def of(
        cls, block_tables: Tensor, query_lengths: Sequence[int], context_lengths: Sequence[int]
    ) -> "DeviceGeometry":
        """One upload for all that the host knows."""
        requests = len(query_lengths)
        num_decodes = sum(1 for length in query_lengths if length == 1)
        first_rows = list(accumulate(query_lengths, initial=0))
        numbers = torch.tensor([*context_lengths, *first_rows], dtype=torch.int32)
        numbers = to_device(numbers, block_tables.device)
        chunks = None
        if num_decodes < requests:
            chunks = Chunks(
                count=requests - num_decodes,
                max_tokens=max(query_lengths[num_decodes:]),
                first_rows=numbers[requests + num_decodes :],
                contexts=numbers[num_decodes:requests],
                block_tables=block_tables[num_decodes:],
            )
        return cls(block_tables, numbers[:requests], num_decodes, chunks)


@dataclass(frozen=True)
class AttentionCall:
    """One layer's cache and scores, and what the kernels compile for them."""

    num_heads: int
    head_dim: int
    key_cache: Tensor
    value_cache: Tensor
    block_tables: Tensor
    window: Window
    scale: float
    soft_cap: float | None
    alibi_slopes: Tensor | None
    distance_bias: Tensor | None
    sinks: Tensor | None

    @property
    def num_kv_heads(self) -> int:
        return self.key_cache.shape[2]

    @property
    def group(self) -> int:
        """Query heads that read one KV head."""
        return self.num_heads // self.num_kv_heads

    @property
    def group_rows(self) -> int:
        """Rows of a tile that holds one group."""
        return max(_MIN_ROWS, int(triton.next_power_of_2(self.group)))

    @property
    def dim(self) -> int:
        """Columns of a tile that holds a head."""
        return max(_MIN_ROWS, int(triton.next_power_of_2(self.head_dim)))

    def is_wide(self, dtype: torch.dtype) -> bool:
        """Whether a head takes more registers than a full tile leaves."""
        return self.dim > 128 or dtype.itemsize > 2

    def tile(self, rows: int) -> int:
        """Keys of a tile."""
        bytes_per_key = self.dim * self.key_cache.dtype.itemsize
        return 64 if bytes_per_key <= 256 or (rows <= 32 and bytes_per_key <= 512) else 32

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        return self.tensors_of(self.block_tables)

    def tensors_of(self, block_tables: Tensor) -> tuple[Tensor | None, ...]:
        """The tensors that both kernels read, with some requests' block tables."""
        of_scores = self.alibi_slopes, self.distance_bias, self.sinks
        return self.key_cache, self.value_cache, block_tables, *of_scores

    @property
    def numbers(self) -> tuple[float | None, ...]:
        """The step from block table to block table, and what makes scores."""
        num_distances = None if self.distance_bias is None else self.distance_bias.shape[1]
        return self.block_tables.stride(0), self.scale, self.soft_cap, num_distances

    @property
    def window_size(self) -> int:
        """Tokens that a query sees at most; 0: all before it."""
        return self.window.size if isinstance(self.window, AttentionChunk) else self.window or 0

    @property
    def max_visible(self) -> int:
        """The same, and no more than a block table holds."""
        most = self.block_tables.shape[1] * self.key_cache.shape[1]
        return min(most, self.window_size or most)

    @cached_property
    def constants(self) -> dict[str, Any]:
        return {
            "GROUP": self.group,
            "WINDOW": self.window_size,
            "IS_CHUNKED": isinstance(self.window, AttentionChunk),
            "BLOCK_SIZE": self.key_cache.shape[1],
            "HEAD_DIM": self.head_dim,
            "DIM": self.dim,
        }
