"""What follows from times."""

import pytest
from text_generation_benchmark.timing import BatchTimes, RunTime, Spread


def test_a_percentile_is_a_value_that_was_measured() -> None:
    spread = Spread.of([4.0, 1.0, 3.0, 2.0, 10.0])
    assert (spread.average, spread.lowest, spread.highest) == (4.0, 1.0, 10.0)
    assert (spread.p50, spread.p90, spread.p99) == (3.0, 10.0, 10.0)
    assert Spread.of(range(100)).p99 == 99


def test_rates_and_latencies() -> None:
    batch = BatchTimes(batch_size=4, sequence_length=10, num_decodes=5)
    batch.runs.append(RunTime(prefill_s=0.1, decode_s=0.5, num_decoded_tokens=20))
    assert batch.prefill_rate.average == pytest.approx(4 * 10 / 0.1)
    assert batch.decode_rate.average == pytest.approx(40)
    assert batch.prefill_ms.p50 == pytest.approx(100)
    assert batch.decode_token_ms.p50 == pytest.approx(100)
    assert batch.decode_total_ms.p50 == pytest.approx(500)
    assert batch.togetherness == 1


def test_tokens_from_before_the_last_prompt_was_read_are_missed() -> None:
    batch = BatchTimes(batch_size=4, sequence_length=10, num_decodes=5)
    for tokens in (20, 10):
        batch.runs.append(RunTime(prefill_s=0.1, decode_s=0.5, num_decoded_tokens=tokens))
    assert batch.togetherness == 0.75
