"""A matrix times one vector: the decode step of a single sequence reads every weight once.

A program takes a few rows of the matrix, whole, so that the sum needs no second pass; the fewer
outputs there are, the fewer rows it takes, so that all of the device is busy.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from text_generation_shard.ops.triton.library import num_multiprocessors

_BLOCK = 512
_MAX_ROWS = 8
# Programs per multiprocessor that keep its loads in flight.
_PROGRAMS_PER_MULTIPROCESSOR = 2


def has_kernel(x: Tensor, matrix: Tensor) -> bool:
    """Whether it is this kernel's product: one row, in 16 bits, rows of whole 16-byte loads."""
    is_narrow = x.dtype == matrix.dtype and x.dtype.itemsize == 2
    return len(x) == 1 and is_narrow and matrix.is_contiguous() and matrix.shape[1] % 8 == 0


def gemv(x: Tensor, matrix: Tensor, bias: Tensor | None, addend: Tensor | None) -> Tensor:
    """x W^T + bias + addend, rounded once. x: [1, inputs]; matrix: [outputs, inputs]; bias:
    [outputs]; addend: [1, outputs]. Returns [1, outputs].
    """
    outputs, inputs = matrix.shape
    y = torch.empty(1, outputs, dtype=x.dtype, device=x.device)
    wanted = _PROGRAMS_PER_MULTIPROCESSOR * num_multiprocessors(x.device)
    rows = _MAX_ROWS
    while rows > 1 and outputs < rows * wanted:
        rows //= 2
    grid = (triton.cdiv(outputs, rows),)
    _gemv_kernel[grid](
        x.contiguous(),
        matrix,
        bias,
        None if addend is None else addend.contiguous(),
        y,
        outputs,
        inputs,
        ROWS=rows,
        BLOCK=_BLOCK,
        num_warps=rows,
    )
    return y


@triton.jit
def _gemv_kernel(
    x, matrix, bias, addend, y, outputs, inputs, ROWS: tl.constexpr, BLOCK: tl.constexpr
):
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = rows < outputs
    starts = matrix + rows.to(tl.int64)[:, None] * inputs
    products = tl.zeros([ROWS, BLOCK], tl.float32)
    for first in range(0, inputs, BLOCK):
        columns = first + tl.arange(0, BLOCK)
        weights = tl.load(
            starts + columns[None, :],
            mask=inside[:, None] & (columns < inputs)[None, :],
            other=0.0,
            eviction_policy="evict_first",
        )
        values = tl.load(x + columns, mask=columns < inputs, other=0.0)
        products += weights.to(tl.float32) * values.to(tl.float32)[None, :]
    sums = tl.sum(products, axis=1)
    if bias is not None:
        sums += tl.load(bias + rows, mask=inside, other=0.0).to(tl.float32)
    if addend is not None:
        sums += tl.load(addend + rows, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + rows, sums.to(y.dtype.element_ty), mask=inside)
