"""Stop strings: found wherever they begin or end inside tokens."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Checked:
    """Text that may go out now, how much of it belongs to text held back before, and the stop
    string that was reached.
    """

    text: str
    num_held_characters: int
    stop_sequence: str | None


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
        end, stop = self._find(window)
        if self._keep:
            if stop is not None:
                return Checked(piece[: end - len(tail)], 0, stop)
            self._tail = window[max(0, len(window) - self._max_length + 1) :]
            return Checked(piece, 0, None)
        if stop is not None:
            self._tail = ""
            start = end - len(stop)
            return Checked(window[:start], min(start, len(tail)), stop)
        certain = len(window) - self._num_undecided(window)
        self._tail = window[certain:]
        return Checked(window[:certain], min(certain, len(tail)), None)

    def release(self) -> str:
        """What is held back, when no more text comes (or none that could complete it)."""
        if self._keep:
            return ""
        held, self._tail = self._tail, ""
        return held

    def _find(self, window: str) -> tuple[int, str | None]:
        """Where the stop string that ends first does so, and which it is."""
        best: tuple[int, str | None] = (len(window), None)
        for stop in self._stop_sequences:
            start = window.find(stop)
            if start < 0:
                continue
            end = start + len(stop)
            if best[1] is None or (end, -len(stop)) < (best[0], -len(best[1])):
                best = (end, stop)
        return best

    def _num_undecided(self, window: str) -> int:
        """Length of the longest end of the window that begins a stop string."""
        for length in range(min(self._max_length - 1, len(window)), 0, -1):
            end = window[-length:]
            if any(stop.startswith(end) for stop in self._stop_sequences):
                return length
        return 0
