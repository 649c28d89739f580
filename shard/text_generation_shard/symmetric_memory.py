"""Sums over the GPUs of a node through memory in which each of them reads what others wrote.

A decode step sums a few hundred kilobytes twice a layer, and NCCL takes longer to begin than to do
that. torch has kernels for it (`torch.distributed._symmetric_memory`), each the quickest at other
sizes; which one is measured here, before serving, and rank 0's choice is everybody's:

    one-shot    every rank reads all parts                       few bytes
    two-shot    every rank sums a share, and writes it to all    more
    multimem    the same, by the switch between the GPUs         where it can

All of them add in the order of the ranks, so that the sums are equal to the last bit everywhere.
Larger tensors, and all others, go through NCCL.
"""

import enum
import logging
import time
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from text_generation_shard.host import local_rank, ranks_on_host
from text_generation_shard.runner.cuda_graph import CudaGraphRecorder

logger = logging.getLogger(__name__)

# Bytes of the largest tensor; beyond, a ring is as quick.
_MAX_BYTES = 32 << 20
_LEAST_BYTES = 4096
# The numbers of ranks, and the numbers, that torch's kernels know (2.11 to 2.13).
_WORLD_SIZES = (2, 4, 8)
_DTYPES = (torch.bfloat16, torch.float32)
# Bytes that they load at one time.
_ALIGNMENT = 16
_REPETITIONS = 20


class Way(enum.IntEnum):
    """Who sums."""

    NCCL = 0
    ONE_SHOT = 1
    TWO_SHOT = 2
    MULTIMEM = 3


class Agreement(Protocol):
    """What is needed of the group of ranks."""

    rank: int
    world_size: int

    def minimum(self, value: int) -> int:
        """The least value that any rank named."""

    def broadcast(self, tensor: Tensor) -> Tensor:
        """Rank 0's values, in place."""


class Summer(Protocol):
    """Sums in one way or another."""

    @property
    def ways(self) -> Sequence[Way]:
        """Those that there are, NCCL among them."""

    def __call__(self, way: Way, partial: Tensor) -> Tensor:
        """The sum over ranks; may reuse `partial`."""

    def microseconds(self, way: Way, num_bytes: int) -> float:
        """How long a sum of so many bytes takes; all ranks measure together."""


@dataclass(frozen=True, slots=True)
class SizeTable:
    """The way for tensors of up to sizes[i] bytes, ascending, is ways[i]; larger ones: NCCL."""

    sizes: tuple[int, ...]
    ways: tuple[Way, ...]

    def way(self, num_bytes: int) -> Way:
        """The one for a tensor of so many bytes."""
        place = bisect_left(self.sizes, num_bytes)
        return self.ways[place] if place < len(self.sizes) else Way.NCCL


class FastSums:
    """Sums of the tensors that a step's layers make."""

    def __init__(self, summer: Summer, table: SizeTable) -> None:
        self._summer = summer
        self._table = table

    @classmethod
    def measure(cls, summer: Summer, ranks: Agreement, *, max_bytes: int) -> "FastSums":
        """Choose by time for every size; all ranks call this at the same time."""
        sizes = _sizes(max_bytes)
        times = [{way: summer.microseconds(way, size) for way in summer.ways} for size in sizes]
        best = torch.tensor([min(row, key=row.__getitem__) for row in times], dtype=torch.int64)
        ways = tuple(Way(way) for way in ranks.broadcast(best).tolist())
        table = SizeTable(sizes, ways)
        if ranks.rank == 0:
            rows = {
                str(size): {way.name.lower(): round(row[way], 1) for way in row}
                for size, row in zip(sizes, times, strict=True)
            }
            chosen = {str(size): way.name.lower() for size, way in zip(sizes, ways, strict=True)}
            fields = {"microseconds_by_bytes": rows, "chosen": chosen}
            logger.info("Measured sums over ranks", extra={"fields": fields})
        return cls(summer, table)

    def all_reduce(self, partial: Tensor) -> Tensor | None:
        """The sum over ranks; None where NCCL is to do it. May reuse `partial`."""
        if partial.dtype not in _DTYPES or partial.nbytes % _ALIGNMENT:
            return None
        if not partial.is_contiguous():
            return None
        way = self._table.way(partial.nbytes)
        return None if way is Way.NCCL else self._summer(way, partial)


