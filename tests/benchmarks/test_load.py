"""The load generator against a small server of the test's own."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator

import numpy as np
import pytest
from aiohttp import web

from benchmarks.load import LoadPlan, LoadRun
from benchmarks.summary import ClientLoad, Completed, summarise
from benchmarks.workload import Lengths, Workload


async def generate_stream(request: web.Request) -> web.StreamResponse:
    """As many events as asked for; a prompt is five tokens long."""
    count = (await request.json())["parameters"]["max_new_tokens"]
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    for index in range(1, count + 1):
        details = {"generated_tokens": count, "input_length": 5} if index == count else None
        event = json.dumps({"index": index, "details": details}, separators=(",", ":"))
        await response.write(f"data: {event}\n\n".encode())
        await asyncio.sleep(0)
    return response


async def completions(request: web.Request) -> web.Response:
    return web.json_response({"error": "full", "error_type": "overloaded"}, status=429)


@pytest.fixture
async def url() -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post("/generate_stream", generate_stream)
    app.router.add_post("/v1/completions", completions)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


def workload(dialect: str = "generate") -> Workload:
    return Workload(
        dialect=dialect,
        prompt_tokens=Lengths("fixed", 5),
        output_tokens=Lengths("uniform", 2, 6),
    )


@pytest.mark.parametrize("pace", [{"clients": 3}, {"rate": 200.0}])
async def test_counts_are_the_servers(url: str, pace: dict) -> None:
    plan = LoadPlan(url=url, workload=workload(), max_requests=12, max_duration=30, **pace)
    run = LoadRun(plan)
    found = await run.run()
    assert (found.num_completed, found.num_failed) == (12, 0)
    assert found.num_prompt_tokens == 60
    assert found.num_output_tokens == sum(item.num_output_tokens for item in run.completed)
    assert all(len(item.gaps) == item.num_output_tokens - 1 for item in run.completed)
    assert all(0 < item.first_token <= item.end_to_end for item in run.completed)


async def test_failures_are_counted_by_reason(url: str) -> None:
    plan = LoadPlan(
        url=url, workload=workload("completions"), clients=2, max_requests=4, max_duration=30
    )
    found = await LoadRun(plan).run()
    assert (found.num_completed, found.num_failed) == (0, 4)
    (reason,) = found.failures
    assert reason.startswith("status 429")
    assert "overloaded" in reason


async def test_no_server_is_a_failure_not_a_crash() -> None:
    plan = LoadPlan(
        url="http://127.0.0.1:9", workload=workload(), clients=1, max_requests=2, max_duration=30
    )
    assert (await LoadRun(plan).run()).num_failed == 2


def test_plan_is_closed_or_open() -> None:
    for pace in ({}, {"clients": 1, "rate": 1.0}):
        with pytest.raises(ValueError, match="either"):
            LoadPlan(url="http://x", workload=workload(), max_requests=1, max_duration=1, **pace)


def test_same_seed_same_requests() -> None:
    first, second, other = (
        [workload().payload(source) for _ in range(5)]
        for source in (random.Random(1), random.Random(1), random.Random(2))
    )
    assert first == second != other


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("128", Lengths("fixed", 128)),
        ("uniform:4,9", Lengths("uniform", 4, 9)),
        ("normal:100,20", Lengths("normal", 100, 20)),
    ],
)
def test_lengths(text: str, expected: Lengths) -> None:
    assert Lengths.parse(text) == expected
    assert all(expected.draw(random.Random(seed)) >= 1 for seed in range(50))


@pytest.mark.parametrize("text", ["", "0", "x", "uniform:9,4", "uniform:4", "gamma:1,2", "1,2"])
def test_wrong_lengths_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a length is"):
        Lengths.parse(text)


def test_summary_percentiles() -> None:
    completed = [
        Completed(
            first_token=0.1 * number,
            end_to_end=1.0 + 0.1 * number,
            gaps=np.full(9, 0.1),
            num_prompt_tokens=None,
            num_output_tokens=11,
        )
        for number in range(1, 11)
    ]
    client = ClientLoad(cpu_share=0.9, lag_p99_ms=0.0)
    found = summarise(completed, Counter({"x": 2}), 10.0, client)
    assert found.num_prompt_tokens is None
    assert found.output_tokens_per_s == pytest.approx(11.0)
    assert found.time_to_first_token.p50 == pytest.approx(550)
    assert found.inter_token.p99 == pytest.approx(100)
    assert found.time_per_output_token.mean == pytest.approx(100)
    assert found.as_json()["client_saturated"] is True
    json.dumps(found.as_json())
