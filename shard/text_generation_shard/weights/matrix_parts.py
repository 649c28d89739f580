"""A matrix that is packed from where its parts lie in files, without a copy between."""

import torch
from torch import Tensor


class MatrixParts:
    """Collects what would be copied into a matrix, for which `plan` stands, without memory."""

    def __init__(self, num_outputs: int, num_inputs: int) -> None:
        self.plan = torch.empty(num_outputs, num_inputs, device="meta")
        # The first output of each part, and its rows; no two parts have an output in common.
        self.rows: list[tuple[int, Tensor]] = []

    def put(self, destination: Tensor, values: Tensor) -> None:
        """destination: whole rows of the plan, or their transpose, of the values' shape."""
        num_inputs = self.plan.shape[1]
        if destination.stride() != (num_inputs, 1) or destination.shape[1] != num_inputs:
            destination, values = destination.t(), values.t()
        assert destination.shape[1] == num_inputs
        assert destination.storage_offset() % num_inputs == 0
        self.rows.append((destination.storage_offset() // num_inputs, values))
