"""What this machine leaves to us: cores and memory, within the limits of our control groups."""

import ctypes
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from text_generation_shard.cores import physical_cores

_CGROUP_ROOT = Path("/sys/fs/cgroup")
# The groups that this process is in, by hierarchy: cgroups(7).
_MEMBERSHIP = Path("/proc/self/cgroup")
# Parameters of mallopt(3).
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_NEVER = 2**31 - 1
# Bytes of the largest piece that is kept. The cache's pieces are larger: theirs must be untouched.
_LARGEST_KEPT = 128 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class HostShare:
    """This rank's share of the machine."""

    num_threads: int
    memory_bytes: int


def host_share(
    *,
    num_ranks: int,
    num_threads: int | None,
    cgroup_root: Path = _CGROUP_ROOT,
    membership: Path = _MEMBERSHIP,
    meminfo: Path = Path("/proc/meminfo"),
) -> HostShare:
    """Cores and available memory divided by the ranks on this host.

    num_threads: what --num-threads says; None takes the share.
    """
    cores = _available_cores(_groups("cpu", cgroup_root, membership))
    memory = _available_memory(_groups("memory", cgroup_root, membership), meminfo)
    return HostShare(
        num_threads=num_threads or max(1, cores // num_ranks),
        memory_bytes=memory // num_ranks,
    )


def ranks_on_host(world_size: int, environment: Mapping[str, str] = os.environ) -> int:
    """Ranks on this machine, as torchrun says it in LOCAL_WORLD_SIZE; all of them without it."""
    value = environment.get("LOCAL_WORLD_SIZE", "")
    return int(value) if value.isdigit() and int(value) > 0 else world_size


def local_rank(rank: int, num_ranks: int, environment: Mapping[str, str] = os.environ) -> int:
    """The rank's number on this machine, as torchrun says it in LOCAL_RANK.

    num_ranks: ranks on this machine.
    """
    value = environment.get("LOCAL_RANK", "")
    return int(value) if value.isdigit() and int(value) < num_ranks else rank % num_ranks


def _groups(controller: str, cgroup_root: Path, membership: Path) -> list[Path]:
    """Folders of the groups that limit this process, in the unified hierarchy and in that of the
    controller (version 1): its own ones and all around them. In a container its own one may be the
    root, whatever its name is outside.
    """
    folders = []
    lines = [line.split(":", 2) for line in _read(membership).splitlines()]
    for root, name in ((cgroup_root, ""), (cgroup_root / controller, controller)):
        own = [path for _, controllers, path in lines if name in controllers.split(",")]
        for path in map(PurePosixPath, own or ["/"]):
            folders += [root / group.relative_to("/") for group in (path, *path.parents)]
    return folders


def _available_cores(groups: list[Path]) -> int:
    """Physical cores that this process may run on, and not more than its groups' quota."""
    cores = len(physical_cores(os.sched_getaffinity(os.getpid())))
    for group in groups:
        quota, _, period = _read(group / "cpu.max").partition(" ")
        if not quota:
            quota = _read(group / "cpu.cfs_quota_us")
            period = _read(group / "cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit() and int(period) > 0:
            cores = min(cores, max(1, int(quota) // int(period)))
    return cores


def _available_memory(groups: list[Path], meminfo: Path) -> int:
    """Bytes that can be had without swapping, and not more than the groups' limits leave."""
    available = 0
    for line in _read(meminfo).splitlines():
        if line.startswith("MemAvailable:"):
            available = int(line.split()[1]) * 1024
    for group in groups:
        limit = _read(group / "memory.max") or _read(group / "memory.limit_in_bytes")
        usage = _read(group / "memory.current") or _read(group / "memory.usage_in_bytes")
        if limit.isdigit() and usage.isdigit():
            in_use = int(usage) - _reclaimable(_read(group / "memory.stat"))
            available = min(available, max(0, int(limit) - in_use))
    return available


def _reclaimable(stat: str) -> int:
    """Bytes of cached files in a group's usage, which the kernel gives up when asked."""
    values = dict(line.split(" ", 1) for line in stat.splitlines() if " " in line)
    # Version 1 counts those of groups within in another line.
    value = values.get("total_inactive_file", values.get("inactive_file", ""))
    return int(value) if value.isdigit() else 0


def _read(path: Path) -> str:
    """A small file's text; empty where the kernel does not offer it."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def return_free_memory() -> None:
    """Give memory that was freed back to the system, where the C library (glibc) keeps it in its
    heap: what is free between pieces in use stays there otherwise.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def share_one_heap() -> None:
    """Let all threads use the C library's main heap (glibc); to be called before there are any.
    Others give back what is larger than 64 MB, whatever they are told.
    """
    _adjust_heap(_M_ARENA_MAX, 1)


def keep_freed_memory() -> None:
    """From now on what is freed stays in the C library's heap (glibc): not while a checkpoint is
    loaded, whose peak would grow.

    A step frees the activations of each layer, some 10 MB, and the next layer would get them back
    from the system, page by page.
    """
    _adjust_heap(_M_TRIM_THRESHOLD, _NEVER)
    _adjust_heap(_M_MMAP_THRESHOLD, _LARGEST_KEPT)


def _adjust_heap(parameter: int, value: int) -> None:
    adjust = getattr(ctypes.CDLL(None), "mallopt", None)
    if adjust is not None:
        adjust(parameter, value)


class PeakMemory:
    """How far this process's resident memory rises above where it was when this was made."""

    def __init__(self, proc: Path = Path("/proc/self")) -> None:
        self._status = proc / "status"
        try:
            # 5 resets the high-water mark to the present size.
            (proc / "clear_refs").write_text("5")
        except OSError:
            # Not allowed here: growth is then measured from the highest mark so far.
            self._start = self._read_bytes("VmHWM:")
        else:
            self._start = self._read_bytes("VmRSS:")

    def growth(self) -> int:
        """Bytes; 0 where the kernel does not tell."""
        return max(0, self._read_bytes("VmHWM:") - self._start)

    def _read_bytes(self, key: str) -> int:
        for line in _read(self._status).splitlines():
            if line.startswith(key):
                return int(line.split()[1]) * 1024
        return 0
