"""`text-generation-benchmark` against a running server, and against a shard of its own."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

MODEL = "demo/text_generation_demo/model"
LENGTHS = ("-b", "1", "-b", "3", "-s", "20", "-d", "24", "-r", "2")


def benchmark(*flags: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "text_generation_benchmark.cli", *flags],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={name: value for name, value in os.environ.items() if name != "RUNS"},
    )


def test_a_running_server(server: Any, tmp_path: Path) -> None:
    times = tmp_path / "times.json"
    # So many tokens that on a busy machine, too, not all of them arrive in one gap of this client.
    done = benchmark("--url", server.base_url, *LENGTHS, "-d", "300", "--json", str(times))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("| Prefill ") == 4, "two batch sizes in two tables"
    batches = json.loads(times.read_text())["batches"]
    assert [len(batch["runs"]) for batch in batches] == [2, 2]
    server.wait_until_idle()


def test_the_shard_of_a_running_server_is_left_alone(server: Any) -> None:
    done = benchmark("-m", str(server.log_path.parent / "shard-0"), *LENGTHS)
    assert done.returncode == 1 and "serves a router" in done.stderr
    assert server.generate("Hello", max_new_tokens=4)["generated_text"]


@pytest.fixture
def shard(tmp_path_factory: Any) -> Any:
    """The socket of a shard that nobody uses."""
    folder = tmp_path_factory.mktemp("shard")
    argv = [sys.executable, "-m", "text_generation_shard.cli", "serve", "--model-path", MODEL]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*argv, "--uds-path", f"{folder}/s"], stdout=log, stderr=subprocess.STDOUT
        )
    socket, deadline = folder / "s-0", time.monotonic() + 60
    while not socket.exists():
        assert process.poll() is None, (folder / "log").read_text()
        assert time.monotonic() < deadline, "not ready"
        time.sleep(0.05)
    yield socket
    process.terminate()
    assert process.wait(30) == 0, (folder / "log").read_text()


def test_a_shard_is_measured_twice(shard: Path, tmp_path: Path) -> None:
    plot = tmp_path / "plot.svg"
    done = benchmark("-m", str(shard), *LENGTHS, "-t", MODEL, "--plot", str(plot))
    assert done.returncode == 0, done.stderr
    assert MODEL in done.stdout
    assert plot.read_text().count("<circle") == 4
    again = benchmark("-m", str(shard), "-b", "5", "-s", "300", "-d", "4", "--top-n-tokens", "3")
    assert again.returncode == 0, again.stderr
    too_long = benchmark("-m", str(shard), "-s", "3000")
    assert too_long.returncode == 1 and "2048 positions" in too_long.stderr
