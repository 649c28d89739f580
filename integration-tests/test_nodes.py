"""Two launchers on this machine as two nodes: the text of one process, no request lost when a shard
is killed on either of them, and an end in order.
"""

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from test_restart import PROMPTS, parameters, shard_pids, stream

SECRET = "of two nodes on this machine"
STOP_TIMEOUT_S = 60.0


class Node1:
    """The launcher that answers no HTTP."""

    def __init__(self, process: "subprocess.Popen[bytes]", log_path: Path) -> None:
        self.process = process
        self._log_path = log_path

    def logs(self) -> str:
        return self._log_path.read_text(errors="replace")


@pytest.fixture
def two_nodes(
    launch: Any, free_port: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: Any
) -> Any:
    """Starts node 1 and then node 0, each with half of the ranks; both must end with 0."""
    monkeypatch.setenv("NODE_SECRET", SECRET)
    # What a scheduler leaves behind.
    for name, value in {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "3"}.items():
        monkeypatch.setenv(name, value)

    @contextlib.contextmanager
    def start(*flags: str) -> Iterator[tuple[Any, Node1]]:
        port = str(free_port())
        common = (*flags, "--nnodes", "2", "--master-addr", "127.0.0.1", "--num-threads", "1")
        rest = ("--master-port", port)
        with (tmp_path / "node-1.log").open("wb") as log:
            process = subprocess.Popen(
                [program("text-generation-launcher"), *common, *rest, "--node-rank", "1"],
                env=dict(os.environ) | {"HF_HUB_OFFLINE": "1"},
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )
        node_1 = Node1(process, tmp_path / "node-1.log")
        try:
            with launch(*common, *rest) as node_0:
                yield node_0, node_1
            assert process.wait(STOP_TIMEOUT_S) == 0, node_1.logs()
        finally:
            process.kill()
            process.wait()

    return start


def both_pids(node_0: Any, node_1: Node1) -> set[int]:
    return {*shard_pids(node_0.process.pid), *shard_pids(node_1.process.pid)}


def check_streams_survive(
    node_0: Any, node_1: Node1, undisturbed: Any, victim: int, restarts: int
) -> None:
    """Kill `victim` when streams have begun: all go on, with new shards on both nodes."""
    before = both_pids(node_0, node_1)
    first_token = threading.Event()
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(stream, node_0, index, first_token) for index in range(4)]
        assert first_token.wait(60)
        os.kill(victim, signal.SIGKILL)
        streams = [job.result() for job in jobs]
    after = both_pids(node_0, node_1)
    assert len(after) == len(before) and not before & after, "the whole group is new"
    for index, events in enumerate(streams):
        assert "error" not in events[-1], node_0.logs() + node_1.logs()
        alone = undisturbed.generate(PROMPTS[index], **parameters(index))
        assert events[-1]["generated_text"] == alone["generated_text"]
    assert node_0.metric("tgi_shard_restarts") == restarts


def test_two_nodes_equal_one_and_lose_nothing(server: Any, two_nodes: Any) -> None:
    with two_nodes() as (node_0, node_1):
        for prompt in PROMPTS:
            one = server.generate(prompt, max_new_tokens=24)
            assert node_0.generate(prompt, max_new_tokens=24) == one
        (victim,) = shard_pids(node_1.process.pid)
        check_streams_survive(node_0, node_1, server, victim, 1)
        (victim,) = shard_pids(node_0.process.pid)
        check_streams_survive(node_0, node_1, server, victim, 2)
    # Leaving the block is SIGTERM for node 0, and asserts exit code 0 of both.
    assert "restarting the shards" not in node_1.logs(), "node 0 alone decides"


def test_two_ranks_on_each_of_two_nodes_drain_when_node_1_is_stopped(
    server: Any, two_nodes: Any
) -> None:
    with two_nodes("--num-shard", "4") as (node_0, node_1):
        first_token = threading.Event()
        with ThreadPoolExecutor(1) as pool:
            job = pool.submit(stream, node_0, 0, first_token)
            assert first_token.wait(60)
            node_1.process.send_signal(signal.SIGTERM)
            events = job.result()
        node_0.is_stopping = True
        assert node_0.process.wait(STOP_TIMEOUT_S) == 0, node_0.logs()
    alone = server.generate(PROMPTS[0], **parameters(0))
    assert events[-1]["generated_text"] == alone["generated_text"]


def test_a_dead_node_0_ends_node_1(two_nodes: Any) -> None:
    with (
        pytest.raises(AssertionError, match="exit code -9"),
        two_nodes() as (node_0, node_1),
    ):
        node_0.process.kill()
        node_0.process.wait()
        assert node_1.process.wait(STOP_TIMEOUT_S) == 1
        assert "node 0 is gone" in node_1.logs()
