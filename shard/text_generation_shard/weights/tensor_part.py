"""The part of a stored tensor that a rank reads, and the runs of rows in the file that hold it."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor

# From stored values of some rows of a part, [rows, ...], and which rows of the tensor these are, to
# the values that they stand for; on any device.
Decode = Callable[[Tensor, range], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorPart:
    """Along dimension `dim` the places start, start + step, ..., `length` of them; all of the
    other dimensions.

    shape: of the whole tensor; index: only what lies at that place of dimension 0, which the part
    then does not have.
    """

    shape: tuple[int, ...]
    dim: int
    start: int
    length: int
    step: int = 1
    index: int | None = None

    @property
    def window(self) -> tuple[slice | int, ...]:
        """Of the whole tensor, with what lies between two steps (see `thinned`)."""
        window: list[slice | int] = [slice(None)] * len(self.shape)
        window[self.dim] = slice(self.start, self.stop)
        if self.index is not None:
            window[0] = self.index
        return tuple(window)

    def thinned(self, values: Tensor) -> Tensor:
        """Without what lies between two steps."""
        every = (*[slice(None)] * self.own_dim, slice(None, None, self.step))
        return values if self.step == 1 else values[every]

    @property
    def stop(self) -> int:
        """Behind the last place."""
        return self.start + self.length * self.step - (self.step - 1 if self.length else 0)

    @property
    def own_dim(self) -> int:
        """`dim` as the part counts its dimensions."""
        return self.dim if self.index is None else self.dim - 1

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Of a row of the tensor: all dimensions but the part's first, and `index`."""
        return self.shape[1:] if self.index is None else self.shape[2:]

    @property
    def rows(self) -> range:
        """Which rows of the tensor the part takes values from."""
        if self.own_dim == 0:
            return range(self.start, self.stop, self.step)
        return range(self.shape[0] if self.index is None else self.shape[1])

    def runs(self, max_values: int) -> Iterator["RowRun"]:
        """The rows in runs of at most so many values of the file; a row must fit."""
        most = (max_values // math.prod(self.row_shape) - 1) // self.rows.step + 1
        assert most > 0
        for first in range(0, len(self.rows), most):
            yield RowRun(self, first, self.rows[first : first + most])


@dataclass(frozen=True, slots=True)
class RowRun:
    """Some rows of a part, and in the file what lies between them; first: which of the part's."""

    part: TensorPart
    first: int
    rows: range

    @property
    def offset(self) -> int:
        """Where the run begins, in values of the tensor."""
        skipped = (self.part.index or 0) * math.prod(self.part.shape[1:])
        return skipped + self.rows[0] * math.prod(self.part.row_shape)

    @property
    def num_values(self) -> int:
        """How many values of the file the run is."""
        return self._num_stored_rows * math.prod(self.part.row_shape)

    def cut(self, values: Tensor) -> Tensor:
        """What the part takes of the run; values: [num_values]. Returns [rows, ...]."""
        values, part = values.view(self._num_stored_rows, *self.part.row_shape), self.part
        if part.own_dim > 0:
            values = values.narrow(part.own_dim, part.start, part.stop - part.start)
        return part.thinned(values)

    @property
    def _num_stored_rows(self) -> int:
        return self.rows[-1] + 1 - self.rows[0]
