"""Pictures: evolution (the paper's Fig. 4), kept channels per group, descendants. 900 pixels wide.

Callers import this module when they draw, so that matplotlib is loaded only then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from gtl.genotype import Genotype
from gtl.report.drawing import (
    BLUE,
    CHARACTER,
    DPI,
    INK,
    MUTED,
    PALE,
    RULE,
    SKY,
    STEPS,
    WIDTH,
    Label,
    end_labels,
    limits,
    looks_of,
    save,
    styled,
)
from gtl.stats import estimate

__all__ = ["channels_figure", "curves_figure", "descendants_figure", "evolution_figure", "save"]

PHASES = {"founding": "founding", "search": "search, no lives", "lives": "lives"}

Row = Mapping[str, Any]


@styled
def evolution_figure(
    logbook: Sequence[Row], reference: Mapping[str, float], *, parameters: int | None = None, title: str = ""
) -> Figure:
    """The paper's Fig. 4: gene size per generation as bars, accuracy on validation classes as curves.

    Args:
        logbook: a run's records, one a generation.
        reference: accuracy of whole networks under the same critic, ``scratch`` and ``pretrained``; either may be absent.
        parameters: convolution parameters of the whole network, to write sizes as counts too.

    Raises:
        ValueError: the logbook is empty.
    """
    if not logbook:
        raise ValueError("the logbook is empty: no generation has finished yet")
    figure = Figure(figsize=(WIDTH, 4.3))
    top, bottom = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [2.4, 1], "hspace": 0.1})
    figure.subplots_adjust(left=0.12, right=0.758, top=0.925 - 0.04 * bool(title), bottom=0.105)
    if title:
        figure.suptitle(title, x=0.012, y=0.985, ha="left", fontsize=10)
    generations = np.array([row["generation"] for row in logbook])
    worst, mean, best = (100 * np.array([row["fitness"][key] for row in logbook]) for key in ("min", "mean", "max"))
    marker = {"marker": "o", "markersize": 3.5} if len(logbook) <= 40 else {}
    top.fill_between(generations, worst, best, color=BLUE, alpha=0.16, linewidth=0, label="worst to best")
    top.plot(generations, best, color=BLUE, linewidth=0.8, alpha=0.7, label="best", **_small(marker))
    top.plot(generations, worst, color=BLUE, linewidth=0.8, alpha=0.7, label="worst", **_small(marker))
    top.plot(generations, mean, color=BLUE, linewidth=1.8, label="mean", **marker)
    labels = [
        Label(best[-1], f"best {best[-1]:.1f} %", BLUE),
        Label(mean[-1], f"mean {mean[-1]:.1f} %", BLUE, "bold"),
        Label(worst[-1], f"worst {worst[-1]:.1f} %", BLUE),
    ]
    for name, word, share, dashes in (("pretrained", "ancestor", 1, (6, 2)), ("scratch", "scratch", 0, (1, 2))):
        if name in reference:
            level = 100 * reference[name]
            top.axhline(level, color=INK, linewidth=1.1, dashes=dashes, label=word)
            labels.append(Label(level, f"{word} {level:.1f} %\n{_transferred(share, parameters)}", INK))
    limits(top, [label.y for label in labels] + [*worst, *best])
    top.set_ylabel("accuracy on validation classes (%)")
    end_labels(top, labels)

    shares, best_shares = (
        100 * np.array(v) for v in ([r["share"]["mean"] for r in logbook], [r["best_share"] for r in logbook])
    )
    bottom.bar(generations, shares, width=0.72, color=SKY, label="mean")
    bottom.hlines(best_shares, generations - 0.36, generations + 0.36, color=INK, linewidth=1.2, label="best")
    bottom.set_ylim(0, max(*shares, *best_shares) * 1.15)
    bottom.set_ylabel("gene size (% of\nconv parameters)")
    bottom.set_xlabel("generation")
    bottom.set_xlim(generations[0] - 0.6, generations[-1] + 0.6)
    bottom.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    bottom.yaxis.set_major_locator(MaxNLocator(4, steps=STEPS))
    top.yaxis.set_major_locator(MaxNLocator(7, steps=STEPS))
    figure.align_ylabels([top, bottom])
    count = "" if parameters is None else f"\n{_count(logbook[-1]['best_share'] * parameters)} parameters"
    end_labels(
        bottom,
        [
            Label(shares[-1], f"mean {shares[-1]:.1f} %", "#3f7fa8"),
            Label(best_shares[-1], f"best {best_shares[-1]:.1f} %{count}", INK),
        ],
    )
    for axes in (top, bottom):
        axes.grid(axis="y", color=PALE, linewidth=0.7)
    _mark_phases(top, bottom, logbook)
    return figure


@styled
def channels_figure(genotype: Genotype, *, title: str = "") -> Figure:
    """Which channels a gene keeps: one row per group in forward order, first channel left, kept ones blue.

    Rows are equally long, so that groups of 8 and of 640 channels can both be read; the numbers give the widths.
    """
    rows = len(genotype)
    height = 0.46 + 0.25 * rows
    figure = Figure(figsize=(WIDTH, height))
    names = max(len(group) for group in genotype)
    left, right = 0.03 + 0.0125 * max(names, 6), 0.785
    axes = figure.add_axes((left, 0.12 / height, right - left, 0.25 * rows / height))
    cell_pixels = (right - left) * WIDTH * DPI
    for row, mask in enumerate(genotype.values()):
        axes.broken_barh([(0, 1)], (row - 0.36, 0.72), facecolor=PALE, linewidth=0)
        axes.broken_barh(_segments(mask.bits, cell_pixels), (row - 0.36, 0.72), facecolor=BLUE, linewidth=0)
        share = len(mask) / mask.size
        for x, text in ((1.17, f"{len(mask):,} / {mask.size:,}"), (1.3, f"{100 * share:.0f} %")):
            axes.text(x, row, text, ha="right", va="center", color=INK, clip_on=False)
    for x, text in ((1.17, "kept"), (1.3, "share")):
        axes.text(x, -0.75, text, ha="right", va="bottom", color=MUTED)
    kept, size = sum(genotype.counts.values()), sum(genotype.sizes.values())
    axes.text(0, -0.75, title or f"{kept:,} of {size:,} channels kept", ha="left", va="bottom", color=MUTED)
    axes.set_xlim(0, 1)
    axes.set_ylim(rows - 0.5, -0.5)
    axes.set_yticks(range(rows), list(genotype))
    axes.xaxis.set_major_locator(NullLocator())
    axes.tick_params(axis="y", length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    return figure


@styled
def descendants_figure(results: Sequence[Row], starts: Mapping[str, Row] | None = None, *, title: str = "") -> Figure:
    """Accuracy of descendants on novel classes, per start, with 95 % intervals.

    With one number of shots: a row per start, best first, a dot per seed, the gain over scratch in figures. With
    several: accuracy over shots.

    Args:
        results: plain forms of StartResult.
        starts: start -> what it inherits (``share``), as in an evidence document.

    Raises:
        ValueError: no results.
    """
    if not results:
        raise ValueError("there are no results to draw")
    if len({result["shots"] for result in results}) > 1:
        return _over_shots(results, title)
    return _rows_of_starts(results, starts or {}, title)


@styled
def curves_figure(curves: Mapping[str, Sequence[tuple[float, float]]], *, title: str = "") -> Figure:
    """Learning curves of descendants: start -> (step, accuracy), in any order.

    A step that occurs several times (one value a seed) is drawn as the mean with its 95 % interval.

    Raises:
        ValueError: no curves, or an empty one.
    """
    if not curves or not all(curves.values()):
        raise ValueError("there are no curves to draw, or one of them is empty")
    figure, axes = _line_axes(title, max(map(len, curves)) + len(" 12.3 %"))
    labels = []
    for start, colour, marker in looks_of(curves):
        points = sorted(curves[start])
        steps = {
            step: [100 * value for _, value in found] for step, found in groupby(points, key=lambda point: point[0])
        }
        means = [sum(values) / len(values) for values in steps.values()]
        if all(len(values) > 1 for values in steps.values()):
            bands = [estimate(values) for values in steps.values()]
            axes.fill_between(
                list(steps), [b.low for b in bands], [b.high for b in bands], color=colour, alpha=0.15, linewidth=0
            )
        shown: dict[str, Any] = {"marker": marker, "markersize": 3.5} if len(steps) <= 15 else {}
        axes.plot(list(steps), means, color=colour, linewidth=1.5, label=start, **shown)
        labels.append(Label(means[-1], f"{start} {means[-1]:.1f} %", colour, _weight(start)))
    axes.set_xlabel("fine-tuning step")
    axes.set_ylabel("accuracy on novel classes (%)")
    end_labels(axes, labels)
    return figure


def _rows_of_starts(results: Sequence[Row], starts: Mapping[str, Row], title: str) -> Figure:
    ordered = sorted(results, key=lambda result: -result["accuracy"]["mean"])
    count = len(ordered)
    height = 1.02 + 0.25 * bool(title) + 0.4 * count
    figure = Figure(figsize=(WIDTH, height))
    left = max(0.175, 0.02 + CHARACTER * max(len(result["start"]) for result in ordered))  # room for the longest name
    width = 0.56 - left
    axes = figure.add_axes((left, 0.7 / height, width, 0.4 * count / height))
    accuracy_x, gain_x = 0.585, 0.748  # of the figure
    across = axes.get_yaxis_transform()
    looks = {start: (colour, marker) for start, colour, marker in looks_of(result["start"] for result in ordered)}
    for row, result in enumerate(ordered):
        start, gain = result["start"], result.get("gain")
        colour, marker = looks[start]
        low, mean, high = _percent(result["accuracy"])
        seeds = [100 * value for value in result["accuracies"]]
        axes.plot(seeds, [row + 0.24] * len(seeds), marker="|", markersize=4.5, linestyle="", color=colour, alpha=0.6)
        axes.plot([low, high], [row, row], color=colour, linewidth=2.2, solid_capstyle="butt", label=start)
        axes.plot([mean], [row], marker=marker, markersize=5.5, color=colour, linestyle="")
        if start == "scratch":
            axes.axvline(mean, color=MUTED, linewidth=0.9, dashes=(4, 3), zorder=0)
        known = "share" in starts.get(start, {})
        look: dict[str, Any] = {"transform": across, "va": "center"}
        axes.text(-0.04, row - 0.17 * known, start, ha="right", fontweight=_weight(start), **look)
        if known:
            inherited = f"{100 * starts[start]['share']:.3g} % inherited"
            axes.text(
                -0.04, row + 0.22, inherited, ha="right", va="center", color=MUTED, fontsize=7.5, transform=across
            )
        axes.text((accuracy_x - left) / width, row, f"{mean:.1f} ± {(high - low) / 2:.1f} %", **look)
        if gain is not None:
            least, middle, most = _percent(gain)
            axes.text((gain_x - left) / width, row, f"{middle:+.1f} ({least:+.1f} to {most:+.1f})", **look)
    for x, text in ((accuracy_x, "accuracy"), (gain_x, "gain over scratch, points")):
        axes.text((x - left) / width, -0.6, text, transform=across, color=MUTED, fontsize=7.5, va="bottom")
    axes.set_ylim(count - 0.5, -0.5)
    axes.yaxis.set_major_locator(NullLocator())
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=STEPS))
    axes.grid(axis="x", color=PALE, linewidth=0.7)
    axes.margins(x=0.06)
    axes.set_xlabel("accuracy on novel classes (%)")
    shots = f"{ordered[0]['shots']} training image{'s' * (ordered[0]['shots'] != 1)} a class"
    note = f"{shots}; bars: 95 % interval; ticks: n = {_seeds(ordered)} seeds; gains are paired by seed"
    figure.text(0.985, 0.07 / height, note, color=MUTED, ha="right", fontsize=7.5)
    if title:
        figure.text(0.012, 1 - 0.19 / height, title, fontsize=10, va="center")
    return figure


def _over_shots(results: Sequence[Row], title: str) -> Figure:
    figure, axes = _line_axes(title, max(len(result["start"]) for result in results) + len(" 12.3 ± 0.1 %"))
    shots = sorted({result["shots"] for result in results})
    looks = looks_of(result["start"] for result in results)
    labels = []
    for number, (start, colour, marker) in enumerate(looks):
        own = sorted((r for r in results if r["start"] == start), key=lambda r: r["shots"])
        apart = 1 + 0.025 * (number - (len(looks) - 1) / 2)  # intervals of different starts lie beside each other
        x = [result["shots"] * apart for result in own]
        low, mean, high = np.array([_percent(result["accuracy"]) for result in own]).T
        dashes: dict[str, Any] = {"dashes": (4, 2)} if start == "scratch" else {}
        axes.plot(x, mean, color=colour, linewidth=1.4, marker=marker, markersize=4.5, label=start, **dashes)
        axes.vlines(x, low, high, color=colour, linewidth=1.4)
        labels.append(
            Label(mean[-1], f"{start} {mean[-1]:.1f} ± {(high[-1] - low[-1]) / 2:.1f} %", colour, _weight(start))
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(shots))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("training images a class")
    axes.set_ylabel("accuracy on novel classes (%)")
    figure.text(0.985, 0.02, f"95 % interval, n = {_seeds(results)} seeds", color=MUTED, ha="right", fontsize=7.5)
    end_labels(axes, labels)
    return figure


def _line_axes(title: str, longest: int) -> tuple[Figure, Axes]:
    """Axes with room on their right for end labels of so many characters."""
    figure = Figure(figsize=(WIDTH, 3.4))
    axes = figure.subplots()
    figure.subplots_adjust(
        left=0.108, right=min(0.692, 0.96 - CHARACTER * longest), top=0.96 - 0.06 * bool(title), bottom=0.135
    )
    if title:
        figure.suptitle(title, x=0.012, y=0.98, ha="left", fontsize=10)
    axes.grid(axis="y", color=PALE, linewidth=0.7)
    axes.yaxis.set_major_locator(MaxNLocator(7, steps=STEPS))
    return figure, axes


def _mark_phases(top: Axes, bottom: Axes, logbook: Sequence[Row]) -> None:
    """A thin line between phases, and their names above, where there is room."""
    phases = [
        (phase, [row["generation"] for row in rows]) for phase, rows in groupby(logbook, key=lambda row: row["phase"])
    ]
    first, last = top.get_xlim()
    width = top.get_position().width * WIDTH * 72 / (last - first)  # points a generation
    for number, (phase, generations) in enumerate(phases):
        start, end = generations[0] - 0.5, generations[-1] + 0.5
        if number:
            for axes in (top, bottom):
                axes.axvline(start, color=RULE, linewidth=0.8, zorder=0)
        text = PHASES.get(phase, phase)
        fits = 4.9 * len(text) < width * (end - start)
        place: dict[str, Any] = {"x": (start + end) / 2, "ha": "center"}
        if not fits and number == 0:
            place = {"x": end, "ha": "right"}  # over the axis's own margin there is room
        elif not fits and number == len(phases) - 1:
            place = {"x": start, "ha": "left"}
        elif not fits:
            continue
        top.text(y=1.02, s=text, color=MUTED, transform=top.get_xaxis_transform(), va="bottom", **place)


def _segments(bits: npt.NDArray[np.bool_], pixels: float) -> list[tuple[float, float]]:
    """Kept channels as (start, length) on 0..1: apart where a channel is wide enough to be seen, else in runs."""
    size = len(bits)
    if pixels / size >= 5:
        gap = 1.5 / pixels
        return [(index / size + gap / 2, 1 / size - gap) for index in np.flatnonzero(bits)]
    segments, start = [], 0
    for kept, run in groupby(bits.tolist()):
        length = len(list(run))
        if kept:
            segments.append((start / size, length / size))
        start += length
    return segments


def _percent(estimate: Row) -> tuple[float, float, float]:
    """Low end, mean and high end, in per cent."""
    return 100 * estimate["low"], 100 * estimate["mean"], 100 * estimate["high"]


def _seeds(results: Sequence[Row]) -> str:
    return " or ".join(str(n) for n in sorted({result["accuracy"]["n"] for result in results}))


def _small(marker: Mapping[str, Any]) -> dict[str, Any]:
    return {**marker, "markersize": 1.8} if marker else {}


def _weight(start: str) -> str:
    return "bold" if start == "learngene" else "normal"


def _transferred(share: int, parameters: int | None) -> str:
    if share == 0:
        return "0 parameters"
    return "all parameters" if parameters is None else f"{_count(parameters)} parameters"


def _count(number: float) -> str:
    return f"{round(number):,}" if number < 1e6 else f"{number / 1e6:.2f} M"
