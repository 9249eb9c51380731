"""How many seeds the next comparison needs, from the evidence that there is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gtl.comparison import SCRATCH
from gtl.report.table import LEARNGENE, compared, shots_text
from gtl.sample_size import POWER, least_half_width, seeds_for_half_width, seeds_needed, spread
from gtl.stats import LEVEL, paired_table

ASSURANCE = 0.8
Row = Mapping[str, Any]


def plan_seeds(document: Row, points: float) -> list[str]:
    """For the learngene against each other start, the seeds that show a true difference of so many points, in words.

    The evidence is the pilot. Its n seeds know the spread of differences only roughly, so each number comes twice: for the
    spread as found and, in brackets, for its upper 80 % bound. The test planned for is the one that verdicts use, with its
    correction for as many comparisons as the document draws. Where accuracies are known class by class, a line ends with
    what no number of seeds can better: how far the interval for other classes reaches at least.

    Args:
        document: an evidence document. Without a learngene in it, every start is planned for against scratch.
        points: percentage points, of accuracy.

    Returns:
        A heading, and a line for each pair and number of shots.

    Raises:
        ValueError: `points` is not positive, or fewer than two seeds.
    """
    if not points > 0:
        raise ValueError(f"seeds cannot be planned for {points:g} points; give the smallest difference that matters")
    results: Sequence[Row] = document["descendants"]
    count, several = max(1, len(compared(results))), len({result["shots"] for result in results}) > 1
    wanted = f"{points:g} point{'s' * (points != 1)}"
    lines = [
        f"seeds to show a difference of {wanted} (power {POWER:g}, corrected for {count} comparison{'s' * (count != 1)}), "
        f"and to know it to ± {wanted}; in brackets: for the upper {100 * ASSURANCE:g} % bound of the spread"
    ]
    for own, other in _pairs(results):
        differences = [a - b for a, b in zip(own["accuracies"], other["accuracies"], strict=True)]
        (show, know), (show_bound, know_bound) = (
            (
                seeds_needed(differences, points / 100, level=1 - (1 - LEVEL) / count, assurance=assurance),
                seeds_for_half_width(differences, points / 100, assurance=assurance),
            )
            for assurance in (None, ASSURANCE)
        )
        shots = f", {shots_text(own['shots'])}" if several else ""
        lines.append(
            f"{own['start']} against {other['start']}{shots}: {show} ({show_bound}) to show it, {know} ({know_bound}) to know "
            f"it; spread {100 * spread(differences):.1f} points, n = {len(differences)} seeds{_for_others(own, other)}"
        )
    return lines


def _for_others(own: Row, other: Row) -> str:
    if not own.get("by_class") or not other.get("by_class"):
        return ""
    table = paired_table(own["by_class"], other["by_class"])
    least = 100 * least_half_width(table)
    return f"; on other classes never nearer than ± {least:.1f} ({table.shape[1]} classes)" if least > 0.05 else ""


def _pairs(results: Sequence[Row]) -> list[tuple[Row, Row]]:
    """The learngene and every other start; starts and scratch where there is no learngene."""
    pairs = []
    for shots in sorted({result["shots"] for result in results}):
        own = {result["start"]: result for result in results if result["shots"] == shots}
        if LEARNGENE in own:
            pairs += [(own[LEARNGENE], other) for name, other in own.items() if name != LEARNGENE]
        elif SCRATCH in own:
            pairs += [(result, own[SCRATCH]) for name, result in own.items() if name != SCRATCH]
    return pairs
