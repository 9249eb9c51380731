"""Estimates: the textbook's intervals, and none from a single value."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from gtl.stats import Estimate, estimate, paired_difference

values = st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=30)


@given(values)
def test_an_estimate_is_students_interval(found: list[float]) -> None:
    result = estimate(found)
    assert result.n == len(found)
    assert result.mean == pytest.approx(np.mean(found), abs=1e-9)
    error = stats.sem(found)
    if error > 1e-9:
        low, high = stats.t.interval(0.95, len(found) - 1, loc=np.mean(found), scale=error)
        assert (result.low, result.high) == (pytest.approx(low, abs=1e-9), pytest.approx(high, abs=1e-9))
    assert result.low <= result.mean <= result.high
    assert result.half_width == pytest.approx((result.high - result.low) / 2)


def test_a_table_of_the_textbook() -> None:
    """n = 5: t(0.975, 4) = 2.776."""
    result = estimate([1.0, 2.0, 3.0, 4.0, 5.0])
    assert result.mean == 3.0 and result.half_width == pytest.approx(2.776 * math.sqrt(2.5 / 5), rel=1e-3)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    draw = np.random.default_rng(0)
    held = [(e := estimate(draw.normal(7.0, 2.0, 5).tolist())).low <= 7.0 <= e.high for _ in range(2000)]
    assert 0.93 < np.mean(held) < 0.97


@pytest.mark.parametrize("found", [[], [0.5]])
def test_one_value_has_no_interval(found: list[float]) -> None:
    with pytest.raises(ValueError, match=f"needs at least two values, got {len(found)}"):
        estimate(found)


def test_equal_values_have_an_interval_of_no_length() -> None:
    assert estimate([0.25, 0.25, 0.25]) == Estimate(0.25, 0.25, 0.25, 3)


@given(st.lists(st.tuples(st.floats(-1, 1), st.floats(-1, 1)), min_size=2, max_size=20))
def test_a_paired_difference_is_the_estimate_of_differences(pairs: list[tuple[float, float]]) -> None:
    one, other = [a for a, _ in pairs], [b for _, b in pairs]
    assert paired_difference(one, other) == estimate([a - b for a, b in pairs])
    assert paired_difference(one, one) == Estimate(0.0, 0.0, 0.0, len(pairs))


def test_pairing_takes_out_what_both_share() -> None:
    shared = np.random.default_rng(1).normal(0, 10, 8)
    gain = paired_difference((shared + 1.0 + np.linspace(0, 0.1, 8)).tolist(), shared.tolist())
    assert gain.low > 0.9 and gain.half_width < 0.1 < estimate(shared.tolist()).half_width
    with pytest.raises(ValueError, match="shorter"):
        paired_difference([1.0, 2.0, 3.0], [1.0, 2.0])


def test_the_plain_form() -> None:
    document = json.loads(json.dumps(estimate([0.1, 0.4]).to_json(), allow_nan=False))
    assert set(document) == {"mean", "low", "high", "n"} and document["n"] == 2
