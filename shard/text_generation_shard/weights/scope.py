"""The tensors under one prefix of a checkpoint, as the layers of a model ask for them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from text_generation_shard.ops.linear import (
    DenseWeight,
    LinearWeight,
    MatrixStack,
    pack_parts,
    packed_stack,
)
from text_generation_shard.weights.reader import CheckpointReader
from text_generation_shard.weights.storage import DENSE, WeightStorage
from text_generation_shard.weights.tensor_part import Decode, TensorPart


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightScope:
    """The tensors under one prefix, as a layer asks for them: one dtype, one device.

    cache_dtype: of cached keys and values; None: as all else.
    """

    reader: CheckpointReader
    prefix: str
    dtype: torch.dtype
    device: torch.device
    storage: WeightStorage = DENSE
    cache_dtype: torch.dtype | None = None

    @property
    def unscaled_cache_dtype(self) -> torch.dtype | None:
        """Of what is cached without scales: cache_dtype, but not 8 bits."""
        is_scaled = self.cache_dtype is not None and self.cache_dtype.itemsize == 1
        return None if is_scaled else self.cache_dtype

    def scope(self, name: str) -> "WeightScope":
        """The tensors of a sub-module."""
        return replace(self, prefix=f"{self.prefix}{name}.")

    def body(self, name: str) -> "WeightScope":
        """The tensors of the sub-module that is all but the head; these here, where a checkpoint
        was saved without a head and so without the sub-module's name.
        """
        is_nested = self.reader.has_prefix(f"{self.prefix}{name}.")
        return self.scope(name) if is_nested else self

    def __contains__(self, name: str) -> bool:
        return self.prefix + name in self.reader

    def empty(self, *shape: int) -> Tensor:
        """Room for a weight."""
        return torch.empty(shape, dtype=self.dtype, device=self.device)

    def matrix(
        self,
        num_outputs: int,
        num_inputs: int,
        fill: Callable[[Tensor], None],
        *,
        is_table: bool = False,
    ) -> LinearWeight:
        """A matrix in the storage that was chosen; `fill` reads into [num_outputs, num_inputs], and
        does not look at what it has read (see `CheckpointReader.late`).
        """
        packed_format = self.storage.table if is_table else self.storage.body
        if packed_format is None:
            dense = self.empty(num_outputs, num_inputs)
            with self.reader.late():
                fill(dense)
            return DenseWeight(dense)
        kept_bytes = self.reader.kept_bytes
        with self.reader.parts(num_outputs, num_inputs) as parts:
            fill(parts.plan)
        weight = pack_parts(parts.rows, (num_outputs, num_inputs), packed_format)
        self.reader.kept_bytes = kept_bytes + weight.num_bytes
        return weight

    def matrices(
        self,
        count: int,
        num_outputs: int,
        num_inputs: int,
        fill: Callable[[int, Tensor], None],
        *,
        is_table: bool = False,
    ) -> MatrixStack:
        """Matrices of one shape; `fill` takes an index as well, and is otherwise as in `matrix`."""
        if self.storage.body is not None:
            made = [
                self.matrix(num_outputs, num_inputs, partial(fill, index), is_table=is_table)
                for index in range(count)
            ]
            return packed_stack(made)
        dense = self.empty(count, num_outputs, num_inputs)
        with self.reader.late():
            for index, matrix in enumerate(dense):
                fill(index, matrix)
        return MatrixStack([DenseWeight(matrix) for matrix in dense], dense)

    def read(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """A whole tensor."""
        weight = self.empty(*shape)
        self.read_into(weight, name, shape=shape)
        return weight

    def read_into(
        self,
        destination: Tensor,
        name: str,
        *,
        shape: tuple[int, ...],
        dim: int = 0,
        start: int = 0,
        step: int = 1,
        index: int | None = None,
    ) -> None:
        """A part of a tensor, see `CheckpointReader.read_into`."""
        self.reader.read_into(
            destination,
            self.prefix + name,
            shape=shape,
            dim=dim,
            start=start,
            step=step,
            index=index,
        )

    def read_coded_into(
        self, destination: Tensor, name: str, part: TensorPart, decode: Decode
    ) -> None:
        """What bytes stand for, see `CheckpointReader.read_coded_into`."""
        self.reader.read_coded_into(destination, self.prefix + name, part, decode)

    def read_number(self, name: str) -> float:
        """A tensor of one number."""
        return self.reader.read_number(self.prefix + name)

    def read_bytes(self, name: str, *, shape: tuple[int, ...]) -> Tensor:
        """A whole tensor of bytes, see `CheckpointReader.read_bytes`."""
        return self.reader.read_bytes(self.prefix + name, shape=shape)
