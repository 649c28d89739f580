"""The router's benchmark: unstreamed load, and the time without a router."""

import random
import shutil
import tempfile
from pathlib import Path

import pytest

from benchmarks import router
from benchmarks.http_stream import ResponseRecord
from benchmarks.router_process import direct_first_token, run_null_shard
from benchmarks.summary import ClientLoad, Percentiles, Summary
from benchmarks.workload import Lengths, Workload, token_counts


def test_a_client_without_a_router_gets_a_token_for_each_prompt() -> None:
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    try:
        with run_null_shard(f"{folder}/shard", 0.0):
            found = direct_first_token(f"{folder}/shard", 32, 5)
    finally:
        shutil.rmtree(folder)
    assert found.p50 is not None and found.p50 > 0


def test_answers_in_one_piece_are_asked_for_and_counted() -> None:
    lengths = {"prompt_tokens": Lengths("fixed", 4), "output_tokens": Lengths("fixed", 9)}
    body = Workload(dialect="chat", is_streamed=False, **lengths).payload(random.Random(0))
    assert body["stream"] is False and "stream_options" not in body
    with pytest.raises(ValueError, match="no answer in one piece"):
        Workload(dialect="generate", is_streamed=False, **lengths)
    answer = {"usage": {"prompt_tokens": 4, "completion_tokens": 9}}
    record = ResponseRecord(200, {}, [], answer, b"", 1.0)
    assert (token_counts(record).prompt, token_counts(record).output) == (4, 9)


@pytest.mark.parametrize(
    ("tokens_per_s", "chats_per_s", "is_met"),
    [
        (41_000, 320, True),
        (41_000, 290, False),
        (39_000, 320, False),
    ],
)
def test_both_halves_of_a_target_count(monkeypatch, tokens_per_s, chats_per_s, is_met) -> None:
    found = router.BusyFigures(
        load=summary(tokens_per_s, chats_per_s), cpu_us_per_token=1.0, cpu_share=0.5
    )
    monkeypatch.setattr(router, "measure_busy", lambda _: found)
    row, _ = router.arrivals_row(1.0)
    assert row.is_met is is_met


def summary(tokens_per_s: float, chats_per_s: float) -> Summary:
    nothing = Percentiles(mean=None, p50=None, p90=None, p99=None)
    return Summary(
        duration_s=1.0,
        num_completed=1,
        num_failed=0,
        failures={},
        num_output_tokens=1,
        num_prompt_tokens=1,
        output_tokens_per_s=tokens_per_s,
        requests_per_s=chats_per_s,
        time_to_first_token=nothing,
        inter_token=nothing,
        time_per_output_token=nothing,
        end_to_end=nothing,
        client=ClientLoad(cpu_share=0.1, lag_p99_ms=0.1),
    )
