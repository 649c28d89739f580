"""A shard that is killed while streams run: clients see a pause, and the text of a server that
nothing happened to.
"""

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

PROMPTS = ("What is deep learning?", "Count to 10.", "Hello", "Tell me about the sea.")
NUM_TOKENS = 150


# Long, and many ways to write it: a grammar that stands in the middle when the shard is lost.
NUMBERS = {"type": "array", "items": {"type": "integer"}, "minItems": 60, "maxItems": 60}


def parameters(index: int) -> dict[str, Any]:
    """Greedy, seeded and with a grammar, by turns; hot enough that none ends early."""
    common: dict[str, Any] = {"max_new_tokens": NUM_TOKENS}
    if index % 4 == 2:
        grammar = {"type": "json", "value": NUMBERS}
        return common | {"do_sample": True, "seed": index, "temperature": 2.0, "grammar": grammar}
    if index % 2:
        return common | {"do_sample": True, "seed": index, "temperature": 20.0}
    return common | {"repetition_penalty": 1.3}


def stream(server: Any, index: int, first_token: threading.Event) -> list[dict[str, Any]]:
    """The events of one stream, errors included."""
    body = {"inputs": PROMPTS[index % len(PROMPTS)], "parameters": parameters(index)}
    found: list[dict[str, Any]] = server.stream(body, first_token)
    return found


def killed_streams(
    server: Any, rank: int, count: int = 8, number: signal.Signals = signal.SIGKILL
) -> list[list[dict[str, Any]]]:
    """Kill (or stop) one rank when some streams have begun; what each stream said in the end."""
    first_token = threading.Event()
    with ThreadPoolExecutor(count) as pool:
        jobs = [pool.submit(stream, server, index, first_token) for index in range(count)]
        assert first_token.wait(60)
        os.kill(server.shard_pids()[rank], number)
        return [job.result() for job in jobs]


def check_restart(
    server: Any, undisturbed: Any, rank: int, number: signal.Signals = signal.SIGKILL
) -> None:
    before = server.shard_pids()
    streams = killed_streams(server, rank, number=number)
    assert not set(before) & set(server.shard_pids()), "the whole group is new"
    for index, events in enumerate(streams):
        assert "error" not in events[-1], server.logs()
        alone = undisturbed.generate(
            PROMPTS[index % len(PROMPTS)], details=True, **parameters(index)
        )
        assert events[-1]["generated_text"] == alone["generated_text"]
        ids = [event["token"]["id"] for event in events]
        assert ids == [token["id"] for token in alone["details"]["tokens"]]
    assert server.metric("tgi_shard_restarts") == 1


def test_streams_survive_a_killed_shard(server: Any, launch: Any) -> None:
    with launch() as killed:
        check_restart(killed, server, 0)
    # Leaving the block asserts exit code 0 and that no process is left.


def test_one_rank_of_two_takes_both_down(server: Any, launch: Any) -> None:
    with launch("--num-shard", "2") as killed:
        check_restart(killed, server, 1)


def test_a_shard_that_hangs_is_replaced(server: Any, launch: Any) -> None:
    """Stopped, it lives and says nothing: only the age of its step gives it away."""
    with launch("--step-timeout", "3") as hung:
        check_restart(hung, server, 0, signal.SIGSTOP)


@pytest.mark.parametrize("max_restarts", [0, 1])
def test_a_spent_budget_ends_streams_and_server(launch: Any, max_restarts: int) -> None:
    has_failed: list[list[bool]] = []
    code = logs = None
    # The fixture expects exit code 0; all that counts here is judged after the block, so that
    # nothing but that expectation is swallowed.
    with (
        pytest.raises(AssertionError, match="exit code 1"),
        launch("--max-restarts", str(max_restarts)) as server,
    ):
        for _ in range(max_restarts + 1):
            ends = killed_streams(server, 0, count=3)
            has_failed.append(["error" in events[-1] for events in ends])
        code = server.process.wait(60)
        logs = server.logs()
    assert code == 1, logs
    assert has_failed == [[False] * 3] * max_restarts + [[True] * 3]
    assert logs is not None
    assert logs.count("was killed by SIGKILL") >= 1
    assert logs.count("restarting the shards") >= max_restarts
