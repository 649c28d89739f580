"""Products with packed weights against float64, for all formats and odd sizes."""

import pytest
import torch
from text_generation_shard.ops.cpu.operators import Operators
from torch import Tensor

FORMATS = ("float32", "bfloat16", "int8", "int4")
QUANTIZED = ("int8", "int4")
# Outputs that fill no panel, inputs that fill no step or group, and one more than a block's.
SIZES = [(1, 1), (16, 64), (37, 50), (100, 77), (250, 129), (65, 96), (33, 4099)]
ROWS = (1, 2, 3, 4, 5, 6, 7, 11, 12, 13, 25, 70)
# Of the largest result; activations are rounded to 8 bits, groups of them by their own scale.
TOLERANCE = {"float32": 1e-5, "bfloat16": 1e-5, "int8": 0.025, "int4": 0.025}


def pack(operators: Operators, weight: Tensor, name: str):
    return operators.pack(weight.bfloat16() if name == "bfloat16" else weight, name)


def multiplied(operators: Operators, x: Tensor, name: str) -> Tensor:
    """The activations as a product takes them, in float64."""
    is_rounded = name == "bfloat16" and operators.rounds_to_bfloat16
    return (x.bfloat16() if is_rounded else x).double()


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("size", SIZES)
def test_product(operators: Operators, name: str, size: tuple[int, int]) -> None:
    outputs, inputs = size
    matrix = pack(operators, torch.randn(size), name)
    stored = matrix.rows(torch.arange(outputs)).double()
    bias, x = torch.randn(outputs), torch.randn(max(ROWS), inputs)
    for rows in ROWS:
        for own_bias in (bias, None):
            actual = matrix.multiply(x[:rows], own_bias)
            expected = multiplied(operators, x[:rows], name) @ stored.T
            if own_bias is not None:
                expected += own_bias
            error = (actual - expected).abs().max() / expected.abs().max()
            assert actual.shape == expected.shape
            assert error < TOLERANCE[name]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("size", SIZES)
def test_addend(operators: Operators, name: str, size: tuple[int, int]) -> None:
    """What is added is not changed, and rounds as a sum of its own does."""
    outputs, inputs = size
    matrix = pack(operators, torch.randn(size), name)
    bias, x, addend = torch.randn(outputs), torch.randn(13, inputs), torch.randn(13, outputs)
    for rows in (1, 5, 13):
        before = addend.clone()
        for own_bias in (bias, None):
            actual = matrix.multiply(x[:rows], own_bias, addend[:rows])
            expected = matrix.multiply(x[:rows], own_bias) + addend[:rows]
            assert torch.equal(addend, before)
            torch.testing.assert_close(actual, expected, rtol=1e-5, atol=2e-4)


@pytest.mark.parametrize("name", FORMATS)
def test_stored_weights(operators: Operators, name: str) -> None:
    """What a format keeps of the weights: its rounding, in every group."""
    weight = torch.randn(37, 200) * torch.logspace(-3, 3, 37)[:, None]
    stored = pack(operators, weight, name).rows(torch.arange(37))
    if name == "float32":
        assert torch.equal(stored, weight)
    elif name == "bfloat16":
        assert torch.equal(stored, weight.bfloat16().float())
    else:
        errors = (stored - weight).norm(dim=1) / weight.norm(dim=1)
        assert errors.max() < {"int8": 0.009, "int4": 0.11}[name]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("size", [(100, 150), (100, 256), (100, 1000), (290, 3300)])
def test_a_row_does_not_depend_on_its_company(
    operators: Operators, name: str, size: tuple[int, int]
) -> None:
    """Not one bit: neither on how many rows there are nor on what the others hold."""
    matrix = pack(operators, torch.randn(size), name)
    x = torch.randn(70, size[1])
    x[3] *= 1e6
    together = matrix.multiply(x, None)
    for row in range(70):
        assert torch.equal(matrix.multiply(x[row : row + 1], None), together[row : row + 1])


