"""Attention of prompt chunks by kernels that others wrote: flash attention (Dao, 2023), cuDNN's.

None of them reads the cache as it lies: FlashAttention 2 wants blocks of 256 tokens, torch 2.11
takes none at all. So a chunk's context is gathered into the workspace, one sequence after the
other, which takes about a hundredth of the time that attention to it takes.
"""

import functools
import importlib
import importlib.util
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from text_generation_shard.errors import CapacityError
from text_generation_shard.ops.attention_window import AttentionChunk, Window
from text_generation_shard.ops.gathered_context import Workspace, gather_context
from text_generation_shard.ops.reference_plan import Chunk
from text_generation_shard.ops.to_device import to_device

_DTYPES = (torch.float16, torch.bfloat16)
_MAX_HEAD_DIM = 256
# head_dim is a multiple of it.
_HEAD_UNIT = 8


@dataclass(frozen=True, slots=True)
class Masking:
    """What one sequence's queries, the last tokens of its context, see of it, and how scores are
    made: window None sees all before a query, soft_cap 0 is none.

    query_ends, key_ends: int32 [2] on the device, 0 and how many there are.
    """

    query_ends: Tensor
    key_ends: Tensor
    window: int | None
    scale: float
    soft_cap: float

    @property
    def sides(self) -> tuple[int, int]:
        """Tokens before and after a query that it sees, -1: all; causal is (-1, 0)."""
        return (-1 if self.window is None else self.window - 1), 0


class _Attend(Protocol):
    def __call__(self, query: Tensor, keys: Tensor, values: Tensor, masking: Masking, /) -> Tensor:
        """query: [tokens, num_heads, head_dim]; keys, values: [context, num_kv_heads, head_dim].
        Returns the query's shape.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class FlashAttention:
    """A kernel, and what it can compute."""

    name: str
    attend: _Attend
    has_soft_cap: bool = False
    has_window: bool = True
    # Whether there may be tokens before a chunk.
    has_context: bool = True
    # Whether it was asked for: a layer that it cannot compute is an error then.
    is_required: bool = False

    def obstacle(
        self,
        keys: Tensor,
        values: Tensor,
        window: Window,
        soft_cap: float | None,
        others: Sequence[Tensor | None],
    ) -> str | None:
        """Why it cannot compute a layer, None if it can; keys, values: [..., head_dim], of the
        cache; others: biases and sinks.
        """
        head_dim = keys.shape[-1]
        if keys.shape != values.shape:
            return "keys and values of different sizes"
        if keys.dtype not in _DTYPES:
            return f"a cache of {str(keys.dtype).removeprefix('torch.')}"
        if head_dim > _MAX_HEAD_DIM or head_dim % _HEAD_UNIT:
            return f"heads of {head_dim} dimensions"
        if isinstance(window, AttentionChunk) or (window is not None and not self.has_window):
            return "a window"
        if soft_cap is not None and not self.has_soft_cap:
            return "a soft cap"
        if any(each is not None for each in others):
            return "biases or sinks"
        return None


@dataclass(frozen=True, slots=True)
class FlashPlan:
    """The chunks of one step, for layers of one window.

    ends: int32 [chunks, 2, 2] on the device, `Masking`'s of every chunk.
    """

    kernel: FlashAttention
    chunks: Sequence[Chunk]
    ends: Tensor
    window: Window

    @classmethod
    def of(
        cls, kernel: FlashAttention, chunks: Sequence[Chunk], window: Window, device: torch.device
    ) -> "FlashPlan":
        """One upload for all chunks."""
        lengths = [(chunk.rows.stop - chunk.rows.start, len(chunk.places)) for chunk in chunks]
        ends = torch.tensor([[(0, count) for count in pair] for pair in lengths], dtype=torch.int32)
        return cls(kernel, chunks, to_device(ends, device), window)

    def takes(
        self,
        keys: Tensor,
        values: Tensor,
        soft_cap: float | None,
        others: Sequence[Tensor | None],
    ) -> bool:
        """Whether the kernel computes the step of a layer; see `FlashAttention.obstacle`.
        CapacityError if it was asked for and cannot compute any step of this layer.
        """
        obstacle = self.kernel.obstacle(keys, values, self.window, soft_cap, others)
        if obstacle is not None and self.kernel.is_required:
            raise CapacityError(
                f"--attention: {self.kernel.name} does not compute {obstacle}, which this model has"
            )
        is_fresh = all(chunk.start == 0 for chunk in self.chunks)
        return obstacle is None and (self.kernel.has_context or is_fresh)

    def attend(
        self,
        query: Tensor,
        output: Tensor,
        caches: tuple[Tensor, Tensor],
        workspace: Workspace,
        *,
        scale: float,
        soft_cap: float | None,
    ) -> None:
        """Fill output for the rows of chunks; query, output: [tokens, num_heads, head_dim]; caches:
        [num_blocks, block_size, num_kv_heads, head_dim].
        """
        assert self.window is None or isinstance(self.window, int)
        keys, values = (cache.flatten(0, 1) for cache in caches)
        for chunk, (query_ends, key_ends) in zip(self.chunks, self.ends, strict=True):
            context = gather_context(keys, values, chunk.places, workspace)
            masking = Masking(query_ends, key_ends, self.window, scale, soft_cap or 0.0)
            output[chunk.rows] = self.kernel.attend(
                query[chunk.rows], context.keys, context.values, masking
            )


@functools.cache
def flash_kernels() -> tuple[FlashAttention, ...]:
    """Those that are installed: of the packages, newest first, then torch's own."""
    packages = tuple(
        FlashAttention(
            name=name,
            attend=of_package(importlib.import_module(module).flash_attn_func),
            has_soft_cap=True,
        )
        for module, name in (("flash_attn_interface", "flash-attn 3"), ("flash_attn", "flash-attn"))
        if importlib.util.find_spec(module) is not None
    )
    return (*packages, FlashAttention(name="torch's flash attention", attend=by_torch))


