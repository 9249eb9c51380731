"""Estimates: the textbook's intervals and tests, and none from a single value. How often they are right: test_coverage.py."""

from __future__ import annotations

import json
import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from gtl.stats import (
    DataInterval,
    Estimate,
    data_interval,
    estimate,
    holm,
    mean_squares,
    p_value,
    paired_difference,
    paired_table,
)

values = st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=30)
p_values = st.lists(st.floats(0, 1), max_size=7)
# seeds x classes of accuracies as they are counted, on up to 100 images
tables = st.integers(2, 6).flatmap(
    lambda classes: st.lists(
        st.lists(st.integers(0, 100).map(lambda right: right / 100), min_size=classes, max_size=classes),
        min_size=2,
        max_size=6,
    )
)


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


@given(values)
def test_the_p_value_is_students(found: list[float]) -> None:
    result = estimate(found)
    if stats.sem(found) > 1e-6:
        assert p_value(result) == pytest.approx(stats.ttest_1samp(found, 0.0).pvalue, abs=1e-9)
        assert (p_value(result) < 0.05) == (result.low > 0 or result.high < 0)


def test_equal_values_leave_no_doubt() -> None:
    assert p_value(estimate([0.25, 0.25])) == 0.0 and p_value(estimate([0.0, 0.0, 0.0])) == 1.0


def test_holms_own_steps() -> None:
    """Three hypotheses: the smallest times 3, the next times 2, the last not below the one before."""
    assert holm([0.04, 0.01, 0.03]) == [pytest.approx(0.06), pytest.approx(0.03), pytest.approx(0.06)]
    assert holm([0.5, 0.9]) == [1.0, 1.0] and holm([0.03]) == [0.03] and holm([]) == []


@given(p_values)
def test_holm_is_the_closure_of_bonferroni(found: list[float]) -> None:
    """A hypothesis is rejected if Bonferroni's test rejects every set of hypotheses that it is in."""
    numbers = range(len(found))
    sets = [chosen for size in numbers for chosen in combinations(numbers, size + 1)]
    for index, corrected in enumerate(holm(found)):
        closure = max(len(chosen) * min(found[i] for i in chosen) for chosen in sets if index in chosen)
        assert corrected == pytest.approx(min(1.0, closure))
        assert corrected >= found[index]


# Two-way analysis of variance by hand. Rows 5, 7; columns 4, 6, 8; nothing left: A = 3 * 2, B = 2 * 4, E = 0.
ADDITIVE = [[3.0, 5.0, 7.0], [5.0, 7.0, 9.0]]


def test_seeds_and_classes_both_count() -> None:
    assert mean_squares(ADDITIVE) == (pytest.approx(6.0), pytest.approx(8.0), pytest.approx(0.0))
    result = data_interval(ADDITIVE)
    error, freedom = math.sqrt((6 + 8) / 6), (6 + 8) ** 2 / (6**2 / 1 + 8**2 / 2)
    assert result.mean == 6.0 and (result.seeds, result.classes) == (2, 3)
    # two seeds: t with one degree of freedom makes the sampler's interval the wider one
    assert result.high - 6.0 == pytest.approx(
        max(stats.t.ppf(0.975, freedom) * error, 12.706 * math.sqrt(6 / 6)), rel=1e-4
    )


def test_the_residual_is_counted_once() -> None:
    draw = np.random.default_rng(3)
    table = draw.normal(0, 1, (9, 1)) + draw.normal(0, 1, (1, 9)) + draw.normal(0, 1, (9, 9))
    of_seeds, of_classes, residual = mean_squares(table)
    assert min(of_seeds, of_classes) > 2 * residual > 1
    square = of_seeds + of_classes - residual
    freedom = square**2 / (of_seeds**2 / 8 + of_classes**2 / 8 + residual**2 / 64)
    expected = stats.t.ppf(0.975, freedom) * math.sqrt(square / 81)
    result = data_interval(table)
    assert (result.high - result.low) / 2 == pytest.approx(expected)
    assert result.p_value == pytest.approx(2 * stats.t.sf(abs(result.mean) / math.sqrt(square / 81), freedom))


def test_one_side_that_does_not_vary_leaves_the_others_interval() -> None:
    """Rows that differ by less than chance would: classes alone count, as if each had been measured once."""
    table = np.array([[0.2, 0.5, 0.8, 0.3], [0.3, 0.4, 0.7, 0.4], [0.25, 0.45, 0.8, 0.3]])
    of_seeds, of_classes, residual = mean_squares(table)
    assert of_seeds < residual < of_classes
    expected = estimate(table.mean(axis=0).tolist())
    result = data_interval(table)
    assert (result.low, result.high) == (pytest.approx(expected.low), pytest.approx(expected.high))
    assert result.p_value == pytest.approx(p_value(expected))


@given(tables)
def test_the_data_interval_contains_the_samplers(table: list[list[float]]) -> None:
    whole, sampler = data_interval(table), estimate([math.fsum(row) / len(row) for row in table])
    assert whole.mean == pytest.approx(sampler.mean)
    assert whole.low <= sampler.low + 1e-9 and whole.high >= sampler.high - 1e-9
    assert whole.p_value >= p_value(sampler) - 1e-9 or sampler.half_width < 1e-9
    if min(abs(whole.low), abs(whole.high)) > 1e-9:
        assert (whole.p_value < 0.05) == (whole.low > 0 or whole.high < 0)


@given(tables)
def test_the_order_of_seeds_and_classes_is_nothing(table: list[list[float]]) -> None:
    of_seeds, of_classes, residual = mean_squares(table)
    assume(min(abs(of_seeds - residual), abs(of_classes - residual)) > 1e-9)  # where the degrees of freedom change
    one, other = data_interval(table), data_interval(np.array(table)[::-1, ::-1])
    found = (other.mean, other.low, other.high, other.p_value)
    assert (one.mean, one.low, one.high, one.p_value) == tuple(pytest.approx(value, abs=1e-6) for value in found)


def test_equal_tables_differ_by_nothing() -> None:
    assert data_interval(paired_table(ADDITIVE, ADDITIVE)) == DataInterval(0.0, 0.0, 0.0, 2, 3, 1.0)


@pytest.mark.parametrize(
    "table,message",
    [
        ([[0.1, 0.2]], "two seeds and two classes"),
        ([[0.1], [0.2]], "two seeds and two classes"),
        ([[0.1, 0.2], [0.3, math.nan]], "not finite"),
        ([[0.1, 0.2], [0.3]], "inhomogeneous"),
    ],
)
def test_a_table_needs_two_sides(table: list[list[float]], message: str) -> None:
    for call in (data_interval, mean_squares):
        with pytest.raises(ValueError, match=message):
            call(table)


def test_tables_of_other_classes_are_no_pairs() -> None:
    with pytest.raises(ValueError, match="2 seeds x 3 classes and 3 seeds x 2 classes are not paired"):
        paired_table(ADDITIVE, np.array(ADDITIVE).T)
