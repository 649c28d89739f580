"""The product of a matrix and one vector."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from text_generation_shard.ops.linear import DenseWeight

Call = Callable[..., Any]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("size", [(1, 8), (37, 40), (130, 520)])
@pytest.mark.parametrize(("has_bias", "has_addend"), [(True, False), (False, True), (True, True)])
def test_one_row(
    by_kernel: Call,
    device: torch.device,
    size: tuple[int, int],
    dtype: torch.dtype,
    has_bias: bool,
    has_addend: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rounded once, from float32: half a unit in the last place of the exact product."""
    few = "text_generation_shard.ops.triton.gemv.num_multiprocessors"
    monkeypatch.setattr(few, lambda _: 4)
    x = torch.randn(1, size[1], device=device).to(dtype)
    matrix = torch.randn(size, device=device).to(dtype)
    bias = torch.randn(size[0], device=device).to(dtype) if has_bias else None
    exact = x.double() @ matrix.double().t() + (0.0 if bias is None else bias.double())
    addend = torch.randn(1, size[0], device=device).to(dtype) if has_addend else None
    exact += 0.0 if addend is None else addend.double()
    actual = by_kernel(DenseWeight(matrix), x, bias, addend)
    assert actual.dtype == dtype and actual.shape == exact.shape
    unit = torch.finfo(dtype).eps
    torch.testing.assert_close(actual.double(), exact, atol=1e-4, rtol=unit)


@pytest.mark.parametrize("has_bias", [False, True])
def test_rows_are_added_to_in_the_product(
    by_kernel: Call, device: torch.device, has_bias: bool
) -> None:
    """In place, where there is no bias."""
    x, matrix = (torch.randn(rows, 16, device=device) for rows in (3, 9))
    stream = torch.randn(3, 9, device=device)
    bias = torch.randn(9, device=device) if has_bias else None
    expected = torch.nn.functional.linear(x, matrix, bias) + stream
    actual = by_kernel(DenseWeight(matrix), x, bias, stream)
    torch.testing.assert_close(actual, expected)
    assert (actual is stream) == (not has_bias)


@pytest.mark.parametrize(("rows", "inputs"), [(0, 16), (2, 16), (1, 13)])
def test_other_products_are_torchs(
    by_kernel: Call, device: torch.device, rows: int, inputs: int
) -> None:
    x = torch.randn(rows, inputs, device=device).bfloat16()
    matrix = torch.randn(9, inputs, device=device).bfloat16()
    expected = torch.nn.functional.linear(x, matrix)
    assert torch.equal(by_kernel(DenseWeight(matrix), x), expected)
