"""Numbers have the fewest digits that keep their 32-bit value."""

import math
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from text_generation_router.api.numbers import shortest_float32


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_the_value_stays_and_no_digit_is_idle(value: float) -> None:
    """Numpy's digits are the fewest; where two numbers are as near, one digit more is allowed."""
    shortest = shortest_float32(value)
    assert np.float32(shortest) == np.float32(value)
    assert num_digits(shortest) <= num_digits(float(str(np.float32(value)))) + 1


@pytest.mark.parametrize("text", ["-1.5351562", "0.0", "-0.5", "-12.25", "1e-05"])
def test_as_shards_report_them(text: str) -> None:
    assert repr(shortest_float32(float(np.float32(text)))) == text


def num_digits(value: float) -> int:
    return len(Decimal(repr(value)).normalize().as_tuple().digits)


@pytest.mark.parametrize("value", [math.inf, -math.inf, 1e300])
def test_what_does_not_fit_stays(value: float) -> None:
    assert shortest_float32(value) == value


def test_nan_stays() -> None:
    assert math.isnan(shortest_float32(math.nan))
