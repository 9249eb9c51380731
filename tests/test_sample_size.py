"""How many seeds: the textbook's numbers, and what simulated comparisons of that size show."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gtl.sample_size import least_half_width, power_of, seeds_for_half_width, seeds_needed, spread
from gtl.stats import data_interval, estimate, p_value, quantile

UNIT = [-1.0, 0.0, 1.0]  # standard deviation 1


@pytest.mark.parametrize("effect,power,seeds", [(0.5, 0.8, 34), (1.0, 0.8, 10), (0.8, 0.9, 19), (-0.5, 0.8, 34)])
def test_the_textbooks_numbers_of_pairs(effect: float, power: float, seeds: int) -> None:
    """Two-sided paired t-test at 5 %, as in G*Power's tables."""
    assert seeds_needed(UNIT, effect, power) == seeds


@given(st.floats(0.05, 5.0), st.floats(0.06, 0.999), st.sampled_from([0.95, 0.99, 0.999]))
def test_one_seed_fewer_would_not_do(effect: float, power: float, level: float) -> None:
    seeds = seeds_needed(UNIT, effect, power, level=level)
    assert power_of(seeds, effect, level=level) >= power
    assert seeds == 2 or power_of(seeds - 1, effect, level=level) < power


@given(st.floats(0.05, 5.0))
def test_the_interval_just_fits(half_width: float) -> None:
    seeds = seeds_for_half_width(UNIT, half_width)
    assert quantile(seeds - 1) / math.sqrt(seeds) <= half_width
    assert seeds == 2 or quantile(seeds - 2) / math.sqrt(seeds - 1) > half_width


def test_planned_comparisons_show_the_difference_as_often_as_planned() -> None:
    seeds = seeds_needed(UNIT, 0.7, 0.8)
    found = np.random.default_rng(0).normal(0.7, 1.0, (3000, seeds)).tolist()
    shown = np.mean([p_value(estimate(values)) < 0.05 for values in found])
    assert 0.78 < shown < 0.85  # whole seeds: a little more than asked for


def test_a_correction_asks_for_more_seeds() -> None:
    assert seeds_needed(UNIT, 0.5, level=1 - 0.05 / 6) > seeds_needed(UNIT, 0.5)


def test_a_pilots_spread_is_bounded_as_often_as_it_says() -> None:
    pilots = np.random.default_rng(1).normal(0.0, 1.0, (3000, 5)).tolist()
    assert abs(np.mean([spread(pilot, 0.8) >= 1.0 for pilot in pilots]) - 0.8) < 0.02
    assert spread(UNIT) == pytest.approx(1.0) and 1.5 < spread([0, 1, 2, 3, 4], 0.8) / spread([0, 1, 2, 3, 4]) < 1.6
    assert seeds_needed(UNIT, 0.5, assurance=0.8) > 2 * seeds_needed(UNIT, 0.5)
    assert seeds_for_half_width(UNIT, 0.5, assurance=0.8) > 2 * seeds_for_half_width(UNIT, 0.5)


def test_a_pilot_without_spread_asks_for_two() -> None:
    assert seeds_needed([0.1, 0.1], 0.01) == seeds_for_half_width([0.1, 0.1], 0.01) == 2
    assert power_of(2, math.inf) == 1.0


@given(st.integers(2, 500), st.floats(0.0, 100.0), st.sampled_from([0.95, 0.99]))
def test_power_is_a_probability_that_grows(seeds: int, apart: float, level: float) -> None:
    power = power_of(seeds, apart, level=level)
    assert 1 - level - 1e-6 <= power <= 1.0 + 1e-12
    assert power_of(seeds, apart + 0.5, level=level) >= power - 1e-9


def test_power_where_scipys_noncentral_t_has_no_number() -> None:
    assert power_of(8, 47.76251194682476 / math.sqrt(8)) == 1.0
    assert power_of(4, 3.75, level=0.99) == pytest.approx(0.805983)  # of the noncentral F


def test_tiny_differences_are_answered_at_once() -> None:
    assert seeds_needed(UNIT, 1e-6) == pytest.approx(7.849e12, rel=1e-3)


def test_what_cannot_be_planned_is_refused() -> None:
    for call, message in (
        (lambda: seeds_needed(UNIT, 0.0), "difference of 0"),
        (lambda: seeds_needed(UNIT, 0.5, 1.0), r"power of 1\.0"),
        (lambda: seeds_needed([0.5], 0.5), "at least two values, got 1"),
        (lambda: seeds_needed(UNIT, math.nan), "difference of 0"),
        (lambda: seeds_needed([0.5, math.nan], 0.5), "not finite"),
        (lambda: seeds_needed(UNIT, 1e-12), "more than 1e"),
        (lambda: seeds_for_half_width(UNIT, 0.0), "half-width 0.0"),
        (lambda: seeds_for_half_width([0.5, math.inf], 0.1), "not finite"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_seeds_cannot_make_up_for_classes() -> None:
    """The same 8 classes measured by ever more seeds: the interval stops where the bound says."""
    draw = np.random.default_rng(2)
    classes, seeds = draw.normal(0, 0.05, 8), draw.normal(0, 0.01, (2000, 1))
    table = 0.1 + classes + seeds + draw.normal(0, 0.03, (2000, 8))
    least = least_half_width(table)
    many = data_interval(table)
    assert least == pytest.approx(estimate(table.mean(axis=0).tolist()).half_width, rel=0.01)
    assert least < (many.high - many.low) / 2 < 1.05 * least
    assert least_half_width(table[:10]) == pytest.approx(least, rel=0.2)
    assert least_half_width([[0.1, 0.2], [0.2, 0.1]]) == 0.0
