"""Packing matrices from wherever their rows lie."""

import pytest
import torch
from text_generation_shard.ops.cpu.operators import Operators
from text_generation_shard.ops.linear import PackedFormat, PackedWeight, pack, pack_parts
from text_generation_shard.weights.matrix_parts import MatrixParts
from torch import Tensor

FORMATS: list[PackedFormat] = ["float32", "bfloat16", "int8", "int4"]


def numbers(weight: PackedWeight, outputs: int) -> Tensor:
    return weight.rows(torch.arange(outputs))


@pytest.mark.parametrize("inputs", [1, 2, 33, 64, 131, 300])
@pytest.mark.parametrize("name", FORMATS)
def test_parts_are_the_matrix(operators: Operators, name: PackedFormat, inputs: int) -> None:
    """Columns of a wider matrix, a transposed one, rows in another order; nothing is a zero row."""
    matrix = torch.randn(37, inputs).bfloat16()
    matrix[20:23] = 0
    wide = torch.randn(9, inputs + 5).bfloat16()
    wide[:, 3:-2] = matrix[11:20]
    parts = [
        (23, matrix[23:]),
        (11, wide[:, 3:-2]),
        (0, matrix[:11].t().contiguous().t()),
    ]
    expected = pack(matrix, name)
    packed = pack_parts(parts, (37, inputs), name)
    assert packed.num_bytes == expected.num_bytes
    assert numbers(packed, 37).equal(numbers(expected, 37))
    if name in ("float32", "bfloat16"):
        assert numbers(packed, 37).equal(matrix.float())
    x = torch.randn(3, inputs)
    assert packed(x).equal(expected(x))


@pytest.mark.parametrize("name", FORMATS)
def test_a_wider_type_of_the_same_numbers(operators: Operators, name: PackedFormat) -> None:
    matrix = torch.randn(40, 200).bfloat16()
    expected = numbers(pack(matrix, name), 40)
    assert numbers(pack(matrix.float(), name), 40).equal(expected)
    mixed = [(0, matrix[:7]), (7, matrix[7:].double())]
    assert numbers(pack_parts(mixed, (40, 200), name), 40).equal(expected)


def test_refusals(operators: Operators) -> None:
    part = torch.randn(4, 6)
    for parts, text in (
        ([(-1, part)], "begins at -1 of 5"),
        ([(2, part)], "begins at 2 of 5"),
        ([(0, part[:, :5])], "contiguous rows of 6"),
        ([(0, torch.randn(6, 4).t())], "contiguous rows of 6"),
        ([(0, part), (4, part[:1].bfloat16())], "contiguous rows of 6 Float"),
    ):
        with pytest.raises(RuntimeError, match=text):
            operators.pack_parts(parts, 5, 6, "int8")


@pytest.mark.parametrize("shape", [(5, 5), (4, 7), (1, 6), (6, 1), (1, 1)])
def test_where_parts_go(shape: tuple[int, int]) -> None:
    """Into rows of the plan, and into its transpose."""
    collected, matrix = MatrixParts(*shape), torch.zeros(shape)
    split, values = shape[0] // 2, torch.randn(shape)
    collected.put(collected.plan[:split], values[:split])
    collected.put(collected.plan[split:].t(), values[split:].t())
    for first, rows in collected.rows:
        matrix[first : first + len(rows)] = rows
    assert matrix.equal(values)
