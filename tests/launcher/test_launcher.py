"""The whole launcher as a process, with modules in the place of router and shard."""

import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.fakes.children import is_alive
from tests.fakes.ports import free_port

_DRIVER = """
import text_generation_launcher.commands as commands
commands._ROUTER_PROGRAM, commands._SHARD_PROGRAM = "fake_router", "fake_shard"
from text_generation_launcher.cli import main
main()
"""
_SHARD = """
import json, os, sys, time
def say(level, message, **fields):
    record = {"level": level, "target": "fake_shard", "message": message, **fields}
    print(json.dumps(record), flush=True)
def main():
    if sys.argv[1] == "download-weights":
        say("INFO", "downloaded", model_path=os.environ["FAKE_MODEL"], bytes_done=1, bytes_total=1)
        return
    say("INFO", "up", pid=os.getpid(), argv=sys.argv[1:], uds=_uds(sys.argv))
    if os.environ.get("FAKE_SHARD") == "broken":
        say("ERROR", "model.safetensors is truncated")
        sys.exit(1)
    time.sleep(600)
def _uds(argv):
    return argv[argv.index("--uds-path") + 1]
"""
_ROUTER = """
import json, os, signal, socket, sys, time
def say(message, **fields):
    record = {"level": "INFO", "target": "fake_router", "message": message, **fields}
    print(json.dumps(record), flush=True)
def stop(number, frame):
    say("drained")
    sys.exit(0)
def main():
    signal.signal(signal.SIGTERM, stop)
    port = int(sys.argv[sys.argv.index("--port") + 1])
    say("up", pid=os.getpid(), argv=sys.argv[1:])
    if os.environ.get("FAKE_ROUTER") == "closed":
        time.sleep(600)
    listener = socket.create_server(("127.0.0.1", port))
    time.sleep(600)
"""


