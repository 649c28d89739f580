"""Normalisation of rows, with the residual stream added to first where that is asked for."""

import torch
import triton
import triton.language as tl
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Arguments and result as `ops.rms_norm.rms_norm` has them."""
    rows = _Rows(x)
    normed = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if rows.count:
        _rms_norm_kernel[(rows.count,)](
            rows.x, None, weight, normed, 1.0, eps, *rows.strides, rows.size, **rows.options
        )
    return normed


def add_rms_norm(
    stream: Tensor, update: Tensor, weight: Tensor, eps: float, alpha: float
) -> Tensor:
    """Arguments and result as `ops.rms_norm.add_rms_norm` has them."""
    assert stream.is_contiguous()
    rows, update = _Rows(stream), update.contiguous()
    normed = torch.empty_like(stream)
    if rows.count:
        _rms_norm_kernel[(rows.count,)](
            rows.x, update, weight, normed, alpha, eps, *rows.strides, rows.size, **rows.options
        )
    return normed


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """Arguments and result as `ops.layer_norm.layer_norm` has them."""
    rows = _Rows(x)
    normed = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if rows.count:
        _layer_norm_kernel[(rows.count,)](
            rows.x, weight, bias, normed, eps, *rows.strides, rows.size, **rows.options
        )
    return normed


class _Rows:
    """A tensor as rows of its last dimension: up to three dimensions may be a view (heads)."""

    def __init__(self, x: Tensor) -> None:
        if x.dim() > 3 or x.dim() == 1 or x.stride(-1) != 1:
            x = x.reshape(-1, x.shape[-1]).contiguous()
        self.x, self.size = x, x.shape[-1]
        self.count = x.numel() // self.size
        # Rows of one group, and the steps from group to group and from row to row.
        self.strides = (1, x.stride(0), 0) if x.dim() == 2 else (x.shape[1], *x.stride()[:2])
        block = triton.next_power_of_2(self.size)
        self.options = {"BLOCK": block, "num_warps": min(16, max(1, block // 512))}


@triton.jit
def _load_row(x, group_size, group_stride, row_stride, columns, size):
    row = tl.program_id(0).to(tl.int64)
    places = row // group_size * group_stride + row % group_size * row_stride + columns
    return tl.load(x + places, mask=columns < size, other=0.0)


@triton.jit
def _rms_norm_kernel(
    stream,
    update,
    weight,
    normed,
    alpha,
    eps,
    group_size,
    group_stride,
    row_stride,
    size,
    BLOCK: tl.constexpr,
):
    columns = tl.arange(0, BLOCK)
    inside = columns < size
    row = tl.program_id(0).to(tl.int64) * size
    dtype = stream.dtype.element_ty
    values = _load_row(stream, group_size, group_stride, row_stride, columns, size)
    if update is not None:
        added = tl.load(update + row + columns, mask=inside, other=0.0).to(tl.float32)
        values = (values.to(tl.float32) + alpha * added).to(dtype)
        tl.store(stream + row + columns, values, mask=inside)
    wide = values.to(tl.float32)
    wide *= tl.rsqrt(tl.sum(wide * wide) / size + eps)
    factors = tl.load(weight + columns, mask=inside, other=0.0)
    if factors.dtype == dtype:
        wide = wide.to(dtype).to(tl.float32)
    tl.store(normed + row + columns, (wide * factors.to(tl.float32)).to(dtype), mask=inside)


@triton.jit
def _layer_norm_kernel(
    x,
    weight,
    bias,
    normed,
    eps,
    group_size,
    group_stride,
    row_stride,
    size,
    BLOCK: tl.constexpr,
):
    columns = tl.arange(0, BLOCK)
    inside = columns < size
    values = _load_row(x, group_size, group_stride, row_stride, columns, size).to(tl.float32)
    centred = tl.where(inside, values - tl.sum(values) / size, 0.0)
    centred *= tl.rsqrt(tl.sum(centred * centred) / size + eps)
    centred *= tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    if bias is not None:
        centred += tl.load(bias + columns, mask=inside, other=0.0).to(tl.float32)
    places = tl.program_id(0).to(tl.int64) * size + columns
    tl.store(normed + places, centred.to(normed.dtype.element_ty), mask=inside)
