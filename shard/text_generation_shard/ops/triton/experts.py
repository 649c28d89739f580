"""A mixture's experts as two products over all of them, on tiles of pairs of token and expert (see
`expert_tiles`). Nothing is added by atomics: equal inputs give equal results.
"""

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from text_generation_shard.ops.experts import Experts, Routing
from text_generation_shard.ops.triton.activation import activation_arguments, gated
from text_generation_shard.ops.triton.expert_tiles import tiles_of_pairs

# Tiles of which all outputs are computed before other tiles'.
_GROUP = 16
# Columns of a program that adds up a token's experts.
_SUM_BLOCK = 1024


def mix_experts(
    x: Tensor, routing: Routing, experts: Experts, addend: Tensor | None, *, weighs_inputs: bool
) -> Tensor:
    """Arguments and result as `ops.mix_experts.mix_experts` has them."""
    gate_up, down = experts.gate_up.dense, experts.down.dense
    assert gate_up is not None and down is not None and x.dtype == gate_up.dtype == down.dtype
    tokens, choices = routing.expert_ids.shape
    if tokens == 0:
        return torch.empty_like(x)
    num_experts, hidden, size = down.shape
    pairs = tokens * choices
    tiling = _tiling(pairs / num_experts, x.dtype.itemsize)
    weights = routing.weights.contiguous()
    order, tiles = tiles_of_pairs(routing.expert_ids.contiguous(), num_experts, tiling.rows)

    def made(count: int, width: int) -> Tensor:
        return torch.empty(count, width, dtype=x.dtype, device=x.device)

    activated, products, mixed = made(pairs, size), made(pairs, hidden), made(tokens, hidden)
    _gate_up_kernel[(len(tiles) * triton.cdiv(size, tiling.gates),)](
        x.contiguous(),
        gate_up,
        experts.gate_up_bias,
        weights if weighs_inputs else None,
        order,
        tiles,
        activated,
        len(tiles),
        size,
        hidden,
        **activation_arguments(experts.activation),
        CHOICES=choices,
        OUTPUTS=tiling.gates,
        **tiling.options,
    )
    _down_kernel[(len(tiles) * triton.cdiv(hidden, tiling.outputs),)](
        activated,
        down,
        experts.down_bias,
        None if weighs_inputs else weights,
        order,
        tiles,
        products,
        len(tiles),
        hidden,
        size,
        OUTPUTS=tiling.outputs,
        **tiling.options,
    )
    _sum_kernel[(tokens, triton.cdiv(hidden, _SUM_BLOCK))](
        products,
        None if addend is None else addend.contiguous(),
        mixed,
        hidden,
        CHOICES=choices,
        BLOCK=_SUM_BLOCK,
        num_warps=4,
    )
    return mixed


@dataclass(frozen=True, slots=True)
class _Tiling:
    """What a program multiplies: `rows` pairs with `gates` gates and as many up-projections, or
    with `outputs` of the last product, `depth` inputs at a time.
    """

    rows: int
    gates: int
    outputs: int
    depth: int
    num_warps: int
    num_stages: int

    @property
    def options(self) -> dict[str, Any]:
        return {
            "ROWS": self.rows,
            "DEPTH": self.depth,
            "GROUP": _GROUP,
            "num_warps": self.num_warps,
            "num_stages": self.num_stages,
        }


