"""Sums over the ranks of one machine that compute on CPU, through memory that all of them map.

See `ops/cpu/csrc/shared_sums.h`. Where there can be no such memory, gloo sums through sockets.
"""

import contextlib
import logging
import mmap
import os
import secrets
from pathlib import Path

import torch
from torch import Tensor

from text_generation_shard.host import ranks_on_host
from text_generation_shard.ops.cpu import library
from text_generation_shard.symmetric_memory import Agreement

logger = logging.getLogger(__name__)

_FOLDER = Path("/dev/shm")  # noqa: S108  files there are memory; ours has no name before long


class SharedSums:
    """This rank's end of the memory. Nothing of it is left when no rank has it any more."""

    def __init__(self, sums: library.SharedSums, world_size: int) -> None:
        self._sums = sums
        self._world_size = world_size

    def all_reduce(self, partial: Tensor) -> Tensor | None:
        """The sum over ranks, in the place of `partial`; None where gloo is to do it."""
        if partial.dtype is not torch.float32 or not partial.is_contiguous():
            return None
        self._sums.sum(partial)
        return partial

    def gather(self, own: Tensor) -> Tensor:
        """What all ranks have, [world_size, ..]. It is of one shape."""
        gathered = own.new_empty(self._world_size, *own.shape)
        self._sums.gather(own.contiguous(), gathered)
        return gathered


def shared_sums(ranks: Agreement, *, timeout_s: float) -> SharedSums | None:
    """All ranks call this at the same time, and all have the memory or none."""
    obstacle = _obstacle(ranks.world_size)
    if ranks.minimum(obstacle is None) == 0:
        logger.info("Sums over ranks are gloo's: %s", obstacle or "another rank has to")
        return None
    number = torch.tensor(secrets.randbits(62))
    path = _FOLDER / f"text-generation-{int(ranks.broadcast(number)):x}"
    sums, failure = None, ""
    try:
        if ranks.rank == 0:
            _create(path, library.shared_sums_bytes(ranks.world_size))
    except OSError as error:
        failure = f"{path}: {error.strerror}"
    # The others open it when it is there.
    if ranks.minimum(not failure) > 0:
        try:
            sums = library.shared_sums(_mapped(path), ranks.rank, ranks.world_size, timeout_s)
        except OSError as error:
            failure = f"{path}: {error.strerror}"
    is_agreed = ranks.minimum(sums is not None) > 0
    if ranks.rank == 0:
        path.unlink(missing_ok=True)
    if sums is None or not is_agreed:
        logger.warning(
            "Sums over ranks are gloo's, and slower: sharing memory failed (%s)",
            failure or "on another rank",
        )
        return None
    return SharedSums(sums, ranks.world_size)


def _obstacle(world_size: int) -> str | None:
    """Why this rank cannot share memory with the others; None if it can."""
    if ranks_on_host(world_size) != world_size:
        return "ranks on several nodes"
    if library.operators() is None:
        return "there are no C++ operators"
    return None


def _create(path: Path, num_bytes: int) -> None:
    """A file of zeros whose memory is there: a page that were not would end the process that first
    wrote to it.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    with contextlib.closing(os.fdopen(descriptor, "r+b")) as file:
        os.posix_fallocate(file.fileno(), 0, num_bytes)


def _mapped(path: Path) -> Tensor:
    """The file's bytes, uint8, shared with all who map it."""
    with path.open("r+b") as file:
        return torch.frombuffer(mmap.mmap(file.fileno(), 0), dtype=torch.uint8)
