"""Server processes that a benchmark starts: ready when they answer, gone when it ends."""

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

POLL_S = 0.005
STOP_TIMEOUT_S = 60.0
LOG_TAIL_LINES = 20


class ServerFailedError(RuntimeError):
    """A server did not start or did not stop; the text holds the end of its log."""


@dataclass(frozen=True, kw_only=True)
class RunningServer:
    """A started program that listens on a local port."""

    process: "subprocess.Popen[bytes]"
    port: int
    log: Path
    started_at: float  # time.time()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def cpu_seconds(self) -> float:
        """CPU time used so far by the program and all its children that live."""
        return sum(process_cpu_seconds(pid) for pid in process_tree(self.process.pid))

    def log_tail(self) -> str:
        """The last lines that it wrote."""
        lines = self.log.read_text(errors="replace").splitlines()
        return "\n".join(lines[-LOG_TAIL_LINES:])


def program(name: str) -> str:
    """Path of a console script of this environment."""
    return str(Path(sys.executable).parent / name)


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def serve(
    argv: Sequence[str], *, port: int, ready_timeout: float = 120.0, cores: set[int] | None = None
) -> Iterator[RunningServer]:
    """Run a server until the block ends; entered when `GET /health` answers 200.

    `cores` pins it, and its children, to these. It is stopped with SIGTERM. Raises
    ServerFailedError when it ends or stays silent before it is ready.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        log = Path(folder) / "log"
        with log.open("wb") as output:
            started_at = time.time()
            process = subprocess.Popen(
                argv, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
            )
        if cores is not None:
            os.sched_setaffinity(process.pid, cores)
        server = RunningServer(process=process, port=port, log=log, started_at=started_at)
        try:
            wait_until_ready(server, ready_timeout)
            yield server
        finally:
            stop(server)


def wait_until_ready(server: RunningServer, timeout: float) -> None:
    """Poll `GET /health` until it answers 200."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            raise ServerFailedError(f"exit code {server.process.returncode}\n{server.log_tail()}")
        if is_healthy(server.port):
            return
        time.sleep(POLL_S)
    raise ServerFailedError(f"not ready within {timeout:g} s\n{server.log_tail()}")


def is_healthy(port: int) -> bool:
    """Whether `GET /health` answers 200 now."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def stop(server: RunningServer) -> None:
    """SIGTERM and wait; a server that does not end in time is killed."""
    if server.process.poll() is not None:
        return
    server.process.send_signal(signal.SIGTERM)
    try:
        server.process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        server.process.kill()
        server.process.wait()
        raise ServerFailedError(f"still running {STOP_TIMEOUT_S:g} s after SIGTERM") from None


def process_tree(root: int) -> list[int]:
    """A process and its living descendants."""
    found = [root]
    for pid in found:
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += map(int, children.read_text().split())
    return found


def process_cpu_seconds(pid: int) -> float:
    """User and system time of one process so far; 0 when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