def _tiling(pairs_per_expert: float, itemsize: int) -> _Tiling:
    """Few rows of an expert: its weights are all that takes time, and many programs read them.
    Many: products on large tiles.
    """
    stages = 4 if itemsize == 2 else 2
    if pairs_per_expert <= 16:
        return _Tiling(16, 32, 64, 256 // itemsize, 4, stages)
    if pairs_per_expert <= 128:
        return _Tiling(64, 64, 128, 128 // itemsize, 4, stages)
    return _Tiling(128, 64, 128, 128 // itemsize, 8, stages)


@triton.jit
def _tile_of_program(num_tiles, outputs, OUTPUTS: tl.constexpr, GROUP: tl.constexpr):
    """Tile and first output: a group of tiles with all outputs before the next group, so that
    rows and weights are found again in the cache.
    """
    blocks = tl.cdiv(outputs, OUTPUTS)
    group = tl.program_id(0) // (GROUP * blocks)
    inside = tl.program_id(0) % (GROUP * blocks)
    size = tl.minimum(num_tiles - group * GROUP, GROUP)
    return group * GROUP + inside % size, inside // size * OUTPUTS


@triton.jit
def _operand(starts, is_row, first, inputs, DEPTH: tl.constexpr):
    """[ROWS, DEPTH]: columns first .. of rows that begin at starts, [ROWS] pointers; zeros
    outside.
    """
    columns = first + tl.arange(0, DEPTH)
    mask = is_row[:, None] & (columns < inputs)[None, :]
    return tl.load(starts[:, None] + columns[None, :], mask=mask, other=0.0)


@triton.jit
def _multiply(rows, matrix, acc):
    """acc + rows matrix^T. rows: [ROWS, DEPTH]; matrix: [OUTPUTS, DEPTH]."""
    # Three products of rounded parts: the precision of float32, on the matrix units.
    PRECISION: tl.constexpr = "tf32x3" if rows.dtype == tl.float32 else "tf32"
    return tl.dot(rows, tl.trans(matrix), acc, input_precision=PRECISION)


@triton.jit(do_not_specialize=["num_tiles"])
def _gate_up_kernel(
    x,
    matrices,
    biases,
    weights,
    order,
    tiles,
    activated,
    num_tiles,
    size,
    hidden,
    limit,
    alpha,
    ACTIVATION: tl.constexpr,
    CHOICES: tl.constexpr,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    DEPTH: tl.constexpr,
    GROUP: tl.constexpr,
):
    """activated: [pairs, size], in the order of the experts; weights: of the pairs, or None."""
    tile, first_output = _tile_of_program(num_tiles, size, OUTPUTS, GROUP)
    count = tl.load(tiles + 3 * tile + 2)
    if count == 0:
        return
    expert = tl.load(tiles + 3 * tile).to(tl.int64)
    lanes, outputs = tl.arange(0, ROWS), first_output + tl.arange(0, OUTPUTS)
    is_row, is_output = lanes < count, outputs < size
    places = tl.load(tiles + 3 * tile + 1) + lanes
    pairs = tl.load(order + places, mask=is_row, other=0)
    x_starts = x + (pairs // CHOICES).to(tl.int64) * hidden
    gate_starts = matrices + (expert * 2 * size + outputs) * hidden
    up_starts = matrices + (expert * 2 * size + size + outputs) * hidden
    gate = tl.zeros([ROWS, OUTPUTS], tl.float32)
    up = tl.zeros([ROWS, OUTPUTS], tl.float32)
    for first in tl.range(0, hidden, DEPTH):
        rows = _operand(x_starts, is_row, first, hidden, DEPTH)
        gate = _multiply(rows, _operand(gate_starts, is_output, first, hidden, DEPTH), gate)
        up = _multiply(rows, _operand(up_starts, is_output, first, hidden, DEPTH), up)
    if weights is not None:
        # Of what the expert reads: the same as of the products.
        weight = tl.load(weights + pairs, mask=is_row, other=0.0).to(tl.float32)
        gate *= weight[:, None]
        up *= weight[:, None]
    if biases is not None:
        bias = biases + expert * 2 * size + outputs
        gate += tl.load(bias, mask=is_output, other=0.0).to(tl.float32)[None, :]
        up += tl.load(bias + size, mask=is_output, other=0.0).to(tl.float32)[None, :]
    result = gated(gate, up, limit, alpha, ACTIVATION).to(activated.dtype.element_ty)
    places = places.to(tl.int64)[:, None] * size + outputs[None, :]
    tl.store(activated + places, result, mask=is_row[:, None] & is_output[None, :])


@triton.jit(do_not_specialize=["num_tiles"])
def _down_kernel(
    activated,
    matrices,
    biases,
    weights,
    order,
    tiles,
    products,
    num_tiles,
    hidden,
    size,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    DEPTH: tl.constexpr,
    GROUP: tl.constexpr,
):
    """products: [pairs, hidden], in the order of the pairs; the rest as in `_gate_up_kernel`."""
    tile, first_output = _tile_of_program(num_tiles, hidden, OUTPUTS, GROUP)
    count = tl.load(tiles + 3 * tile + 2)
    if count == 0:
        return
    expert = tl.load(tiles + 3 * tile).to(tl.int64)
    lanes, outputs = tl.arange(0, ROWS), first_output + tl.arange(0, OUTPUTS)
    is_row, is_output = lanes < count, outputs < hidden
    places = tl.load(tiles + 3 * tile + 1) + lanes
    starts = activated + places.to(tl.int64) * size
    matrix_starts = matrices + (expert * hidden + outputs) * size
    result = tl.zeros([ROWS, OUTPUTS], tl.float32)
    for first in tl.range(0, size, DEPTH):
        rows = _operand(starts, is_row, first, size, DEPTH)
        result = _multiply(rows, _operand(matrix_starts, is_output, first, size, DEPTH), result)
    if biases is not None:
        bias = biases + expert * hidden + outputs
        result += tl.load(bias, mask=is_output, other=0.0).to(tl.float32)[None, :]
    pairs = tl.load(order + places, mask=is_row, other=0)
    if weights is not None:
        result *= tl.load(weights + pairs, mask=is_row, other=0.0).to(tl.float32)[:, None]
    places = pairs.to(tl.int64)[:, None] * hidden + outputs[None, :]
    result = result.to(products.dtype.element_ty)
    tl.store(products + places, result, mask=is_row[:, None] & is_output[None, :])


@triton.jit
def _sum_kernel(products, addend, mixed, hidden, CHOICES: tl.constexpr, BLOCK: tl.constexpr):
    """The rows of a token's pairs, in their order, and the addend."""
    token = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < hidden
    total = tl.zeros([BLOCK], tl.float32)
    for choice in range(CHOICES):
        row = products + (token * CHOICES + choice) * hidden
        total += tl.load(row + columns, mask=inside, other=0.0).to(tl.float32)
    if addend is not None:
        total += tl.load(addend + token * hidden + columns, mask=inside, other=0.0).to(tl.float32)
    place = mixed + token * hidden + columns
    tl.store(place, total.to(mixed.dtype.element_ty), mask=inside)
