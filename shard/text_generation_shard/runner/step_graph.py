"""What a recorded function is, on any device."""

from collections.abc import Callable
from typing import Protocol


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


class RecordingRefusedError(Exception):
    """The function does something that a graph cannot repeat; the message says what."""
