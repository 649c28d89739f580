"""What the engine benchmark makes of the times of its streams."""

import pytest

from benchmarks.engine import shared_rate
from benchmarks.http_stream import StreamError

STEP = 0.05


def _times(first_step: int, num_tokens: int, delay: float) -> list[float]:
    """Arrivals of a stream whose events lie `delay` behind the end of their steps."""
    return [(first_step + index) * STEP + delay for index in range(num_tokens)]


def test_streams_that_begin_one_after_the_other_have_the_rate_of_the_steps() -> None:
    """A stream that ended first ends the time in which all decode, but not the others' tokens."""
    streams = [_times(begin, 20, delay=0.0001 * begin) for begin in range(8)]
    assert shared_rate(streams) == pytest.approx(8 / STEP)


def test_time_in_which_not_all_decode_does_not_count() -> None:
    early = [0.0, 0.001, 0.002, 0.003, *_times(1, 6, delay=0)]
    assert shared_rate([early, _times(1, 6, delay=0)]) == pytest.approx(2 / STEP)


def test_streams_that_never_run_together_are_an_error() -> None:
    with pytest.raises(StreamError, match="did not run together"):
        shared_rate([_times(0, 4, delay=0), _times(10, 4, delay=0)])
