"""The real launcher as a subprocess on loopback, and a handle to talk to it.

`launch(*flags)` starts a server and stops it at the end of its block; `server` is one that serves
the demonstration model for the whole session; `refuse(*flags)` is for starts that must fail.
"""

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks.processes import process_tree, program
from tests.fakes import ports

START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 60.0
REFUSE_TIMEOUT_S = 60.0
# Gauges that are zero when no request is in the server.
IDLE_GAUGES = (
    "tgi_queue_size",
    "tgi_batch_current_size",
    "tgi_batch_current_max_tokens",
    "tgi_cache_usage",
)


@dataclass(frozen=True)
class Answer:
    """One whole HTTP response."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    def events(self) -> list[dict[str, Any]]:
        """The JSON events of a stream, its framing checked byte by byte; `[DONE]` left out."""
        assert self.headers["content-type"] == "text/event-stream", self
        assert self.body.endswith(b"\n\n"), self.body[-100:]
        found = []
        for block in self.body[:-2].split(b"\n\n"):
            if block == b":":  # keep-alive comment
                continue
            assert re.fullmatch(rb"data: [^\n]+", block), block
            if block != b"data: [DONE]":
                found.append(json.loads(block[len(b"data: ") :]))
        return found


@dataclass
class Server:
    """A launcher that is ready, and the ways to ask it."""

    process: "subprocess.Popen[bytes]"
    port: int
    log_path: Path
    api_key: str | None = None
    is_stopping: bool = False

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def terminate(self) -> None:
        """SIGTERM, once: a second one would cut the grace short."""
        if not self.is_stopping:
            self.is_stopping = True
            self.process.send_signal(signal.SIGTERM)

    def logs(self) -> str:
        return self.log_path.read_text(errors="replace")

    def connect(self, timeout: float = 60.0) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        with contextlib.closing(self.connect()) as connection:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            names = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, names, response.read())

    def get(self, path: str) -> Answer:
        return self.request("GET", path)

    def post(self, path: str, payload: Any) -> Answer:
        headers = {"content-type": "application/json"}
        if self.api_key:
            headers["authorization"] = f"Bearer {self.api_key}"
        return self.request("POST", path, json.dumps(payload).encode(), headers)

    def generate(self, inputs: str, **parameters: Any) -> dict[str, Any]:
        """POST /generate that must succeed."""
        answer = self.post("/generate", {"inputs": inputs, "parameters": parameters})
        assert answer.status == 200, answer
        found: dict[str, Any] = answer.json()
        return found

    def stream(self, body: dict[str, Any], first_token: threading.Event) -> list[dict[str, Any]]:
        """The events of POST /generate_stream, errors included; tells of the first one."""
        found = []
        with contextlib.closing(self.connect(timeout=120)) as connection:
            headers = {"content-type": "application/json"}
            connection.request("POST", "/generate_stream", json.dumps(body), headers)
            for line in connection.getresponse():
                if line.startswith(b"data:"):
                    found.append(json.loads(line[5:]))
                    first_token.set()
        return found

    def interrupted(
        self, bodies: Sequence[dict[str, Any]], interrupt: Callable[[], object]
    ) -> list[list[dict[str, Any]]]:
        """Stream all of these together and do something when every one is in the server and some
        have begun; what each stream said in the end.
        """
        first_token = threading.Event()
        with ThreadPoolExecutor(len(bodies)) as pool:
            jobs = [pool.submit(self.stream, body, first_token) for body in bodies]
            assert first_token.wait(60), self.logs()
            self.wait_until(lambda: self.num_requests() == len(bodies), "all in the server")
            interrupt()
            return [job.result() for job in jobs]

    def num_requests(self) -> int:
        """How many wait or run, at one moment."""
        text = self.get("/metrics").body.decode()
        gauges = r"^tgi_(?:queue_size|batch_current_size) (\S+)$"
        return sum(int(float(size)) for size in re.findall(gauges, text, re.MULTILINE))

    def shard_pids(self) -> list[int]:
        """Processes of the launcher that serve a shard, in rank order."""
        pid = self.process.pid
        found = {}
        for child in map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
            with contextlib.suppress(OSError):
                if b"text_generation_shard.cli" in Path(f"/proc/{child}/cmdline").read_bytes():
                    environment = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
                    (rank,) = (entry for entry in environment if entry.startswith(b"RANK="))
                    found[int(rank.removeprefix(b"RANK="))] = child
        return [found[rank] for rank in sorted(found)]

    def metric(self, name: str, labels: str = "") -> float | None:
        """A sample of /metrics; None when there is none yet."""
        text = self.get("/metrics").body.decode()
        match = re.search(
            rf"^{re.escape(name + labels)} (\S+)$" if labels else rf"^{name}(?:{{.*}})? (\S+)$",
            text,
            re.MULTILINE,
        )
        return float(match[1]) if match else None

    def wait_until(self, condition: Callable[[], bool], what: str, timeout: float = 30.0) -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline, f"not {what} within {timeout} s\n{self.logs()}"
            time.sleep(0.02)

    def wait_until_idle(self) -> None:
        """No request waits or runs and no block is held, as the gauges say."""

        def idle() -> bool:
            return all(self.metric(name) in (0.0, None) for name in IDLE_GAUGES)

        self.wait_until(idle, "idle")


Launch = Callable[..., AbstractContextManager[Server]]
Refuse = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def launch() -> Launch:
    """Start a server with these flags; at the end it must stop by SIGTERM with exit code 0, or have
    ended by itself with `exit_code`.
    """
    return _launch


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """One server of the demonstration model for everybody."""
    with _launch() as found:
        yield found


@pytest.fixture(scope="session")
def refuse() -> Refuse:
    """Run a launcher that must fail: ends by itself, not with 0, without a traceback."""

    def run(*flags: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        done = subprocess.run(
            [program("text-generation-launcher"), *flags],
            env=_environment() | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=REFUSE_TIMEOUT_S,
            check=False,
        )
        assert done.returncode != 0, done.stdout
        assert "Traceback" not in done.stdout, done.stdout
        return done

    return run


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """A TCP port that nobody listens on, or is given."""
    return ports.free_port


@pytest.fixture(scope="session")
def spawn() -> Callable[..., Server]:
    """Start a launcher with these flags and a log file; waits for nothing and stops nothing."""
    return _spawn


@contextlib.contextmanager
def _launch(*flags: str, api_key: str | None = None, exit_code: int = 0) -> Iterator[Server]:
    folder = Path(tempfile.mkdtemp(prefix="tgi-", dir="/tmp"))
    port = ports.free_port()
    own = (
        *("--port", str(port)),
        *("--master-port", str(ports.free_port())),
        *("--shard-uds-path", str(folder / "shard")),
        *(("--api-key", api_key) if api_key else ()),
    )
    found = _spawn(folder / "log", *own, *flags)
    found.port, found.api_key = port, api_key
    try:
        _wait_until_ready(found)
        yield found
    finally:
        _stop(found, exit_code)
        shutil.rmtree(folder)


def _spawn(log_path: Path, *flags: str) -> Server:
    with log_path.open("ab") as log:
        process = subprocess.Popen(
            [program("text-generation-launcher"), *flags],
            env=_environment(),
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )
    return Server(process, 0, log_path)


def _wait_until_ready(found: Server) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        assert found.process.poll() is None, f"the launcher ended\n{found.logs()}"
        try:
            if found.get("/health").status == 200:
                return
        except OSError:
            pass  # the port is not open yet
        assert time.monotonic() < deadline, f"not ready\n{found.logs()}"
        time.sleep(0.05)


def _stop(found: Server, exit_code: int) -> None:
    """SIGTERM; this exit code and nobody left."""
    family = process_tree(found.process.pid)
    if found.process.poll() is None:
        found.terminate()
    try:
        code = found.process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        for pid in reversed(family):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        found.process.wait()
        raise AssertionError(f"still running after SIGTERM\n{found.logs()}") from None
    assert code == exit_code, f"exit code {code}\n{found.logs()}"
    left = [pid for pid in family if _is_running(pid)]
    assert not left, f"processes left behind: {left}\n{found.logs()}"


def _is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def _environment() -> dict[str, str]:
    """This environment without variables that are flags of the launcher, and without network."""
    flags = {"PORT", "HOSTNAME", "MODEL_ID", "NUM_SHARD", "API_KEY", "LOG_LEVEL", "DTYPE"}
    kept = {name: value for name, value in os.environ.items() if name not in flags}
    return kept | {"HF_HUB_OFFLINE": "1"}
