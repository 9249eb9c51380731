"""Seeds planned from evidence, in words."""

from __future__ import annotations

import pytest
from report_samples import ACCURACIES, make_document, make_results, with_classes

from gtl.report.seed_plan import plan_seeds
from gtl.sample_size import seeds_for_half_width, seeds_needed


def test_every_other_start_is_planned_for() -> None:
    heading, *lines = plan_seeds(make_document(), 2.0)
    assert heading.startswith("seeds to show a difference of 2 points (power 0.8, corrected for 5 comparisons)")
    assert [line.split(":")[0] for line in lines] == [
        f"learngene against {name}" for name in ("scratch", "pretrained", "one-shot")
    ]
    differences = [a - b for a, b in zip(ACCURACIES["learngene"], ACCURACIES["pretrained"], strict=True)]
    shown = [seeds_needed(differences, 0.02, level=0.99, assurance=each) for each in (None, 0.8)]
    known = [seeds_for_half_width(differences, 0.02, assurance=each) for each in (None, 0.8)]
    assert lines[1] == (
        f"learngene against pretrained: {shown[0]} ({shown[1]}) to show it, {known[0]} ({known[1]}) to know it; "
        "spread 1.0 points, n = 3 seeds"
    )
    assert shown[0] < shown[1] and known[0] < known[1]


def test_fewer_points_need_more_seeds() -> None:
    counts = [int(plan_seeds(make_document(), points)[2].split(": ")[1].split()[0]) for points in (4.0, 2.0, 1.0, 0.5)]
    assert counts == sorted(counts) and counts[0] < counts[-1] / 10


def test_shots_are_planned_for_by_themselves() -> None:
    lines = plan_seeds(make_document((1, 20)), 1.0)
    assert "corrected for 10 comparisons" in lines[0] and "1 point (" in lines[0]
    assert len(lines) == 7 and "scratch, 1 image a class: " in lines[1] and "scratch, 20 images a class: " in lines[4]


def test_what_no_number_of_seeds_can_do_is_said() -> None:
    lines = plan_seeds({"descendants": with_classes(make_results(), sd=0.05)}, 2.0)
    assert all("; on other classes never nearer than ± " in line and line.endswith("(5 classes)") for line in lines[1:])
    assert not any(
        "other classes" in line for line in plan_seeds({"descendants": with_classes(make_results(), sd=0.0)}, 2.0)
    )


def test_without_a_learngene_starts_are_planned_for_against_scratch() -> None:
    document = make_document()
    document["descendants"] = [each for each in document["descendants"] if each["start"] != "learngene"]
    assert [line.split(":")[0] for line in plan_seeds(document, 2.0)[1:]] == [
        "pretrained against scratch",
        "one-shot against scratch",
    ]
    document["descendants"] = []
    assert len(plan_seeds(document, 2.0)) == 1


@pytest.mark.parametrize("points", [0.0, -1.0, float("nan")])
def test_no_difference_cannot_be_planned_for(points: float) -> None:
    with pytest.raises(ValueError, match="smallest difference that matters"):
        plan_seeds(make_document(), points)
