"""Sums over two ranks on CPU, each on a core of its own: shared memory and gloo in turn.

    python -m benchmarks.rank_sums

Prints the mean time of a sum for each size.
"""

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Callable

import torch
import torch.distributed as dist
from text_generation_shard.config import RankInfo
from text_generation_shard.distributed import RankGroup
from torch import Tensor

from benchmarks.processes import free_port

WORLD_SIZE = 2
SIZES = (1024, 8192, 32_768, 524_288)
REPETITIONS = 200


def measure(rank: int, port: int) -> None:
    """Rank 0 prints microseconds of a sum for each size."""
    torch.set_num_threads(1)
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[rank % len(cores)]})
    info = RankInfo(rank=rank, world_size=WORLD_SIZE, master_addr="localhost", master_port=port)
    ranks = RankGroup.join(info, torch.device("cpu"))
    for size in SIZES:
        values = torch.ones(size)
        shared = _microseconds(ranks.all_reduce, values)
        gloo = _microseconds(dist.all_reduce, values)
        if rank == 0:
            sys.stdout.write(f"{size:>8} numbers: shared {shared:.1f} us, gloo {gloo:.1f} us\n")
    ranks.leave()


def _microseconds(add_up: Callable[[Tensor], object], values: Tensor) -> float:
    add_up(values.clone())
    dist.barrier()
    started = time.perf_counter()
    for _ in range(REPETITIONS):
        add_up(values.clone())
    return (time.perf_counter() - started) / REPETITIONS * 1e6


def main() -> None:
    """Start the ranks, and wait for them; ends with 1 where one of them failed."""
    argparse.ArgumentParser(
        prog="python -m benchmarks.rank_sums",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()
    context = multiprocessing.get_context("spawn")
    port = free_port()
    processes = [context.Process(target=measure, args=(rank, port)) for rank in range(WORLD_SIZE)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    sys.exit(1 if any(process.exitcode for process in processes) else 0)


if __name__ == "__main__":
    main()
