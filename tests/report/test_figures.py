"""Pictures: do the artists hold the data, and are equal pictures equal files?"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from report_samples import ACCURACIES, REFERENCE, make_document, make_genotype, make_logbook, make_results

from gtl.errors import StorageError
from gtl.genotype import ChannelMask, Genotype
from gtl.report.drawing import spread
from gtl.report.figures import channels_figure, curves_figure, descendants_figure, evolution_figure, save

CURVES = {
    start: [(step, value * step / 20) for step in (0, 10, 20) for value in values]
    for start, values in ACCURACIES.items()
}
FIGURES: dict[str, Callable[[], Figure]] = {
    "evolution": lambda: evolution_figure(make_logbook(), REFERENCE, parameters=144216, title="a run"),
    "long evolution": lambda: evolution_figure(make_logbook(1, 6), {"scratch": 0.2}),
    "one generation": lambda: evolution_figure(make_logbook(0, 0), {}),
    "flat evolution": lambda: evolution_figure(
        [{**row, "fitness": {"mean": 0.999, "min": 0.9985, "max": 1.0}} for row in make_logbook()], {"pretrained": 1.0}
    ),
    "channels": lambda: channels_figure(make_genotype()),
    "starts": lambda: descendants_figure(make_results(), make_document()["starts"], title="starts"),
    "shots": lambda: descendants_figure(make_results((1, 5, 20))),
    "curves": lambda: curves_figure(CURVES, title="curves"),
}


def line(axes: Axes, label: str) -> np.ndarray:
    (found,) = [line for line in axes.lines if line.get_label() == label]
    return np.asarray(found.get_ydata(), dtype=float)


def texts(figure: Figure) -> str:
    return "\n".join(text.get_text() for axes in figure.axes for text in axes.texts)


def test_evolution_holds_the_logbook() -> None:
    logbook = make_logbook()
    figure = evolution_figure(logbook, REFERENCE, parameters=144216)
    top, bottom = figure.axes
    for label, key in (("mean", "mean"), ("best", "max"), ("worst", "min")):
        assert np.allclose(line(top, label), [100 * row["fitness"][key] for row in logbook])
    assert np.allclose(line(top, "scratch"), 11) and np.allclose(line(top, "ancestor"), 92)
    bars = [patch for patch in bottom.patches if isinstance(patch, Rectangle)]
    assert np.allclose([bar.get_height() for bar in bars], 15) and len(bars) == len(logbook)
    (best,) = [marks for marks in bottom.collections if isinstance(marks, LineCollection)]
    assert np.allclose([segment[0, 1] for segment in best.get_segments()], [100 * row["best_share"] for row in logbook])
    assert bottom.get_ylim()[0] == 0  # bars that do not start at zero lie
    (band,) = [shape for shape in top.collections if isinstance(shape, PolyCollection)]
    edges = band.get_paths()[0].vertices[:, 1]
    assert edges.min() == pytest.approx(30) and edges.max() == pytest.approx(80)
    written = texts(figure)
    assert "ancestor 92.0 %\n144,216 parameters" in written and "scratch 11.0 %\n0 parameters" in written
    assert "27,401 parameters" in written  # of the best: 19 % of 144,216
    assert [phase for phase in ("founding", "search, no lives", "lives") if phase in written.splitlines()]


def test_evolution_needs_a_generation_but_no_reference() -> None:
    assert "scratch" not in texts(evolution_figure(make_logbook(), {}))
    assert "ancestor 92.0 %\nall parameters" in texts(evolution_figure(make_logbook(), REFERENCE))
    with pytest.raises(ValueError, match="no generation"):
        evolution_figure([], REFERENCE)


def test_channels_mark_the_kept_indices() -> None:
    genotype = make_genotype()
    figure = channels_figure(genotype)
    (axes,) = figure.axes
    rows = [shape for shape in axes.collections if isinstance(shape, PolyCollection)]
    assert len(rows) == 2 * len(genotype)  # the whole group, and what is kept of it
    for mask, marks in zip(genotype.values(), rows[1::2], strict=True):
        kept = np.zeros(mask.size, dtype=bool)
        for path in marks.get_paths():
            low, high = path.vertices[:, 0].min(), path.vertices[:, 0].max()
            kept |= (np.arange(mask.size) + 0.5 > low * mask.size) & (np.arange(mask.size) + 0.5 < high * mask.size)
        assert np.array_equal(kept, mask.bits)
    written = texts(figure)
    assert "26 / 128" in written and "20 %" in written and "34 of 776 channels kept" in written
    assert [label.get_text() for label in axes.get_yticklabels()] == ["conv1", "conv2", "conv3"]


def test_rows_of_starts_hold_means_intervals_and_seeds() -> None:
    results = make_results()
    figure = descendants_figure(results, make_document()["starts"])
    (axes,) = figure.axes
    ordered = sorted(results, key=lambda result: -result["accuracy"]["mean"])
    for row, result in enumerate(ordered):
        (interval,) = [bar for bar in axes.lines if bar.get_label() == result["start"]]
        assert np.allclose(interval.get_xdata(), [100 * result["accuracy"][key] for key in ("low", "high")])
        assert list(interval.get_ydata()) == [row, row]
    seeds = [list(points.get_xdata()) for points in axes.lines if points.get_marker() == "|"]
    assert np.allclose(seeds, [[100 * value for value in result["accuracies"]] for result in ordered])
    written = texts(figure)
    assert "14.6 % inherited" in written and "+16.0 (+16.0 to +16.0)" in written
    assert "n = 3 seeds" in "".join(text.get_text() for text in figure.texts)
    level = 100 * next(result["accuracy"]["mean"] for result in results if result["start"] == "scratch")
    assert any(list(mark.get_xdata()) == [level, level] for mark in axes.lines)  # scratch is drawn through all rows


def test_several_shots_become_lines() -> None:
    (axes,) = descendants_figure(make_results((1, 5, 20))).axes
    assert np.allclose(line(axes, "learngene"), [48, 56, 57.5])
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["1", "5", "20"]
    intervals = [shape for shape in axes.collections if isinstance(shape, LineCollection)]
    assert sum(len(shape.get_segments()) for shape in intervals) == 12


def test_curves_are_means_over_seeds() -> None:
    (axes,) = curves_figure(CURVES).axes
    assert np.allclose(line(axes, "learngene"), [0, 29, 58])
    with pytest.raises(ValueError, match="no curves"):
        curves_figure({"scratch": []})
    with pytest.raises(ValueError, match="no results"):
        descendants_figure([])


@pytest.mark.parametrize("name", ["scratch", "knowledge evolution, equal images", "trained mask, random weights"])
def test_names_of_any_length_are_shown_whole(name: str) -> None:
    shots = [{**result, "start": name} for result in make_results((1, 5)) if result["start"] == "learngene"]
    for figure in (curves_figure({name: [(0, 0.125), (20, 0.999)]}), descendants_figure(shots)):
        renderer = FigureCanvasAgg(figure).get_renderer()
        (axes,) = figure.axes
        right = max(text.get_window_extent(renderer).x1 for text in axes.texts)
        assert right < figure.bbox.x1 and axes.get_position().width > 0.3, name


@pytest.mark.parametrize("name", FIGURES)
def test_equal_figures_are_equal_files_whatever_the_users_settings(name: str, tmp_path: Path) -> None:
    save(FIGURES[name](), tmp_path / "a.png")
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "red", "savefig.dpi": 30, "lines.linewidth": 9}):
        save(FIGURES[name](), tmp_path / "b.png")
    data = (tmp_path / "a.png").read_bytes()
    assert data == (tmp_path / "b.png").read_bytes()
    assert b"Software" not in data and b"tIME" not in data and b"Matplotlib" not in data
    with Image.open(tmp_path / "a.png") as image:
        assert image.width == 900
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]


@pytest.mark.parametrize("name", FIGURES)
def test_nothing_runs_over_the_edge(name: str) -> None:
    figure = FIGURES[name]()
    renderer: Any = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    box, (width, height) = figure.get_tightbbox(renderer), figure.get_size_inches()
    assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height, box


def test_save_replaces_and_says_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"old")
    save(FIGURES["channels"](), tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(StorageError, match="Make the folder first"):
        save(FIGURES["channels"](), tmp_path / "missing" / "a.png")


def test_big_and_odd_genotypes_can_be_drawn(tmp_path: Path) -> None:
    groups = {f"stage{i}.$out_{i}": ChannelMask(width, range(0, width, 9)) for i, width in enumerate([1, 8, 640] * 5)}
    save(channels_figure(Genotype(groups)), tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_pyplot_and_windows_are_never_touched() -> None:
    code = "import sys, gtl.report.figures; print('matplotlib.pyplot' in sys.modules, 'tkinter' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(1, 10)), min_size=1, max_size=9))
def test_spread_labels_never_overlap(boxes: list[tuple[float, float]]) -> None:
    wanted = sorted(y for y, _ in boxes)
    heights = [height for _, height in boxes]
    placed = spread(wanted, heights, 0, 100)
    for i in range(1, len(placed)):
        assert placed[i] - placed[i - 1] >= (heights[i] + heights[i - 1]) / 2 - 1e-9
    assert placed[-1] + heights[-1] / 2 <= 100 + 1e-9 and placed[0] - heights[0] / 2 >= -1e-9