@pytest.mark.parametrize("name", QUANTIZED)
def test_extreme_values_do_not_saturate(operators: Operators, name: str) -> None:
    """All products of one group at their largest, with both signs."""
    matrix = pack(operators, torch.ones(16, 256), name)
    for x in (torch.ones(5, 256), -torch.ones(5, 256)):
        torch.testing.assert_close(
            matrix.multiply(x, None), x @ torch.ones(256, 16), rtol=2e-3, atol=0
        )


@pytest.mark.parametrize("name", QUANTIZED)
@pytest.mark.parametrize("inputs", [32, 100, 128, 200, 256])
def test_extremes_of_both_signs_mixed(operators: Operators, name: str, inputs: int) -> None:
    """Every value at plus or minus its largest, weights and activations as signs: whole numbers."""
    weight, x = torch.randn(40, inputs).sign(), torch.randn(9, inputs).sign()
    weight[0], weight[1] = 1, -1
    x[0], x[1] = 1, -1
    matrix = pack(operators, weight, name)
    expected = x @ matrix.rows(torch.arange(40)).T
    for rows in (2, 9):  # few rows may be multiplied in another way than many
        actual = matrix.multiply(x[:rows], None)
        torch.testing.assert_close(actual, expected[:rows], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", QUANTIZED)
def test_an_outlier_hurts_its_own_group_only(operators: Operators, name: str) -> None:
    """A group of 128 inputs, of one row; the others are as exact as without it."""
    inputs, place = 384, 130
    matrix = pack(operators, torch.randn(50, inputs), name)
    stored = matrix.rows(torch.arange(50))
    x = torch.randn(4, inputs)
    x[2, place] = 3e4
    errors = matrix.multiply(x, None) - x @ stored.T
    step = 3e4 / 127
    bound = 0.51 * step * stored[:, 128:256].abs().sum(dim=1)
    assert (errors[2].abs() <= bound).all()
    assert errors[[0, 1, 3]].abs().max() < 0.025 * (x[[0, 1, 3]] @ stored.T).abs().max()
    x[2, 128:256] = 0
    errors = matrix.multiply(x, None)[2] - x[2] @ stored.T
    assert errors.abs().max() < 0.025 * (x[2] @ stored.T).abs().max()


@pytest.mark.parametrize("name", FORMATS)
def test_zeros_and_values_that_are_no_numbers(operators: Operators, name: str) -> None:
    matrix = pack(operators, torch.zeros(20, 100), name)
    assert torch.equal(matrix.multiply(torch.zeros(3, 100), None), torch.zeros(3, 20))
    matrix = pack(operators, torch.randn(20, 100), name)
    x = torch.randn(3, 100)
    x[1, 7] = float("nan")
    result = matrix.multiply(x, None)
    assert result[1].isnan().all()
    assert result[[0, 2]].isfinite().all()


@pytest.mark.parametrize("name", FORMATS)
def test_strided_rows_and_none(operators: Operators, name: str) -> None:
    matrix = pack(operators, torch.randn(20, 40), name)
    x = torch.randn(6, 100)
    assert torch.equal(matrix.multiply(x[:, :40], None), matrix.multiply(x[:, :40].clone(), None))
    assert matrix.multiply(torch.empty(0, 40), None).shape == (0, 20)


def test_refusals(operators: Operators) -> None:
    matrix = operators.pack(torch.randn(20, 40), "int8")
    with pytest.raises(RuntimeError, match="float32"):
        matrix.multiply(torch.zeros(2, 40, dtype=torch.bfloat16), None)
    with pytest.raises(RuntimeError, match="must be"):
        matrix.multiply(torch.zeros(2, 41), None)
    with pytest.raises(RuntimeError, match="contiguous rows"):
        matrix.multiply(torch.zeros(40, 2).T, None)
    with pytest.raises(RuntimeError, match="addend"):
        matrix.multiply(torch.zeros(2, 40), None, torch.zeros(1, 20))
    with pytest.raises(RuntimeError, match="row 20 of 20"):
        matrix.rows(torch.tensor([20]))
    with pytest.raises(RuntimeError, match="int3"):
        operators.pack(torch.randn(2, 2), "int3")
    with pytest.raises(RuntimeError, match="contiguous"):
        operators.pack(torch.randn(4, 2).T, "float32")
