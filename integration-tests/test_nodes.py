"""Two launchers on this machine as two nodes: the text of one process, no request lost when a shard
is killed on either of them, and an end in order.
"""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

SECRET = "of two nodes on this machine"
PROMPTS = ("What is deep learning?", "Count to 10.", "Hello", "Tell me about the sea.")
NUM_TOKENS = 200
STOP_TIMEOUT_S = 60.0


def parameters(index: int) -> dict[str, Any]:
    """Greedy and seeded by turns; so fond of repetition or so hot that none ends early."""
    common: dict[str, Any] = {"max_new_tokens": NUM_TOKENS}
    if index % 2:
        return common | {"do_sample": True, "seed": index, "temperature": 20.0}
    return common | {"repetition_penalty": 0.5}


def request_body(index: int) -> dict[str, Any]:
    return {"inputs": PROMPTS[index], "parameters": parameters(index)}


@pytest.fixture
def two_nodes(
    launch: Any, spawn: Any, free_port: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Any:
    """Starts node 1 and then node 0, each with half of the ranks; both must end with 0, or as
    `exit_codes` says.
    """
    monkeypatch.setenv("NODE_SECRET", SECRET)
    # What a scheduler leaves behind.
    for name, value in {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "3"}.items():
        monkeypatch.setenv(name, value)

    @contextlib.contextmanager
    def start(*flags: str, exit_codes: tuple[int, int] = (0, 0)) -> Iterator[tuple[Any, Any]]:
        port = str(free_port())
        common = (*flags, "--nnodes", "2", "--master-addr", "127.0.0.1", "--num-threads", "1")
        rest = ("--master-port", port)
        flags_1 = (*common, *rest, "--node-rank", "1")
        node_1 = spawn(tmp_path / "node-1.log", *flags_1)
        node_1.start_again = lambda: spawn(tmp_path / "node-1.log", *flags_1).process
        try:
            with launch(*common, *rest, exit_code=exit_codes[0]) as node_0:
                yield node_0, node_1
            assert node_1.process.wait(STOP_TIMEOUT_S) == exit_codes[1], node_1.logs()
        finally:
            node_1.process.kill()
            node_1.process.wait()

    return start


def both_pids(node_0: Any, node_1: Any) -> set[int]:
    return {*node_0.shard_pids(), *node_1.shard_pids()}


def check_streams_survive(
    node_0: Any, node_1: Any, undisturbed: Any, kill: Callable[[], object], restarts: int
) -> None:
    """Kill something while streams run: all go on, with new shards on both nodes."""
    before = both_pids(node_0, node_1)
    streams = node_0.interrupted([request_body(index) for index in range(4)], kill)
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
        for restarts, launcher in enumerate((node_1, node_0), 1):
            (victim,) = launcher.shard_pids()
            kill = partial(os.kill, victim, signal.SIGKILL)
            check_streams_survive(node_0, node_1, server, kill, restarts)
    # Leaving the block is SIGTERM for node 0, and asserts exit code 0 of both.
    assert "restarting the shards" not in node_1.logs(), "node 0 alone decides"


def test_two_ranks_on_each_of_two_nodes_drain_when_node_1_is_stopped(
    server: Any, two_nodes: Any
) -> None:
    with two_nodes("--num-shard", "4") as (node_0, node_1):
        stop = partial(node_1.process.send_signal, signal.SIGTERM)
        (events,) = node_0.interrupted([request_body(0)], stop)
        node_0.is_stopping = True
        assert node_0.process.wait(STOP_TIMEOUT_S) == 0, node_0.logs()
    alone = server.generate(PROMPTS[0], **parameters(0))
    assert events[-1]["generated_text"] == alone["generated_text"]


def test_a_node_that_comes_back_finds_the_requests_waiting(server: Any, two_nodes: Any) -> None:
    """Its launcher is killed, as by a reboot, and started again by whoever started it."""

    def reboot() -> None:
        node_1.process.kill()
        node_1.process.wait()
        node_1.process = node_1.start_again()

    with two_nodes() as (node_0, node_1):
        check_streams_survive(node_0, node_1, server, reboot, 1)


def test_a_dead_node_0_ends_node_1(two_nodes: Any) -> None:
    with two_nodes(exit_codes=(-signal.SIGKILL, 1)) as (node_0, node_1):
        node_0.process.kill()
        node_0.process.wait()
        node_1.process.wait(STOP_TIMEOUT_S)
        assert "node 0 is gone" in node_1.logs()
