"""The bytes of a child's output, cut into lines."""

from collections.abc import Iterator

MAX_LINE_BYTES = 16 * 1024 * 1024  # a line without an end must not fill the memory


class LineSplitter:
    """Gives whole lines however the bytes arrive; loses nothing.

    A line of more than MAX_LINE_BYTES comes in pieces. Bytes that are not UTF-8 are shown as
    `\\xNN`.
    """

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> Iterator[str]:
        """The lines that `data` completes, without their line ends."""
        start = 0
        while (end := data.find(b"\n", start)) >= 0:
            self._rest += data[start:end]
            yield self._take()
            start = end + 1
        self._rest += data[start:]
        if len(self._rest) > MAX_LINE_BYTES:
            yield self._take()

    def finish(self) -> Iterator[str]:
        """The last line, where it has no end."""
        if self._rest:
            yield self._take()

    def _take(self) -> str:
        line = self._rest.decode("utf-8", errors="backslashreplace").removesuffix("\r")
        self._rest.clear()
        return line
