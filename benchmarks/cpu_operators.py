"""Speed of the C++ operators beside torch's, one operator at a time.

    python -m benchmarks.cpu_operators --rows 1 8 32 512 --inputs 4096 --outputs 4096

Every round measures all competitors once, in turn, so that a noisy machine is noisy for all;
medians are shown. Weights are taken from a set larger than the caches, as a model's are.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from rich.console import Console
from rich.table import Table
from text_generation_shard.ops.cpu.library import instruction_sets, operators_for, set_num_threads
from text_generation_shard.ops.cpu.operators import Operators, PackedMatrix
from torch import Tensor

WEIGHT_FORMATS = ("float32", "bfloat16", "int8", "int4")
# Weights of one competitor, all matrices together: more than the caches hold.
SET_BYTES = 160_000_000
MAX_MATRICES = 64
# Measured at one time, so that the clock's resolution does not matter.
MIN_SECONDS = 0.02

Product = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Competitor:
    """One way to multiply, with several matrices of one shape."""

    name: str
    products: list[Product]
    num_bytes: int  # of one matrix


def torch_competitor(weight: Tensor) -> Competitor:
    """F.linear in the weight's dtype."""
    weights = [weight.clone() for _ in range(_num_matrices(weight.nbytes))]
    return Competitor(
        name=f"torch {str(weight.dtype).removeprefix('torch.')}",
        products=[_torch_product(each) for each in weights],
        num_bytes=weight.nbytes,
    )


def _torch_product(weight: Tensor) -> Product:
    return lambda x: F.linear(x.to(weight.dtype), weight)


def own_competitor(operators: Operators, name: str, weight: Tensor, format_: str) -> Competitor:
    """Our product with weights of one format."""
    source = weight.bfloat16() if format_ == "bfloat16" else weight
    num_bytes = operators.pack(source, format_).num_bytes
    matrices = [operators.pack(source, format_) for _ in range(_num_matrices(num_bytes))]
    return Competitor(
        name=f"{name} {format_}",
        products=[_own_product(matrix) for matrix in matrices],
        num_bytes=num_bytes,
    )


def _own_product(matrix: PackedMatrix) -> Product:
    return lambda x: matrix.multiply(x, None)


def _num_matrices(num_bytes: int) -> int:
    return min(MAX_MATRICES, max(1, -(-SET_BYTES // num_bytes)))


def competitors(
    outputs: int, inputs: int, names: Sequence[str], formats: Sequence[str]
) -> Iterator[Competitor]:
    weight = torch.randn(outputs, inputs) * 0.02
    yield torch_competitor(weight)
    yield torch_competitor(weight.bfloat16())
    for name in names:
        for format_ in formats:
            yield own_competitor(operators_for(name), name, weight, format_)


def seconds_per_call(competitor: Competitor, x: Tensor) -> float:
    """Mean over at least one pass through the matrices."""
    calls = 0
    started = time.perf_counter()
    while True:
        for product in competitor.products:
            product(x)
        calls += len(competitor.products)
        elapsed = time.perf_counter() - started
        if elapsed > MIN_SECONDS:
            return elapsed / calls


def measure(found: list[Competitor], rows: int, inputs: int, num_rounds: int) -> dict[str, float]:
    """Median seconds of each competitor; a first round is not counted."""
    x = torch.randn(rows, inputs)
    samples: dict[str, list[float]] = {each.name: [] for each in found}
    for number in range(num_rounds + 1):
        for each in found:
            seconds = seconds_per_call(each, x)
            if number:
                samples[each.name].append(seconds)
    return {name: statistics.median(values) for name, values in samples.items()}


def show(medians: dict[int, dict[str, float]], outputs: int, inputs: int) -> None:
    """One line per competitor: milliseconds, and how many times as fast as torch in float32."""
    threads = torch.get_num_threads()
    table = Table(
        title=f"[{outputs}, {inputs}] weights, {threads} threads: ms (times torch float32)",
        title_justify="left",
    )
    table.add_column("rows of activations")
    for rows in medians:
        table.add_column(str(rows), justify="right")
    for name in next(iter(medians.values())):
        cells = [
            f"{times[name] * 1000:.3f} ({times['torch float32'] / times[name]:.2f})"
            for times in medians.values()
        ]
        table.add_row(name, *cells)
    Console(width=120).print(table)


def show_rates(
    medians: dict[int, dict[str, float]], found: list[Competitor], outputs: int, inputs: int
) -> None:
    """One line per competitor: 10^9 multiply-adds per second, and 10^9 bytes of weights."""
    table = Table(title="10^9 multiply-adds/s (GB/s of weights)", title_justify="left")
    table.add_column("rows of activations")
    for rows in medians:
        table.add_column(str(rows), justify="right")
    for each in found:
        cells = []
        for rows, times in medians.items():
            seconds = times[each.name] * 1e9
            products = rows * outputs * inputs / seconds
            cells.append(f"{products:.0f} ({each.num_bytes / seconds:.1f})")
        table.add_row(each.name, *cells)
    Console(width=120).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cpu_operators",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 32, 512])
    parser.add_argument("--inputs", type=int, default=1024)
    parser.add_argument("--outputs", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--instruction-sets", nargs="+", help="such as avx2 (default: all that there are)"
    )
    parser.add_argument(
        "--formats", nargs="+", choices=WEIGHT_FORMATS, default=WEIGHT_FORMATS, help="of weights"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    names = tuple(options.instruction_sets or instruction_sets())
    if missing := set(names) - set(instruction_sets()):
        parser.error(f"--instruction-sets: not here: {', '.join(sorted(missing))}")
    torch.set_num_threads(options.threads)
    set_num_threads(options.threads)
    with torch.inference_mode():
        found = list(competitors(options.outputs, options.inputs, names, options.formats))
        medians = {
            rows: measure(found, rows, options.inputs, options.rounds) for rows in options.rows
        }
    show(medians, options.outputs, options.inputs)
    show_rates(medians, found, options.outputs, options.inputs)


if __name__ == "__main__":
    main()
