"""Listening on a unix socket that only this user may open."""

import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

from text_generation_shard.errors import SocketError

# `sun_path` of Linux, its closing zero left out.
_MAX_PATH_BYTES = 107


def bind_privately(path: Path, bind: Callable[[str], int]) -> None:
    """Let `bind` listen on `path`, so that the socket has mode 0600 from its first moment.

    bind: takes an address as gRPC writes it and returns 0 if it could not. A socket that nobody
    listens on any more is removed first; one that is in use, or another kind of file, is an error.
    """
    if len(os.fsencode(path)) > _MAX_PATH_BYTES:
        raise SocketError(f"--uds-path: {path} is longer than {_MAX_PATH_BYTES} bytes")
    _remove_stale(path)
    # The mask belongs to the whole process; no other thread makes files at this time.
    mask = os.umask(0o177)
    try:
        bound = bind(f"unix:{path}")
    except (OSError, RuntimeError) as error:
        raise SocketError(f"--uds-path: cannot listen on {path}: {error}") from error
    finally:
        os.umask(mask)
    if not bound:
        raise SocketError(f"--uds-path: cannot listen on {path}")


def _remove_stale(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise SocketError(f"--uds-path: {path}: {error.strerror}") from error
    if not stat.S_ISSOCK(mode):
        raise SocketError(f"--uds-path: {path} exists and is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except OSError as error:
            raise SocketError(f"--uds-path: {path}: {error.strerror}") from error
    raise SocketError(f"--uds-path: another process listens on {path}")
