"""What a recorded function is, on any device."""

from collections.abc import Callable
from typing import Protocol

from torch import Tensor


class StepGraph(Protocol):
    """A recorded function of device memory that stays where it was."""

    def replay(self) -> None:
        """Compute it again, on what the memory holds now; does not wait for a GPU."""


class GraphRecorder(Protocol):
    """Makes graphs of functions."""

    @property
    def num_bytes(self) -> int:
        """Memory of the device that its graphs take, and what they compute with."""

    def record(self, compute: Callable[[], None]) -> StepGraph:
        """Record what a function computes; it may be called more than once, and its effects are
        none or may happen any number of times. RecordingRefusedError where that is not possible.
        """

    def show(self, values: Tensor, memory: Tensor) -> Tensor:
        """Where what a function made stands after a replay and until the next one: in the first
        rows of memory, unless it may be read where it is. To be called while recording.
        """


class RecordingRefusedError(Exception):
    """The function does something that a graph cannot repeat; the message says what."""


def copied(values: Tensor, memory: Tensor) -> Tensor:
    """The first rows of memory, after values were copied there."""
    rows = memory[: len(values)]
    rows.copy_(values)
    return rows
