"""Matrices of 8-bit floats with a scale for every block, as DeepSeek V3 is published."""

from dataclasses import dataclass

import torch
from torch import Tensor

# safetensors' name of the type, and what is added to a matrix's name for its scales.
FP8 = "F8_E4M3"
SCALES_SUFFIX = "_scale_inv"


@dataclass(frozen=True, slots=True)
class ScaleBlocks:
    """How many rows and columns of a matrix share a scale; the last blocks may be smaller."""

    rows: int
    columns: int

    def shape_of_scales(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Of the scales of a matrix of this shape."""
        rows, columns = shape
        return -(-rows // self.rows), -(-columns // self.columns)

    def widen(self, part: Tensor, scales: Tensor, *, first: tuple[int, int]) -> Tensor:
        """The values of a part of a matrix, float32.

        part: float8 [rows, columns]; first: its first row and column in the whole matrix; scales:
        of the whole, as `shape_of_scales` has it; both on one device.
        """
        last, device = (first[0] + part.shape[0], first[1] + part.shape[1]), part.device
        rows = torch.arange(first[0], last[0], device=device) // self.rows
        columns = torch.arange(first[1], last[1], device=device) // self.columns
        return part.float() * scales.float()[rows][:, columns]
