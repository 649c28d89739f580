"""The parts of `gpu_check`, one per process.

python -m benchmarks.gpu_parts PART RESULT.json FOLDER
"""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.gpu_rows import GpuRow, write_rows


def ceilings(_folder: Path) -> Iterator[GpuRow]:
    from benchmarks.gpu_kernels import measure_ceilings

    return measure_ceilings()


def kernels(folder: Path) -> Iterator[GpuRow]:
    from benchmarks.gpu_kernels import measure_kernels

    return measure_kernels(folder)


def step_8b(folder: Path) -> Iterator[GpuRow]:
    from benchmarks.gpu_steps import measure_steps

    return measure_steps("step-8b", "llama-3.1-8b", folder)


def step_1b(folder: Path) -> Iterator[GpuRow]:
    from benchmarks.gpu_steps import measure_steps

    return measure_steps("step-1b", "llama-3.2-1b", folder)


def tests(_folder: Path) -> Iterator[GpuRow]:
    from benchmarks.gpu_served import run_tests

    return run_tests()


def serve(folder: Path) -> Iterator[GpuRow]:
    from benchmarks.gpu_served import measure_server

    return measure_server(folder)


def transformers(folder: Path) -> Iterator[GpuRow]:
    from benchmarks.gpu_served import measure_transformers

    return measure_transformers(folder)


PARTS: dict[str, Callable[[Path], Iterator[GpuRow]]] = {
    "tests": tests,
    "ceilings": ceilings,
    "kernels": kernels,
    "step-8b": step_8b,
    "step-1b": step_1b,
    "serve": serve,
    "transformers": transformers,
}


def main() -> None:
    part, result, folder = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    rows: list[GpuRow] = []
    for row in PARTS[part](folder):
        rows.append(row)
        write_rows(result, rows)
        print(row, flush=True)
    # Not as usual: a library's thread that goes on (transformers' manager) would be waited for.
    os._exit(0)


if __name__ == "__main__":
    main()