class SharedBuffer:
    """torch's kernels and a buffer that all GPUs of the node see. Used on one stream at a time."""

    def __init__(self, num_bytes: int, device: torch.device, group: ProcessGroup) -> None:
        """A collective."""
        from torch.distributed import _symmetric_memory

        self._group = group.group_name
        self._recorder = CudaGraphRecorder(device)
        self._bytes = _symmetric_memory.empty(num_bytes, dtype=torch.uint8, device=device)
        handle = _symmetric_memory.rendezvous(self._bytes, group)
        self.ways: tuple[Way, ...] = (Way.NCCL, Way.ONE_SHOT, Way.TWO_SHOT)
        if handle.multicast_ptr:
            self.ways = (*self.ways, Way.MULTIMEM)

    def __call__(self, way: Way, partial: Tensor) -> Tensor:
        """See `Summer`. The kernels wait for the other ranks when they begin and when they end: the
        buffer is free again when one is done.
        """
        operators: Any = torch.ops.symm_mem
        shared = self._bytes[: partial.nbytes].view(partial.dtype).view(partial.shape)
        if way is Way.NCCL:
            torch.distributed.all_reduce(partial)
            return partial
        if way is Way.ONE_SHOT:
            # The kernel fills the buffer itself: one launch less, twice a layer.
            total = torch.empty_like(partial)
            return operators.one_shot_all_reduce_copy_out(  # type: ignore[no-any-return]
                shared, partial, "sum", self._group, total
            )
        shared.copy_(partial)
        if way is Way.TWO_SHOT:
            operators.two_shot_all_reduce_out(shared, "sum", self._group, partial)
            return partial
        operators.multimem_all_reduce_(shared, "sum", self._group)
        return partial.copy_(shared)

    def microseconds(self, way: Way, num_bytes: int) -> float:
        """See `Summer`. In a graph, as decode steps are."""
        device = self._bytes.device
        partial = torch.zeros(num_bytes // 2, dtype=torch.bfloat16, device=device)

        def sums() -> None:
            for _ in range(_REPETITIONS):
                self(way, partial)

        graph = self._recorder.record(sums)
        graph.replay()
        torch.cuda.synchronize(device)
        started = time.perf_counter()
        graph.replay()
        torch.cuda.synchronize(device)
        return (time.perf_counter() - started) / _REPETITIONS * 1e6


def fast_sums(ranks: Agreement, device: torch.device, *, max_bytes: int) -> FastSums | None:
    """Those of tensors of up to max_bytes; None where NCCL has to do all. All ranks call this at
    the same time, and get the same.
    """
    if device.type != "cuda" or ranks.world_size == 1:
        return None
    obstacle = _obstacle(ranks, device)
    if ranks.minimum(obstacle is None) == 0:
        logger.info("Sums over ranks are NCCL's alone: %s", obstacle or "another rank has to")
        return None
    num_bytes, sums, failure = min(max_bytes, _MAX_BYTES), None, ""
    try:
        assert torch.distributed.group.WORLD is not None
        buffer = SharedBuffer(num_bytes, device, torch.distributed.group.WORLD)
        sums = FastSums.measure(buffer, ranks, max_bytes=num_bytes)
    # A container may forbid what the driver needs; a torch may lack a kernel.
    except (RuntimeError, AttributeError) as error:
        failure = " ".join(str(error).split())
    if ranks.minimum(sums is not None) == 0:
        logger.warning(
            "Sums over ranks are NCCL's alone, and slower: sharing memory failed (%s)",
            failure or "on another rank",
        )
        return None
    return sums


def _obstacle(ranks: Agreement, device: torch.device) -> str | None:
    """Why this rank cannot share memory with the others; None if it can."""
    if ranks.world_size not in _WORLD_SIZES:
        return f"torch's kernels do not know {ranks.world_size} ranks"
    num_ranks = ranks_on_host(ranks.world_size)
    if num_ranks != ranks.world_size:
        return "ranks on several nodes"
    own = local_rank(ranks.rank, num_ranks)
    for other in range(num_ranks):
        if other != own and not torch.cuda.can_device_access_peer(device, other):
            return f"GPU {own} cannot read memory of GPU {other}"
    return None


def _sizes(max_bytes: int) -> tuple[int, ...]:
    """Powers of two up to max_bytes, the last one of which is max_bytes, rounded down to what the
    kernels load.
    """
    last = max_bytes - max_bytes % _ALIGNMENT
    sizes = []
    size = _LEAST_BYTES
    while size < last:
        sizes.append(size)
        size *= 2
    return (*sizes, last)
