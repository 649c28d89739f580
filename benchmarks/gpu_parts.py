"""The parts of `gpu_check`, one per process.

python -m benchmarks.gpu_parts PART RESULT.json FOLDER [--profile]
"""

import os
import sys
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from benchmarks.gpu_rows import GpuRow, failed, write_rows


def ceilings(_folder: Path) -> Iterator[GpuRow]:
    from benchmarks.gpu_kernels import measure_ceilings

    return measure_ceilings()


def kernels(folder: Path) -> Iterator[GpuRow]:
    from benchmarks.gpu_kernels import measure_kernels

    return measure_kernels(folder)


def step_8b(folder: Path, *, is_profiled: bool) -> Iterator[GpuRow]:
    from benchmarks.gpu_steps import measure_steps

    return measure_steps("step-8b", "llama-3.1-8b", folder, is_profiled=is_profiled)


def step_1b(folder: Path, *, is_profiled: bool) -> Iterator[GpuRow]:
    from benchmarks.gpu_steps import measure_steps

    return measure_steps(
        "step-1b", "llama-3.2-1b", folder, is_profiled=is_profiled, compares_loading=True
    )


def tests(_folder: Path) -> Iterator[GpuRow]:
    from benchmarks.gpu_served import run_kernel_tests

    return run_kernel_tests()


def families(_folder: Path) -> Iterator[GpuRow]:
    from benchmarks.gpu_served import run_family_tests

    return run_family_tests()


def parity(folder: Path) -> Iterator[GpuRow]:
    from benchmarks.gpu_parity import measure_parity

    return measure_parity(folder)


def serve(folder: Path) -> Iterator[GpuRow]:
    from benchmarks.gpu_served import measure_server

    return measure_server(folder)


def transformers(folder: Path) -> Iterator[GpuRow]:
    from benchmarks.gpu_transformers import measure_as_shipped

    return measure_as_shipped(folder)


def transformers_flash(folder: Path) -> Iterator[GpuRow]:
    from benchmarks.gpu_transformers import measure_with_flash

    return measure_with_flash(folder)


def parts(*, is_profiled: bool) -> dict[str, Callable[[Path], Iterator[GpuRow]]]:
    """By name."""
    return {
        "tests": tests,
        "parity": parity,
        "ceilings": ceilings,
        "kernels": kernels,
        "step-8b": partial(step_8b, is_profiled=is_profiled),
        "step-1b": partial(step_1b, is_profiled=is_profiled),
        "serve": serve,
        "transformers": transformers,
        "transformers-flash": transformers_flash,
        "families": families,
    }


def main() -> None:
    part, result, folder = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    rows: list[GpuRow] = []
    problem = False
    try:
        for row in parts(is_profiled="--profile" in sys.argv)[part](folder):
            rows.append(row)
            write_rows(result, rows)
            print(row, flush=True)
    except BaseException as error:  # noqa: BLE001  SystemExit, too, says why in the table
        problem = True
        traceback.print_exc()
        write_rows(result, [*rows, failed(part, "ended", error)])
    sys.stdout.flush()
    sys.stderr.flush()
    # Not as usual: a library's thread that goes on (transformers' manager) would be waited for.
    os._exit(int(problem))


if __name__ == "__main__":
    main()
