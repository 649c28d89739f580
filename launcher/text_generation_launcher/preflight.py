"""What must hold before anything is started, checked so that the message names the flag."""

import errno
import os
import socket
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from text_generation_process.endpoint import Endpoint

from text_generation_launcher.config import DEFAULT_MASTER_PORT
from text_generation_launcher.errors import LaunchError
from text_generation_launcher.private_directory import private_directory

_MAX_SOCKET_PATH_BYTES = 107  # sun_path of sockaddr_un holds 108 with its final zero


def require_free_port(hostname: str, port: int) -> None:
    """LaunchError if the router could not listen there."""
    problem = _listening_problem(hostname, port)
    if problem is None:
        return
    if problem.errno == errno.EADDRNOTAVAIL:
        raise LaunchError(f"--hostname {hostname} is not an address of this machine")
    if problem.errno == errno.EADDRINUSE:
        raise LaunchError(f"--port {port} is already in use on {hostname}")
    raise LaunchError(f"--port {port} on {hostname} cannot be used: {problem.strerror}")


@contextmanager
def master_port(address: str, asked: int | None) -> Iterator[int]:
    """The port where the shards meet: the one asked for, else the usual one, else any free one. It
    is held: launchers that start together would all find the usual one free, and a shard of one
    would meet those of another.
    """
    if asked is not None and _listening_problem(address, asked) is not None:
        raise LaunchError(f"--master-port {asked} is already in use")
    ports = (DEFAULT_MASTER_PORT, 0) if asked is None else (asked,)
    with held_port(address, *ports) as port:
        yield port


@contextmanager
def held_port(address: str, *ports: int) -> Iterator[int]:
    """Keep the first of these ports that nobody has (0: any) for a child that listens there, now
    and when it is started again. It must set SO_REUSEADDR, as Python's servers do.
    """
    with _holder(address, ports) as holder:
        port = int(holder.getsockname()[1])
        if _listening_problem(address, port) is not None:
            holder.close()  # this system would keep the child away, too
        yield port


def require_own_address(master_addr: str) -> None:
    """LaunchError if shards of this machine could not meet there."""
    try:
        address = socket.gethostbyname(master_addr)
    except OSError as error:
        raise LaunchError(f"--master-addr {master_addr}: {error.strerror}") from error
    problem = _listening_problem(address, 0)
    if problem is not None:
        raise LaunchError(
            f"--master-addr {master_addr} is not an address of this machine, which is node 0 "
            "(--node-rank)"
        )


@contextmanager
def shard_sockets(asked: str | None, num_shard: int) -> Iterator[str]:
    """A path for the shards' sockets (rank r listens on PATH-r).

    Without one asked for it lies in a directory that only this user can read and that goes away
    afterwards, so that two launchers never meet.
    """
    if asked is not None:
        path = Path(asked).absolute()
        _require_usable_directory(path)
        _require_short(path, num_shard)
        for rank in range(num_shard):
            _require_free_socket(Path(f"{path}-{rank}"))
        yield str(path)
        return
    with private_directory() as directory:
        path = directory / "shard"
        _require_short(path, num_shard)
        yield str(path)


def _holder(address: str, ports: Sequence[int]) -> socket.socket:
    """A bound socket that does not listen: nobody else is given its port, connecting is refused."""
    # At last also where connections of a server that has ended linger.
    for port, is_reused in (*((port, False) for port in ports), (ports[-1], True)):
        holder = socket.socket()
        try:
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, is_reused)
            holder.bind((address, port))
        except OSError as error:
            problem = error
            holder.close()
            continue
        # Bound without it, it was refused where another is held; from now on it lets the child in.
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, True)
        return holder
    raise LaunchError(f"no port can be had at {address}: {problem.strerror}")


def _listening_problem(hostname: str, port: int) -> OSError | None:
    family = socket.AF_INET6 if ":" in hostname else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((hostname, port))
            probe.listen()
        except OSError as error:
            return error
    return None


def _require_usable_directory(path: Path) -> None:
    if not path.parent.is_dir():
        raise LaunchError(f"--shard-uds-path {path}: there is no directory {path.parent}")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise LaunchError(f"--shard-uds-path {path}: {path.parent} is not writable")


def _require_short(path: Path, num_shard: int) -> None:
    longest = f"{path}-{num_shard - 1}"
    if len(os.fsencode(longest)) > _MAX_SOCKET_PATH_BYTES:
        raise LaunchError(
            f"the socket path {longest} is longer than {_MAX_SOCKET_PATH_BYTES} bytes: "
            "give a shorter --shard-uds-path"
        )


def _require_free_socket(path: Path) -> None:
    """Remove what a dead shard left; LaunchError if a living one or anything else is there."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if Endpoint.at(path) is not None:  # of a shard on another node, which began for another group
        path.unlink()
        return
    if not stat.S_ISSOCK(mode):
        raise LaunchError(f"--shard-uds-path: {path} exists and is not a socket")
    with socket.socket(socket.AF_UNIX) as probe:
        if probe.connect_ex(str(path)) == 0:
            raise LaunchError(f"--shard-uds-path: {path} is in use by another server")
    path.unlink()
