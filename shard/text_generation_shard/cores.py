"""Which cores a rank computes on: its share of the physical cores that this process may use.

Two logical cores of one physical core share its arithmetic and its path to the memory: a second
thread there gains nothing. Ranks on one machine get groups of cores that lie side by side, so that
two ranks on two sockets have a socket each. A single rank is not pinned: where neighbours, such as
the router, hold a core, the kernel moves its threads, and the others take over their work.
"""

import os
from collections.abc import Iterable
from pathlib import Path

_TOPOLOGY = Path("/sys/devices/system/cpu")


def physical_cores(
    allowed: Iterable[int] | None = None, topology: Path = _TOPOLOGY
) -> list[tuple[int, ...]]:
    """The logical cores of each physical core, those of a socket side by side.

    allowed: logical cores; None: those that this thread may run on.
    """
    cores: dict[tuple[int, int], list[int]] = {}
    for logical in sorted(os.sched_getaffinity(0) if allowed is None else allowed):
        cores.setdefault(_place(topology / f"cpu{logical}" / "topology", logical), []).append(
            logical
        )
    return [tuple(cores[place]) for place in sorted(cores)]


def share_of(
    cores: list[tuple[int, ...]], local_rank: int, num_ranks: int
) -> list[tuple[int, ...]]:
    """A rank's cores; none where there are fewer than ranks."""
    count = len(cores)
    return cores[local_rank * count // num_ranks : (local_rank + 1) * count // num_ranks]


def pin_this_thread(local_rank: int, num_ranks: int) -> None:
    """Keep this thread, and those that it starts from here on, on the rank's share of the cores."""
    own = share_of(physical_cores(), local_rank, num_ranks)
    if num_ranks > 1 and own:
        os.sched_setaffinity(0, {logical for core in own for logical in core})


def _place(folder: Path, logical: int) -> tuple[int, int]:
    """Socket and core; a core of its own where the kernel does not tell."""
    try:
        socket = int((folder / "physical_package_id").read_text())
        return socket, int((folder / "core_id").read_text())
    except (OSError, ValueError):
        return 0, logical
