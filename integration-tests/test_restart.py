"""A shard that is killed while streams run: clients see a pause, and the text of a server that
nothing happened to.
"""

import os
import signal
from typing import Any

import pytest

PROMPTS = ("What is deep learning?", "Count to 10.", "Hello", "Tell me about the sea.")
NUM_TOKENS = 400


# Long, and many ways to write it: a grammar that stands in the middle when the shard is lost.
NUMBERS = {"type": "array", "items": {"type": "integer"}, "minItems": 120, "maxItems": 120}


def parameters(index: int) -> dict[str, Any]:
    """Greedy, seeded and with a grammar, by turns; so hot or so fond of repetition that none ends
    early.
    """
    common: dict[str, Any] = {"max_new_tokens": NUM_TOKENS}
    if index % 4 == 2:
        grammar = {"type": "json", "value": NUMBERS}
        return common | {"do_sample": True, "seed": index, "temperature": 2.0, "grammar": grammar}
    if index % 2:
        return common | {"do_sample": True, "seed": index, "temperature": 20.0}
    return common | {"repetition_penalty": 0.5}


def request_bodies(count: int) -> list[dict[str, Any]]:
    return [
        {"inputs": PROMPTS[index % len(PROMPTS)], "parameters": parameters(index)}
        for index in range(count)
    ]


def killed_streams(
    server: Any, rank: int, count: int = 8, number: signal.Signals = signal.SIGKILL
) -> list[list[dict[str, Any]]]:
    """Kill (or stop) one rank while all streams run; what each said in the end."""

    def kill() -> None:
        os.kill(server.shard_pids()[rank], number)

    found: list[list[dict[str, Any]]] = server.interrupted(request_bodies(count), kill)
    return found


def check_restart(server: Any, rank: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Streams that lose a rank say what the same server said to each request alone before."""
    alone = [
        server.generate(body["inputs"], details=True, **body["parameters"])
        for body in request_bodies(8)
    ]
    before = server.shard_pids()
    streams = killed_streams(server, rank, number=number)
    assert not set(before) & set(server.shard_pids()), "the whole group is new"
    for events, undisturbed in zip(streams, alone, strict=True):
        assert "error" not in events[-1], server.logs()
        assert events[-1]["generated_text"] == undisturbed["generated_text"]
        ids = [event["token"]["id"] for event in events]
        assert ids == [token["id"] for token in undisturbed["details"]["tokens"]]
    assert server.metric("tgi_shard_restarts") == 1


def test_streams_survive_a_killed_shard(launch: Any) -> None:
    with launch() as killed:
        check_restart(killed, 0)
    # Leaving the block asserts exit code 0 and that no process is left.


def test_one_rank_of_two_takes_both_down(launch: Any) -> None:
    with launch("--num-shard", "2") as killed:
        check_restart(killed, 1)


def test_a_shard_that_hangs_is_replaced(launch: Any) -> None:
    """Stopped, it lives and says nothing: only the age of its step gives it away."""
    with launch("--step-timeout", "3") as hung:
        check_restart(hung, 0, signal.SIGSTOP)


@pytest.mark.parametrize("max_restarts", [0, 1])
def test_a_spent_budget_ends_streams_and_server(launch: Any, max_restarts: int) -> None:
    has_failed: list[list[bool]] = []
    with launch("--max-restarts", str(max_restarts), exit_code=1) as server:
        for _ in range(max_restarts + 1):
            ends = killed_streams(server, 0, count=3)
            has_failed.append(["error" in events[-1] for events in ends])
        server.process.wait(60)
        logs = server.logs()
    assert has_failed == [[False] * 3] * max_restarts + [[True] * 3]
    assert logs.count("was killed by SIGKILL") >= 1
    assert logs.count("restarting the shards") >= max_restarts
