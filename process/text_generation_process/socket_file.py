"""Which process listens at a path: each makes a file of its own there."""

import contextlib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class SocketFile:
    """The file that lies at a path now; equal only to itself, also when another takes its place."""

    device: int
    inode: int
    changed_at_ns: int

    @classmethod
    def at(cls, path: str | Path) -> "SocketFile | None":
        """None if nothing lies there."""
        with contextlib.suppress(FileNotFoundError):
            status = Path(path).stat()
            return cls(status.st_dev, status.st_ino, status.st_ctime_ns)
        return None

    def __str__(self) -> str:
        """For a log record, from which another process compares it."""
        return f"{self.device}:{self.inode}:{self.changed_at_ns}"
