"""F41: intervals and tests do what they say on simulated classifiers whose truth is known.

`benchmarks/interval_coverage.py` asks the same of more settings; the settings here are of the kind that gtl measures.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from gtl.comparison import Comparison, verdicts
from gtl.stats import Estimate, data_interval, estimate, holm, p_value, paired_difference, paired_table

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
from simulated import MEAN, Spread, accuracies, episodes

GAIN = 0.05
SINGLE = Spread(classes=0.12, seeds=0.01, cells=0.03)
ALIKE = Spread(classes=0.1, seeds=0.015, start_seeds=0.01, cells=0.03)  # two starts that gain as much on every class
BY_CLASS = Spread(classes=0.1, seeds=0.015, start_classes=0.04, start_seeds=0.01, cells=0.03)
BY_SEED = Spread(classes=0.1, seeds=0.015, start_seeds=0.03, cells=0.02)


def share(found: list[bool]) -> float:
    return float(np.mean(found))


def over_seeds(found: np.ndarray) -> list[list[list[float]]]:
    """Accuracies by class -> those of each repetition, start and seed."""
    return found.mean(axis=3).tolist()


@pytest.mark.parametrize("seeds,classes", [(5, 10), (5, 20), (10, 10), (10, 20)])
@pytest.mark.parametrize("spread", [BY_CLASS, BY_SEED], ids=["by class", "by seed"])
def test_f41_the_data_interval_covers_differences(spread: Spread, seeds: int, classes: int) -> None:
    found = accuracies(np.random.default_rng(1), 3000, seeds, classes, spread, (GAIN, 0.0))
    intervals = [data_interval(paired_table(one, other)) for one, other in found]
    assert 0.93 <= share([each.low <= GAIN <= each.high for each in intervals]) <= 0.97


@pytest.mark.parametrize("seeds,classes", [(5, 10), (5, 20), (10, 10), (10, 20)])
@pytest.mark.parametrize("spread", [SINGLE, Spread(classes=0.02, seeds=0.06, cells=0.03)], ids=["classes", "seeds"])
def test_f41_the_data_interval_covers_accuracies(spread: Spread, seeds: int, classes: int) -> None:
    found = accuracies(np.random.default_rng(2), 3000, seeds, classes, spread)[:, 0]
    assert 0.93 <= share([(e := data_interval(table)).low <= MEAN <= e.high for table in found]) <= 0.97


@pytest.mark.parametrize("spread", [Spread(), ALIKE, BY_CLASS, SINGLE], ids=["images", "alike", "by class", "one"])
@pytest.mark.parametrize("seeds,classes", [(3, 5), (3, 20), (10, 5)])
def test_f41_with_little_to_go_by_it_errs_to_the_wide_side(spread: Spread, seeds: int, classes: int) -> None:
    found = accuracies(np.random.default_rng(3), 2000, seeds, classes, spread, (GAIN, 0.0))
    intervals = [data_interval(paired_table(one, other)) for one, other in found]
    assert share([each.low <= GAIN <= each.high for each in intervals]) >= 0.935


def test_f41_the_samplers_interval_says_little_about_other_classes() -> None:
    found = accuracies(np.random.default_rng(4), 2000, 10, 20, SINGLE)
    assert share([(e := estimate(rows)).low <= MEAN <= e.high for (rows,) in over_seeds(found)]) < 0.5


def test_f41_the_samplers_interval_is_right_about_these_classes() -> None:
    """The classes held fixed, and new seeds drawn: what it does promise, it keeps."""
    draw = np.random.default_rng(5)
    chances = MEAN + 0.12 * draw.standard_normal(20)
    seeds = 0.02 * draw.standard_normal((3000, 10, 1))
    found = (draw.binomial(100, np.clip(chances + seeds, 0, 1)) / 100).mean(axis=2).tolist()
    assert 0.935 <= share([(e := estimate(rows)).low <= chances.mean() <= e.high for rows in found]) <= 0.965


def test_f41_episodes_over_the_same_images_say_little_about_others() -> None:
    """arXiv 2409.02850: resampled episodes measure the sampler."""
    draw = np.random.default_rng(6)
    sets = [episodes(draw, 400, classes=20, images=600, n_way=5, n_query=15, sd=0.12) for _ in range(200)]
    assert share([(e := estimate(found.tolist())).low <= MEAN <= e.high for found in sets]) < 0.4


def test_f41_the_paired_test_errs_in_a_twentieth() -> None:
    pairs = over_seeds(accuracies(np.random.default_rng(7), 5000, 10, 20, ALIKE, (0.0, 0.0)))
    assert 0.04 <= share([p_value(paired_difference(*pair)) < 0.05 for pair in pairs]) <= 0.06


def test_f41_other_classes_need_the_test_over_classes() -> None:
    """Starts that are equal over all classes, but not on any twenty: only the test over both sides keeps its size."""
    pairs = accuracies(np.random.default_rng(8), 3000, 10, 20, BY_CLASS, (0.0, 0.0))
    assert 0.03 <= share([data_interval(paired_table(*pair)).p_value < 0.05 for pair in pairs]) <= 0.06
    assert share([p_value(paired_difference(*pair)) < 0.05 for pair in over_seeds(pairs)]) > 0.2


@pytest.mark.parametrize("better", [0, 3], ids=["six equal", "three better"])
def test_f41_holm_keeps_all_comparisons_to_a_twentieth(better: int) -> None:
    """One start against six, of which some are in truth worse by two points: how often any of the equal ones is called so."""
    gains = (0.0, *[-0.02] * better, *[0.0] * (6 - better))
    found = over_seeds(accuracies(np.random.default_rng(9), 3000, 10, 20, ALIKE, gains))
    plain, corrected = [], []
    for own, *others in found:
        p_values = [p_value(paired_difference(own, other)) for other in others]
        plain.append(min(p_values[better:]) < 0.05)
        corrected.append(min(holm(p_values)[better:]) < 0.05)
    assert share(corrected) <= 0.055 and share(plain) > 0.1


def test_f41_verdicts_call_equal_starts_different_in_a_twentieth_at_most() -> None:
    found = accuracies(np.random.default_rng(10), 1500, 10, 20, BY_CLASS, (0.0,) * 5)
    here, elsewhere = [], []
    for tables in found:
        gains: list[Estimate] = [estimate((tables[0] - other).mean(axis=1).tolist()) for other in tables[1:]]
        data = [data_interval(paired_table(tables[0], other)) for other in tables[1:]]
        lines = verdicts([Comparison("another", *pair) for pair in zip(gains, data, strict=True)])
        here.append(any("points on these classes (n" in line for line in lines))
        elsewhere.append(any(", by " in line for line in lines))
    assert share(elsewhere) <= 0.065 and share(here) > 0.3  # these classes do differ: saying so is no error
