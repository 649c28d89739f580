"""Products with weight matrices, in the format in which a matrix is kept."""

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from text_generation_shard.ops.cpu import library
from text_generation_shard.ops.cpu.operators import PackedMatrix, PackedStack
from text_generation_shard.ops.triton import library as triton_library

PackedFormat = Literal["float32", "bfloat16", "int8", "int4"]


class LinearWeight(Protocol):
    """A matrix [outputs, inputs] that does not change."""

    @property
    def num_bytes(self) -> int:
        """Memory that it takes."""

    def __call__(
        self, x: Tensor, bias: Tensor | None = None, addend: Tensor | None = None
    ) -> Tensor:
        """x W^T + bias + addend. x: [rows, inputs]; bias: [outputs]; addend: [rows, outputs], which
        the result may overwrite. Returns [rows, outputs].
        """

    def rows(self, indices: Tensor) -> Tensor:
        """Rows of the matrix; indices: integer [rows]. Returns [rows, inputs], as x's dtype is."""


class DenseWeight:
    """A matrix as it stands, of the activations' dtype: on every device, and the reference."""

    def __init__(self, matrix: Tensor) -> None:
        self._matrix = matrix

    @property
    def num_bytes(self) -> int:
        return self._matrix.nbytes

    def __call__(
        self, x: Tensor, bias: Tensor | None = None, addend: Tensor | None = None
    ) -> Tensor:
        if triton_library.takes(x):
            from text_generation_shard.ops.triton import gemv

            if gemv.has_kernel(x, self._matrix):
                return gemv.gemv(x, self._matrix, bias, addend)
            if addend is not None and bias is None:
                # The product begins with it: nothing is added afterwards, and all rounded once.
                return addend.addmm_(x, self._matrix.t())
        product = F.linear(x, self._matrix, bias)
        return product if addend is None else addend + product

    def rows(self, indices: Tensor) -> Tensor:
        return F.embedding(indices, self._matrix)


class PackedWeight:
    """A matrix as the C++ operators want it; activations and sums are float32.

    bfloat16 weights: where the processor multiplies pairs of bfloat16 (AVX512-BF16), the product
    rounds its activations to bfloat16, to nearest, for any number of rows.
    int8 and int4 are symmetric, with a scale for each output and 128 inputs;
    the product then rounds activations to int8, with a scale for each token and as many inputs.
    """

    def __init__(self, matrix: PackedMatrix) -> None:
        self.matrix = matrix

    @property
    def num_bytes(self) -> int:
        return self.matrix.num_bytes

    def __call__(
        self, x: Tensor, bias: Tensor | None = None, addend: Tensor | None = None
    ) -> Tensor:
        return self.matrix.multiply(x, bias, addend)

    def rows(self, indices: Tensor) -> Tensor:
        return self.matrix.rows(indices.long())


class MatrixStack(NamedTuple):
    """Matrices of one shape.

    dense: [matrices, outputs, inputs], where they lie together as they stand; packed: as the C++
    operators take them together.
    """

    matrices: Sequence[LinearWeight]
    dense: Tensor | None = None
    packed: PackedStack | None = None


class Projection(NamedTuple):
    """A matrix and the bias that goes with it, [outputs], or None."""

    weight: LinearWeight
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        """x: [rows, inputs]. Returns [rows, outputs]."""
        return self.weight(x, self.bias)


def packed_stack(matrices: Sequence[LinearWeight]) -> MatrixStack:
    """Packed matrices of one shape and format."""
    packed = [each.matrix for each in matrices if isinstance(each, PackedWeight)]
    assert len(packed) == len(matrices)
    return MatrixStack(matrices, packed=library.stack(packed))


def pack(matrix: Tensor, packed_format: PackedFormat) -> PackedWeight:
    """matrix: [outputs, inputs] on the CPU, where the operators are available."""
    return pack_parts([(0, matrix)], (matrix.shape[0], matrix.shape[1]), packed_format)


def pack_parts(
    parts: Sequence[tuple[int, Tensor]], shape: tuple[int, int], packed_format: PackedFormat
) -> PackedWeight:
    """A matrix of this shape, from the first output of each part and its rows on the CPU, which are
    read where they lie; outputs that no part has are zeros.
    """
    native = library.operators()
    assert native is not None
    dtype = _source_dtype({part.dtype for _, part in parts}, packed_format)
    rows = [(first, _with_whole_rows(part.to(dtype))) for first, part in parts]
    return PackedWeight(native.pack_parts(rows, *shape, packed_format))


def _source_dtype(dtypes: set[torch.dtype], packed_format: PackedFormat) -> torch.dtype:
    """In which data type the operators take parts that have these: the numbers stay the same, but
    where wider ones are to be kept in bfloat16.
    """
    is_narrow = packed_format != "float32" and dtypes == {torch.bfloat16}
    return torch.bfloat16 if is_narrow or packed_format == "bfloat16" else torch.float32


def _with_whole_rows(part: Tensor) -> Tensor:
    """The same numbers, those of a row one after another."""
    return part if part.stride(1) == 1 else part.contiguous()
