"""A directory of this launcher alone, which goes away with it; and those that launchers left which
were killed.

    text-generation-XXXXXXXX/
      lock      locked by the launcher as long as it lives, however it ends
      shard-0   …

The lock appears when it is locked. So a directory that has one which nobody holds is nobody's; one
without is let alone, whatever it is.
"""

import fcntl
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

logger = logging.getLogger(__name__)

_PREFIX = "text-generation-"
_LOCK = "lock"


@contextmanager
def private_directory() -> Iterator[Path]:
    """Make one that only this user can read."""
    _remove_abandoned()
    directory = Path(tempfile.mkdtemp(prefix=_PREFIX))
    with _held_lock(directory):
        try:
            yield directory
        finally:  # while it is locked: unlocked, it would be another launcher's to remove
            shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def _held_lock(directory: Path) -> Iterator[None]:
    """Hold it until the end, or until this process is gone: children do not inherit it."""
    with (directory / "new-lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        (directory / "new-lock").rename(directory / _LOCK)
        yield


def _remove_abandoned() -> None:
    for lock in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/{_LOCK}"):
        with suppress(OSError):  # held, of another user, or gone meanwhile
            _remove_if_abandoned(lock)


def _remove_if_abandoned(lock: Path) -> None:
    directory = lock.parent
    if directory.is_symlink() or directory.stat().st_uid != os.getuid():
        return
    descriptor = os.open(lock, os.O_RDWR | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(directory)
        logger.info("removed %s, which a launcher that was killed has left", directory)
    finally:
        os.close(descriptor)
