"""Verdicts in words, and gate R."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from gtl.comparison import Comparison, fieller, gate, verdicts
from gtl.stats import DataInterval, Estimate, p_value


def gain(mean: float, half: float, n: int = 10) -> Estimate:
    return Estimate(mean, mean - half, mean + half, n)


def data(mean: float, half: float, p: float) -> DataInterval:
    return DataInterval(mean, mean - half, mean + half, 10, 20, p)


@pytest.mark.parametrize(
    "comparison,expected",
    [
        (
            Comparison("scratch", gain(0.198, 0.013), data(0.198, 0.046, 1e-6)),
            "better than scratch by 18.5 to 21.1 points on these classes (n = 10 seeds), by 15.2 to 24.4 on others like them "
            "(20 classes)",
        ),
        (
            Comparison("scratch", gain(0.198, 0.013)),
            "better than scratch by 18.5 to 21.1 points on these classes (n = 10 seeds)",
        ),
        (
            Comparison("pretrained", gain(-0.0355, 0.0075), data(-0.0355, 0.0255, 0.01)),
            "worse than pretrained by 2.8 to 4.3 points on these classes (n = 10 seeds), by 1.0 to 6.1 on others like them "
            "(20 classes)",
        ),
        (
            Comparison("one-shot", gain(0.01, 0.005), data(0.01, 0.016, 0.2)),
            "better than one-shot by 0.5 to 1.5 points on these classes (n = 10 seeds); not shown for others like them "
            "(-0.6 to +2.6, 20 classes)",
        ),
        (
            Comparison("one-shot", gain(0.0075, 0.0095, n=5)),
            "no difference from one-shot shown (-0.2 to +1.7 points, n = 5 seeds)",
        ),
        (
            Comparison("one-shot", gain(0.0075, 0.0095), data(0.0075, 0.0195, 0.4)),
            "no difference from one-shot shown (-0.2 to +1.7 points on these classes, n = 10 seeds; -1.2 to +2.7 on others "
            "like them, 20 classes)",
        ),
        (
            Comparison("itself", gain(0.0, 0.0)),
            "no difference from itself shown (+0.0 to +0.0 points, n = 10 seeds)",
        ),
    ],
)
def test_a_verdict_says_what_the_intervals_allow(comparison: Comparison, expected: str) -> None:
    assert verdicts([comparison]) == [expected]


def test_several_comparisons_are_corrected() -> None:
    """p = 0.025 is a difference alone, and none among six."""
    narrow = gain(0.0155, 0.0133)
    assert 0.02 < p_value(narrow) < 0.03
    assert verdicts([Comparison("one-shot", narrow)])[0].startswith("better than one-shot by 0.2 to 2.9 points")
    lines = verdicts([Comparison("scratch", gain(0.2, 0.01))] + [Comparison("one-shot", narrow)] * 5)
    assert lines[0].startswith("better than scratch by 19.0 to 21.0")
    assert (
        lines[1:]
        == ["no difference from one-shot shown after correction for 6 comparisons (+0.2 to +2.9 points, n = 10 seeds)"]
        * 5
    )


def test_holms_steps_reach_further_than_bonferronis() -> None:
    """p = 0.025 among two of which the other is sure: once that one is rejected, one remains."""
    lines = verdicts([Comparison("one-shot", gain(0.0155, 0.0133)), Comparison("scratch", gain(0.2, 0.01))])
    assert lines[0].startswith("better than one-shot")


def test_other_classes_are_corrected_by_themselves() -> None:
    sure = gain(0.2, 0.01)
    lines = verdicts(
        [
            Comparison("a", sure),
            Comparison("b", sure, data(0.2, 0.19, 0.03)),
            Comparison("c", sure, data(0.2, 0.1, 0.03)),
        ]
    )
    assert lines[0].endswith("(n = 10 seeds)")
    assert lines[1].endswith(
        "; not shown for others like them after correction for 3 comparisons (+1.0 to +39.0, 20 classes)"
    )
    assert verdicts([Comparison("b", sure, data(0.2, 0.19, 0.03))])[0].endswith(
        "by 1.0 to 39.0 on others like them (20 classes)"
    )


def test_no_comparisons_no_verdicts() -> None:
    assert verdicts([]) == []


SCRATCH = [0.40, 0.42, 0.41, 0.43]


def starts(**gains: float) -> dict[str, list[float]]:
    """Accuracies with these mean gains; what they vary by from seed to seed differs from start to start."""
    wiggle = np.array([1.0, -1.0, 1.0, -1.0]) / 1000
    found = {
        name.replace("_", "-"): np.array(SCRATCH) + mean + wiggle * (-1) ** i
        for i, (name, mean) in enumerate(gains.items())
    }
    return {"scratch": SCRATCH, **{name: list(values) for name, values in found.items()}}


def test_gate_r_sets_the_best_one_shot_gene_against_the_best_start() -> None:
    # a probe inherits everything, as full transfer does
    others = {"one-shot l1 early": 0.15, "linear probe": 0.35, "pretrained by SGD": 0.4}
    found = gate(starts(pretrained=0.30, one_shot=0.10, **others, learngene=0.20, thin=0.12))
    assert found is not None and (found.one_shot, found.best, found.n) == ("one-shot l1 early", "learngene", 4)
    assert found.ratio == pytest.approx(0.75) and found.low is not None and found.high is not None
    assert found.low < 0.75 < found.high < 0.9
    assert str(found).startswith(
        f"gate R = 0.75 ({found.low:.2f} to {found.high:.2f}, n = 4 seeds): one-shot l1 early has 75 % of"
    )
    assert "evolution may pay" in str(found) and "unlikely" not in str(found)


def test_from_nine_tenths_on_evolution_is_unlikely_to_pay() -> None:
    found = gate(starts(one_shot=0.19, learngene=0.20))
    assert found is not None and found.ratio == pytest.approx(0.95) and "evolution is unlikely to pay" in str(found)


def test_a_one_shot_gene_that_is_best_is_all_of_the_gain() -> None:
    found = gate(starts(pretrained=0.3, one_shot=0.2, learngene=0.1))
    assert found is not None and (found.ratio, found.best) == (1.0, "one-shot")
    assert str(found).startswith(
        "gate R = 1.00 (n = 4 seeds): no start that inherits a part gains more than one-shot; evolution is unlikely"
    )


def test_no_gain_no_gate() -> None:
    found = gate(starts(one_shot=-0.1, learngene=-0.05))
    assert found is not None and found.ratio is None
    assert str(found) == "gate R: not defined, as no start that inherits a part gains over scratch (n = 4 seeds)"


def test_a_gain_that_may_be_none_bounds_no_ratio() -> None:
    found = gate({"scratch": [0.1, 0.2, 0.1], "one-shot": [0.1, 0.21, 0.1], "learngene": [0.3, 0.1, 0.2]})
    assert found is not None and found.low is None and "interval unbounded" in str(found)


@pytest.mark.parametrize(
    "found",
    [
        starts(pretrained=0.3, learngene=0.2),
        starts(pretrained=0.3, one_shot=0.2),
        starts(one_shot=0.2, **{"one-shot taylor": 0.1}),
        {"one-shot": SCRATCH, "learngene": SCRATCH},
        {},
    ],
)
def test_a_gate_needs_scratch_a_one_shot_gene_and_another(found: dict[str, list[float]]) -> None:
    assert gate(found) is None


def test_starts_of_a_gate_are_paired() -> None:
    with pytest.raises(ValueError, match=r"longer|shorter"):
        gate({"scratch": SCRATCH, "one-shot": SCRATCH[:3], "learngene": SCRATCH})


def test_fiellers_ends_are_the_ratios_just_not_told_apart() -> None:
    draw = np.random.default_rng(0)
    one, other = draw.normal(1.0, 0.2, 8), draw.normal(2.0, 0.3, 8)
    ends = fieller(one.tolist(), other.tolist())
    assert ends is not None and ends[0] < one.mean() / other.mean() < ends[1]
    for ratio in ends:
        assert stats.ttest_1samp(one - ratio * other, 0.0).pvalue == pytest.approx(0.05)
    assert fieller([1.0, 2.0, 3.0], [-1.0, 0.0, 1.0]) is None


def test_fieller_holds_the_ratio_as_often_as_it_says() -> None:
    draw = np.random.default_rng(1)
    shared = draw.normal(0, 0.3, (2000, 10))
    one, other = 1.0 + shared + draw.normal(0, 0.2, (2000, 10)), 2.0 + shared + draw.normal(0, 0.3, (2000, 10))
    held = [ends is not None and ends[0] <= 0.5 <= ends[1] for ends in map(fieller, one.tolist(), other.tolist())]
    assert math.isclose(float(np.mean(held)), 0.95, abs_tol=0.015)