def of_package(function: Callable[..., Any]) -> _Attend:
    """`flash_attn_func` of either package."""

    def attend(query: Tensor, keys: Tensor, values: Tensor, masking: Masking, /) -> Tensor:
        output = function(
            query.unsqueeze(0),
            keys.unsqueeze(0),
            values.unsqueeze(0),
            softmax_scale=masking.scale,
            causal=True,
            window_size=masking.sides if masking.window else (-1, -1),
            softcap=masking.soft_cap,
        )
        # Early releases of the third version return the sums of the softmax, too.
        attended: Tensor = output[0] if isinstance(output, tuple) else output
        return attended[0]

    return attend


def by_torch(query: Tensor, keys: Tensor, values: Tensor, masking: Masking, /) -> Tensor:
    """torch's `varlen_attn`; from 2.12 on it wants to be told of grouped heads."""
    from torch.nn.attention.varlen import varlen_attn

    options: dict[str, Any] = {"enable_gqa": True} if _is_told_of_groups(varlen_attn) else {}
    attended = varlen_attn(
        query,
        keys,
        values,
        masking.query_ends,
        masking.key_ends,
        len(query),
        len(keys),
        scale=masking.scale,
        window_size=masking.sides,
        **options,
    )
    assert isinstance(attended, Tensor)  # a pair, had more been asked for
    return attended


@functools.cache
def _is_told_of_groups(function: Callable[..., Any]) -> bool:
    return "enable_gqa" in inspect.signature(function).parameters


def by_cudnn(query: Tensor, keys: Tensor, values: Tensor, masking: Masking, /) -> Tensor:
    """As many keys as queries: torch's causal mask begins at the first of both."""
    assert len(query) == len(keys) and masking.window is None
    query, keys, values = (x.transpose(0, 1).unsqueeze(0) for x in (query, keys, values))
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        attended = F.scaled_dot_product_attention(
            query, keys, values, is_causal=True, scale=masking.scale, enable_gqa=True
        )
    return attended[0].transpose(0, 1)


CUDNN = FlashAttention(name="cuDNN", attend=by_cudnn, has_window=False, has_context=False)
