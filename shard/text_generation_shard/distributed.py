"""The ranks that share a model, and the few collectives that they use.

All ranks call the same collectives in the same order, for they execute the same steps. A group of
one rank needs no process group: its collectives return what they were given.
"""

import contextlib
import datetime
import ipaddress
import os
import re
import socket
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import TCPStore

from text_generation_shard.config import RankInfo
from text_generation_shard.errors import CollectiveError, RendezvousError
from text_generation_shard.node_address import interface_of, node_address
from text_generation_shard.shared_sums import SharedSums, shared_sums
from text_generation_shard.symmetric_memory import FastSums, fast_sums

# How long a rank waits for the others: loading weights and long steps lie well below.
_TIMEOUT = datetime.timedelta(minutes=10)
# Its name since torch 2.13, which warns of the old one.
_all_gather = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)
_LOOPBACK_INTERFACE = "lo"


class RankGroup:
    """This rank's end of the group. Make it with `join`, end it with `leave`."""

    def __init__(self, *, rank: int = 0, world_size: int = 1) -> None:
        """A group whose process group, if it has more than one rank, exists already."""
        self.rank = rank
        self.world_size = world_size
        # How many collectives on tensors this rank has begun.
        self.num_collectives = 0
        self._fast_sums: FastSums | SharedSums | None = None

    @classmethod
    def join(cls, info: RankInfo, device: torch.device) -> "RankGroup":
        """Wait for the other ranks. Tensors on GPUs go through NCCL, others through gloo, and
        so do the numbers on which ranks agree, whatever their GPUs are doing; on CPU what layers
        sum goes through shared memory, where ranks are on one machine.
        """
        group = cls(rank=info.rank, world_size=info.world_size)
        if info.world_size == 1:
            return group
        is_cuda = device.type == "cuda"
        if is_cuda:
            # Else NCCL adds streams and host nodes to every graph, so that a graph and another
            # collective may run at the same time, which they never do here (nccl#1901).
            os.environ.setdefault("NCCL_GRAPH_MIXING_SUPPORT", "0")
        dist.init_process_group(
            backend="cpu:gloo,cuda:nccl" if is_cuda else "gloo",
            store=_rendezvous(info),
            rank=info.rank,
            world_size=info.world_size,
            timeout=_TIMEOUT,
            device_id=device if is_cuda else None,
        )
        if is_cuda:
            # NCCL takes its memory with the first collective, and that for what two ranks say to
            # each other with their first word, which is before the cache is sized.
            group.all_reduce(torch.zeros(1, device=device))
            group.exchange_rows(torch.zeros(info.world_size, 1, device=device))
        else:
            group._fast_sums = shared_sums(group, timeout_s=_TIMEOUT.total_seconds())
        return group

    def leave(self) -> None:
        """Give the process group back. Harmless when called twice."""
        self._fast_sums = None
        if self.world_size > 1 and dist.is_initialized():
            dist.destroy_process_group()

    def all_reduce(self, partial: Tensor) -> Tensor:
        """The sum over ranks, equal to the last bit on all of them; may reuse `partial`."""
        if self.world_size == 1:
            return partial
        with self._counted():
            total = None if self._fast_sums is None else self._fast_sums.all_reduce(partial)
            if total is not None:
                return total
            partial = partial.contiguous()  # gloo looks at no strides
            dist.all_reduce(partial)
        return partial

    @property
    def can_be_recorded(self) -> bool:
        """Whether recordings of steps on CPU may hold the sums over ranks."""
        return self.world_size == 1 or isinstance(self._fast_sums, SharedSums)

    def use_fast_sums(self, device: torch.device, *, max_bytes: int) -> None:
        """Measure what sums tensors of up to max_bytes fastest, and use it from now on; all ranks
        call this at the same time, before anything is recorded.
        """
        if self._fast_sums is None:
            self._fast_sums = fast_sums(self, device, max_bytes=max_bytes)

    def largest(self, values: Tensor) -> Tensor:
        """The elementwise maximum over ranks; may reuse `values`."""
        if self.world_size > 1:
            with self._counted():
                dist.all_reduce(values, op=dist.ReduceOp.MAX)
        return values

    def gather(self, own: Tensor) -> Tensor | None:
        """On rank 0 what all ranks have, [world_size, ..], elsewhere None. It is of one shape."""
        if self.world_size == 1:
            return own[None]
        gathered = None
        if self.rank == 0:
            gathered = own.new_empty(self.world_size, *own.shape)
        with self._counted():
            dist.gather(own.contiguous(), None if gathered is None else list(gathered), dst=0)
        return gathered

    def gather_everywhere(self, own: Tensor) -> Tensor:
        """What all ranks have, [world_size, ..]. It is of one shape."""
        if self.world_size == 1:
            return own[None]
        if isinstance(self._fast_sums, SharedSums):
            with self._counted():
                return self._fast_sums.gather(own)
        gathered = own.new_empty(self.world_size, *own.shape)
        with self._counted():
            _all_gather(gathered.flatten(0, 1), own.contiguous())
        return gathered

    def gather_columns(self, part: Tensor) -> Tensor | None:
        """On rank 0 the parts of all ranks side by side, elsewhere None.

        part: [rows, columns], of one shape on all ranks. Returns [rows, world_size * columns].
        """
        if self.world_size == 1:
            return part
        parts = self.gather(part)
        return None if parts is None else parts.transpose(0, 1).flatten(1)

    def row_share(self, num_rows: int, rank: int | None = None) -> range:
        """The rows that one of the ranks, this one if None, gets of those that all have in part."""
        size = -(-num_rows // self.world_size)
        start = size * (self.rank if rank is None else rank)
        return range(min(start, num_rows), min(start + size, num_rows))

    def exchange_rows(self, part: Tensor) -> Tensor:
        """This rank's share of the rows, of which all ranks have some columns; `row_share` says
        which these are. The shares of the last ranks may be smaller, or empty.

        part: [rows, columns], of one shape on all ranks. Returns [share, world_size * columns].
        """
        if self.world_size == 1:
            return part
        (num_rows, columns), own = part.shape, len(self.row_share(len(part)))
        gathered = part.new_empty(self.world_size * own, columns)
        shares = [len(self.row_share(num_rows, rank)) for rank in range(self.world_size)]
        with self._counted():
            dist.all_to_all_single(gathered, part.contiguous(), [own] * self.world_size, shares)
        return gathered.view(self.world_size, own, columns).transpose(0, 1).flatten(1)

    def broadcast(self, tensor: Tensor) -> Tensor:
        """Rank 0's values, in place; dtype and shape are the same everywhere."""
        if self.world_size > 1:
            with self._counted():
                dist.broadcast(tensor, src=0)
        return tensor

    def minimum(self, value: int) -> int:
        """The least value that any rank named."""
        return self._reduced(value, dist.ReduceOp.MIN)

    def maximum(self, value: int) -> int:
        """The greatest value that any rank named."""
        return self._reduced(value, dist.ReduceOp.MAX)

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        """Around a collective on tensors."""
        self.num_collectives += 1
        with collective():
            yield

    def _reduced(self, value: int, operation: dist.ReduceOp.RedOpType) -> int:
        if self.world_size == 1:
            return value
        tensor = torch.tensor(value, dtype=torch.int64)
        with collective():
            dist.all_reduce(tensor, op=operation)
        return int(tensor)


@contextlib.contextmanager
def collective() -> Iterator[None]:
    """Around collectives: say in our words, and in one line, that the others are gone."""
    try:
        yield
    except RuntimeError as error:
        # Gloo's text: [source file:line] what happened. Advice ...
        reason = re.sub(r"^\[[^]]*\] ", "", str(error)).split(". ")[0]
        raise CollectiveError(f"lost the other ranks: {reason}") from error


def _rendezvous(info: RankInfo) -> TCPStore:
    """Where ranks find each other: MASTER_ADDR and MASTER_PORT, served by rank 0.

    Neither store nor gloo asks who connects, so they listen nowhere but where the others come
    from: if all ranks are on this host, on the loopback interface.
    """
    if _is_loopback(info.master_addr):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", _LOOPBACK_INTERFACE)
    elif (interface := interface_of(node_address(info))) is not None:
        # Gloo would take the one of this machine's name, which is often a loopback address.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    listener = _listen(info) if info.rank == 0 else None
    return TCPStore(
        host_name=info.master_addr,
        port=info.master_port,
        world_size=info.world_size,
        is_master=info.rank == 0,
        timeout=_TIMEOUT,
        # The store owns the socket from here on.
        master_listen_fd=None if listener is None else listener.detach(),
    )


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(socket.gethostbyname(address)).is_loopback
    except OSError as error:
        raise RendezvousError(f"MASTER_ADDR {address}: {error.strerror}") from error


def _listen(info: RankInfo) -> socket.socket:
    try:
        return socket.create_server((info.master_addr, info.master_port), backlog=info.world_size)
    except OSError as error:
        raise RendezvousError(
            f"MASTER_ADDR:MASTER_PORT {info.master_addr}:{info.master_port}: {error.strerror}"
        ) from error
