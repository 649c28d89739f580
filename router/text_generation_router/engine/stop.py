"""Stop strings: found wherever they begin or end inside tokens."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Checked:
    """Text that may go out now, how much of it belongs to text held back before, and whether a stop
    string was reached.
    """

    text: str
    num_held_characters: int
    is_stopped: bool


class StopChecker:
    """Watches one generation's text.

    With `keep` the text ends behind the stop string; without it, before: text that may be the
    beginning of a stop string is then held back until that is decided. If several stop strings end
    in a piece, the one that ends first counts, and of those the longest.
    """

    def __init__(self, stop_sequences: tuple[str, ...], *, keep: bool) -> None:
        self._stop_sequences = tuple(stop for stop in stop_sequences if stop)
        self._max_length = max(map(len, self._stop_sequences), default=0)
        self._keep = keep
        # With `keep`, the end of the text that is out; without, the text held back.
        self._tail = ""

    def push(self, piece: str) -> Checked:
        """The next piece of text."""
        tail = self._tail
        window = tail + piece
        end, length = self._find(window)
        if self._keep:
            if end is not None:
                return Checked(piece[: end - len(tail)], 0, True)
            self._tail = window[max(0, len(window) - self._max_length + 1) :]
            return Checked(piece, 0, False)
        if end is not None:
            self._tail = ""
            start = end - length
            return Checked(window[:start], min(start, len(tail)), True)
        certain = len(window) - self._num_undecided(window)
        self._tail = window[certain:]
        return Checked(window[:certain], min(certain, len(tail)), False)

    def release(self) -> str:
        """What is held back, when no more text comes (or none that could complete it)."""
        if self._keep:
            return ""
        held, self._tail = self._tail, ""
        return held

    def _find(self, window: str) -> tuple[int | None, int]:
        """End and length of the stop string that ends first."""
        best: tuple[int | None, int] = (None, 0)
        for stop in self._stop_sequences:
            start = window.find(stop)
            if start < 0:
                continue
            end = start + len(stop)
            if best[0] is None or (end, -len(stop)) < (best[0], -best[1]):
                best = (end, len(stop))
        return best

    def _num_undecided(self, window: str) -> int:
        """Length of the longest end of the window that begins a stop string."""
        for length in range(min(self._max_length - 1, len(window)), 0, -1):
            end = window[-length:]
            if any(stop.startswith(end) for stop in self._stop_sequences):
                return length
        return 0
