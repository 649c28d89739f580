"""The threads of the operators: whoever computes, the bits are the same."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from text_generation_shard.ops.cpu import library
from text_generation_shard.ops.cpu.operators import Operators, PackedMatrix
from torch import Tensor

FORMATS = ("float32", "bfloat16", "int8", "int4")


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    torch.manual_seed(0)
    yield
    library.set_num_threads(1)


def matrix_of(operators: Operators, outputs: int, inputs: int, name: str) -> PackedMatrix:
    weight = torch.randn(outputs, inputs)
    return operators.pack(weight.bfloat16() if name == "bfloat16" else weight, name)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("rows", [1, 30])
def test_the_same_bits_for_every_number_of_threads(
    operators: Operators, name: str, rows: int
) -> None:
    matrix = matrix_of(operators, 1500, 1100, name)
    x = torch.randn(rows, 1100)
    library.set_num_threads(1)
    expected = matrix.multiply(x, None)
    for num_threads in (2, 3, 17):
        library.set_num_threads(num_threads)
        assert all(torch.equal(matrix.multiply(x, None), expected) for _ in range(5))


def test_many_jobs_in_a_row(operators: Operators) -> None:
    """More threads than cores: most are late, and meet a job that is over or another one."""
    library.set_num_threads(1)
    matrices = [matrix_of(operators, outputs, 40, "float32") for outputs in (20, 700, 90, 1300)]
    x = torch.randn(1, 40)
    expected = [matrix.multiply(x, None) for matrix in matrices]
    library.set_num_threads(6)
    for _ in range(500):
        for matrix, each in zip(matrices, expected, strict=True):
            assert torch.equal(matrix.multiply(x, None), each)


def test_several_callers(operators: Operators) -> None:
    """Only one of them has the pool at a time; the others do without."""
    library.set_num_threads(3)
    matrix = matrix_of(operators, 900, 64, "bfloat16")
    inputs = [torch.randn(9, 64) for _ in range(4)]
    expected = [matrix.multiply(x, None) for x in inputs]

    def repeat(index: int) -> list[Tensor]:
        return [matrix.multiply(inputs[index], None) for _ in range(100)]

    with ThreadPoolExecutor(len(inputs)) as callers:
        for results, each in zip(callers.map(repeat, range(len(inputs))), expected, strict=True):
            assert all(torch.equal(result, each) for result in results)
