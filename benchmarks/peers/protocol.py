"""How an engine is told what to measure: lines of JSON, one in, one out. Standard library only."""

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, Protocol


class Engine(Protocol):
    """A loaded model. Token ids do not matter: all weights are random."""

    def begin(self, num_sequences: int, num_tokens: int) -> None:
        """Forget everything, and read prompts of so many tokens each."""

    def step(self) -> None:
        """Every sequence gets one more token, the most likely one."""


def measure(engine: Engine, job: dict[str, Any]) -> float:
    """Tokens per second of one job."""
    if job["what"] == "prefill":
        started = time.perf_counter()
        engine.begin(1, job["tokens"])
        return float(job["tokens"] / (time.perf_counter() - started))
    engine.begin(job["sequences"], job["tokens"])
    seconds = []
    for _ in range(job["steps"]):
        started = time.perf_counter()
        engine.step()
        seconds.append(time.perf_counter() - started)
    return float(job["sequences"] / statistics.median(seconds))


def serve(make_engine: Callable[[], Engine]) -> None:
    """Answer until the input ends. The first line out says that the engine is ready."""
    # Libraries print; their output is not part of the protocol.
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        engine = make_engine()
        answers.write("{}\n")
        answers.flush()
        for line in sys.stdin:
            answers.write(json.dumps({"rate": measure(engine, json.loads(line))}) + "\n")
            answers.flush()


def some_tokens(count: int, vocab_size: int) -> list[int]:
    """Token ids of a prompt."""
    return [7 * index % vocab_size for index in range(count)]