class Launched:
    """A running launcher and the log lines that it has written."""

    def __init__(self, process):
        self.process = process
        self.records = []
        self._rest = b""

    def until(self, text, target=""):
        """Read until a message of a logger contains `text`; return that record."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            for record in self.records:
                if text in record["message"] and target in record["target"]:
                    return record
            if not self._read():
                break
        self.process.kill()  # or its standard error would not end
        pytest.fail(f"no line with {text!r}, but {self.messages()}, {self.process.stderr.read()}")

    def finish(self):
        """Wait for the end; the exit code."""
        while self._read():
            pass
        return self.process.wait(timeout=60)

    def messages(self):
        return [record["message"] for record in self.records]

    def _read(self):
        stdout = self.process.stdout
        ready, _, _ = select.select([stdout], [], [], 60)
        data = os.read(stdout.fileno(), 65536) if ready else b""
        *lines, self._rest = (self._rest + data).split(b"\n")
        self.records += [json.loads(line) for line in lines]
        return bool(data)


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model"
    path.mkdir()
    (path / "config.json").write_text("{}")
    (path / "model.safetensors").touch()
    return path


@pytest.fixture
def sockets():
    """A directory with a name short enough for sockets."""
    path = tempfile.mkdtemp(dir="/tmp")
    yield path
    shutil.rmtree(path)


@pytest.fixture
def start(tmp_path, model, sockets):
    """Starts a launcher with `--json-output` and the given flags and variables."""
    (tmp_path / "fake_shard.py").write_text(_SHARD)
    (tmp_path / "fake_router.py").write_text(_ROUTER)
    started = []

    def start_one(*argv, ignored=(), **variables):
        port = str(free_port())
        flags = ["--json-output", "--port", port, "--model-id", str(model), *argv]
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(tmp_path),
            "TMPDIR": sockets,
            "CUDA_VISIBLE_DEVICES": "",
            "FAKE_MODEL": str(model),
            **variables,
        }
        ignore = (
            f"import signal; [signal.signal(n, signal.SIG_IGN) for n in {[*map(int, ignored)]}]"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", ignore + _DRIVER, *flags],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        started.append(process)
        return Launched(process)

    yield start_one
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_serves_and_stops_with_0(start, number, model):
    launched = start()
    launched.until(f"serving {model} at http://0.0.0.0:")
    shard = launched.until("up", "fake_shard")
    launched.process.send_signal(number)
    assert launched.finish() == 0
    assert "drained" in launched.messages()
    assert number.name + ": stopping" in launched.messages()
    assert shard["rank"] == 0
    assert not Path(shard["uds"]).parent.exists(), "the private directory is gone"


def test_sigint_counts_in_the_background_of_a_shell_and_sighup_under_nohup_does_not(start):
    launched = start(ignored=(signal.SIGINT, signal.SIGHUP))
    launched.until("serving")
    launched.process.send_signal(signal.SIGHUP)
    launched.process.send_signal(signal.SIGINT)
    assert launched.finish() == 0
    assert "SIGINT: stopping" in launched.messages()
    assert "SIGHUP: stopping" not in launched.messages()


def test_stops_with_0_before_it_is_ready(start):
    launched = start(FAKE_ROUTER="closed")
    launched.until("up")
    launched.process.send_signal(signal.SIGTERM)
    assert launched.finish() == 0


def test_a_shard_that_cannot_load_is_exit_code_1_and_told(start):
    launched = start(FAKE_SHARD="broken", FAKE_ROUTER="closed")
    assert launched.finish() == 1
    assert launched.records[-1]["level"] == "ERROR"
    assert launched.records[-1]["message"] == (
        "shard 0 died before the server was ready: exited with code 1: "
        "model.safetensors is truncated"
    )


def test_children_die_with_a_launcher_that_is_killed(start):
    launched = start("--num-shard", "2")
    launched.until("serving")
    pids = {record["pid"] for record in launched.records if "pid" in record}
    while len(pids) < 3:
        launched._read()
        pids = {record["pid"] for record in launched.records if "pid" in record}
    launched.process.kill()
    launched.process.wait()
    deadline = time.monotonic() + 30
    while any(map(is_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(map(is_alive, pids))


def test_a_download_says_where_the_model_is(start, model):
    launched = start("--model-id", "someone/tiny", "--revision", "v1")
    launched.until("serving someone/tiny")
    router = next(record for record in launched.records if record["target"] == "fake_router")
    assert router["argv"][router["argv"].index("--model-path") + 1] == str(model)
    launched.process.send_signal(signal.SIGTERM)
    assert launched.finish() == 0


def test_a_port_in_use_is_one_line_and_exit_code_1_and_nothing_is_started(start):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        launched = start("--port", str(port))
        assert launched.finish() == 1
    assert launched.messages() == [f"--port {port} is already in use on 0.0.0.0"]


def test_a_missing_model_is_one_line_and_exit_code_1(start):
    launched = start("--model-id", "/no/such/model")
    assert launched.finish() == 1
    assert launched.messages() == ["--model-id /no/such/model: there is no such directory"]


@pytest.mark.parametrize("name", ["num_attention_heads", "n_head", "n_heads", "num_heads"])
def test_shards_that_do_not_divide_the_heads_are_one_line_and_none_is_started(start, model, name):
    (model / "config.json").write_text(json.dumps({name: 8}))
    launched = start("--num-shard", "3", FAKE_SHARD="broken")
    assert launched.finish() == 1
    assert launched.messages() == [
        f"{model}: num_attention_heads (8) cannot be divided among 3 shards (--num-shard)"
    ]


@pytest.mark.parametrize(
    ("argv", "error"),
    [
        (["--quantize", "awq"], r"--quantize awq: .* not available"),
        (["--max-best-of", "0"], r"--max-best-of must be at least 1"),
        (["--sharded", "true"], r"--sharded true needs at least 2 GPUs"),
        (["--hostname", "example.org"], r"--hostname must be an IP address"),
        (["--frobnicate"], r"--frobnicate"),
    ],
)
def test_options_that_cannot_be_used_are_one_line_and_exit_code_2(start, argv, error):
    launched = start(*argv)
    assert launched.finish() == 2
    text = launched.process.stderr.read().decode()
    assert re.match(rf"text-generation-launcher: error: .*{error}.*\n\Z", text)


def test_env_is_logged_and_then_it_starts(start):
    launched = start("--env", HF_TOKEN="very secret")
    report = launched.until("runtime environment:\n")["message"]
    assert "\ntorch: " in report
    assert "very secret" not in report
    launched.until("serving")
    launched.process.send_signal(signal.SIGTERM)
    assert launched.finish() == 0
