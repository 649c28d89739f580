"""Recordings of operators as Python sees them; all is made in C++, see `csrc/recording.h`."""

from typing import Protocol


class RecordingMemory(Protocol):
    """Memory of recordings of which one computes at a time; grows as they need it."""

    @property
    def num_bytes(self) -> int:
        """How much there is."""

    def new_recording(self) -> "Recording":
        """Empty; what is made while it is written lies in this memory."""


class Gate(Protocol):
    """Where recorded steps wait for other threads, one step at a time."""

    def expect(self, arrivals: int) -> int:
        """The next step waits for so many of them; returns its number."""

    def arrive(self, step: int) -> None:
        """One of those that a step waits for; nothing if another step is waited for."""

    def wait(self) -> None:
        """Wait until all have arrived, without the interpreter's lock; it is written down, too."""


class Recording(Protocol):
    """What the operators computed on one thread between `begin` and `end`, see
    `csrc/recording.h`.
    """

    def begin(self) -> None:
        """From now on the operators that this thread calls are written down."""

    def end(self) -> None:
        """That was all."""

    def call(
        self,
        name: str,
        overload: str,
        args: tuple[object, ...],
        kwargs: dict[str, object],
        is_allocation: bool,
    ) -> object:
        """Call an operator of torch, and write it down; is_allocation: its result is only a place.
        Returns what it returns, but new tensors lie in the recordings' memory.
        """

    def replay(self) -> None:
        """Compute all again, without the interpreter's lock."""

    @property
    def num_operations(self) -> int:
        """Of which it consists."""
