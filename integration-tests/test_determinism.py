"""Neighbours in a batch change nothing: equal requests get equal texts."""

import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

PROMPT = "What is deep learning?"
OTHERS = ("Hello", "Count to 10.", "Tell me about the sea and about " + "the weather " * 20)


@pytest.mark.parametrize("count", [4, 32])
def test_greedy_alone_and_together(server: Any, count: int) -> None:
    alone = server.generate(PROMPT, max_new_tokens=16, details=True)
    with ThreadPoolExecutor(count) as pool:
        found = list(
            pool.map(
                lambda _: server.generate(PROMPT, max_new_tokens=16, details=True), range(count)
            )
        )
    ids = [token["id"] for token in alone["details"]["tokens"]]
    for answer in found:
        assert answer["generated_text"] == alone["generated_text"]
        assert [token["id"] for token in answer["details"]["tokens"]] == ids


def test_seeded_sampling_alone_and_under_load(server: Any) -> None:
    # Hot enough that every seed has a text of its own.
    sampled: dict[str, Any] = {
        "do_sample": True,
        "temperature": 20.0,
        "top_p": 0.95,
        "max_new_tokens": 16,
        "details": True,
    }

    def ask(seed: int) -> list[int]:
        tokens = server.generate(PROMPT, seed=seed, **sampled)["details"]["tokens"]
        return [token["id"] for token in tokens]

    def noise(index: int) -> None:
        server.generate(OTHERS[index % 3], do_sample=True, max_new_tokens=10 + index % 7)

    alone = [ask(seed) for seed in range(4)]
    assert all(a != b for a, b in itertools.combinations(alone, 2))
    with ThreadPoolExecutor(24) as pool:
        load = [pool.submit(noise, index) for index in range(20)]
        together = list(pool.map(ask, [0, 1, 2, 3] * 2))
        for job in load:
            job.result()
    assert together == alone * 2


def test_prefix_cache_changes_nothing(server: Any) -> None:
    prompt = "A story about a ship and its crew. " * 12
    first = server.generate(prompt, max_new_tokens=12)["generated_text"]
    assert server.generate(prompt, max_new_tokens=12)["generated_text"] == first
    longer = server.generate(prompt + "More of it.", max_new_tokens=12)["generated_text"]
    assert server.generate(prompt + "More of it.", max_new_tokens=12)["generated_text"] == longer
