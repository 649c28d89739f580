"""One tensor of a safetensors file, read lazily."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from text_generation_shard.errors import CheckpointError
from text_generation_shard.weights.block_scales import FP8

# By safetensors' names, the data types that can be loaded as they are, and those of coded values.
LOADABLE: Mapping[str, torch.dtype] = MappingProxyType(
    {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
)
BYTES = "U8"
_CODED = {BYTES: torch.uint8, FP8: torch.float8_e4m3fn}


@dataclass(slots=True)
class StoredTensor:
    """slices: safetensors' lazy handle; offset: where in the file the values begin, if asked for;
    was_read: whether something of it was.
    """

    path: Path
    name: str
    slices: Any
    shape: tuple[int, ...]
    dtype: str
    offset: int | None
    was_read: bool = False

    @property
    def torch_dtype(self) -> torch.dtype:
        """A byte for each value of a type that cannot be loaded."""
        return LOADABLE.get(self.dtype) or _CODED.get(self.dtype, torch.uint8)

    @property
    def num_bytes(self) -> int:
        """Of the file."""
        return math.prod(self.shape) * self.torch_dtype.itemsize

    def read(self, window: tuple[slice | int, ...] | None = None) -> Tensor:
        """A part, or all, as it is stored, on the CPU."""
        whole = (slice(None),) * len(self.shape)
        try:
            values: Tensor = self.slices[whole if window is None else window]
        except SafetensorError as error:
            raise CheckpointError(f"{self.path}: tensor {self.name}: {error}") from error
        self.was_read = True
        return values
