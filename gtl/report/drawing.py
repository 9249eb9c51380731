"""What all pictures share: gtl's own style, colours, the names at the ends of lines, and saving.

Only matplotlib's object API is used: no global state, no window, nothing of the user's matplotlib settings.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from gtl import storage

DPI = 150
WIDTH = 6.0  # inches: 900 pixels
CHARACTER = 0.0115  # of the width, of text in its usual size
INK, MUTED, RULE, PALE = "#222222", "#666666", "#c9c9c9", "#ececec"
BLUE, SKY = "#0072b2", "#8fc1e3"
# Okabe and Ito's colours, which stay apart for the colour-blind; every line also has its own marker and its name on it.
COLOURS = {"scratch": MUTED, "pretrained": INK, "learngene": BLUE, "one-shot": "#d55e00"}
MORE_COLOURS = ("#009e73", "#cc79a7", "#e69f00", "#56b4e9")
MARKERS = "osD^vPX*"
STYLE: dict[Any, Any] = {
    "font.family": ["DejaVu Sans"],
    "font.size": 8.5,
    "text.color": INK,
    "text.parse_math": False,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
}
STEPS = [1, 2, 5, 10]  # of ticks

P = ParamSpec("P")


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw under gtl's own style, whatever the user's is."""

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with style.context(STYLE, after_reset=True):
            return draw(*args, **kwargs)

    return drawn


def save(figure: Figure, path: Path, *, overwrite: bool = True) -> None:
    """Write a figure as PNG, whole or not at all. Equal figures give equal bytes.

    Args:
        overwrite: whether it takes the place of an older file.

    Raises:
        FileExistsError: there is one, and `overwrite` is False.
        StorageError: the disk refused.
    """
    stream = io.BytesIO()
    with style.context(STYLE, after_reset=True):
        figure.savefig(stream, format="png", dpi=DPI, metadata={"Software": None})
    storage.publish(path, stream.getvalue(), overwrite=overwrite)


class Label(NamedTuple):
    """A line's name, to stand to the right of its end."""

    y: float
    text: str
    colour: str
    weight: str = "normal"


def end_labels(axes: Axes, labels: Sequence[Label]) -> None:
    """Write names at the right ends of lines, moved apart where they would overlap, with a thin leader."""
    low, high = axes.get_ylim()
    size = axes.get_position().height * axes.figure.get_figheight() * 72  # type: ignore[union-attr]
    unit = (high - low) / size  # of the axis, for a point of text
    ordered = sorted(labels, key=lambda label: label.y)
    heights = [unit * (11.5 * (1 + label.text.count("\n")) + 1.5) for label in ordered]
    across = axes.get_yaxis_transform()
    for label, y in zip(ordered, spread([label.y for label in ordered], heights, low, high), strict=True):
        line = Line2D([1.0, 1.015, 1.035], [label.y, label.y, y], color=label.colour, linewidth=0.6, transform=across)
        line.set_clip_on(False)
        axes.add_artist(line)
        axes.text(
            1.045,
            y,
            label.text,
            color=label.colour,
            fontweight=label.weight,
            va="center",
            linespacing=1.2,
            transform=across,
        )


def spread(wanted: Sequence[float], heights: Sequence[float], low: float, high: float) -> list[float]:
    """Centres for boxes of these heights, stacked in the given order without overlap, as near as can be to `wanted`.

    Least squares (pool adjacent violators), then moved within `low`..`high` as far as the boxes fit there.
    """
    offsets = np.concatenate([[0.0], np.cumsum([(a + b) / 2 for a, b in pairwise(heights)])])
    blocks: list[list[float]] = []  # [mean, count]
    for value in np.asarray(wanted) - offsets:
        blocks.append([value, 1])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            last = blocks.pop()
            total = blocks[-1][1] + last[1]
            blocks[-1] = [(blocks[-1][0] * blocks[-1][1] + last[0] * last[1]) / total, total]
    level = np.concatenate([[mean] * int(count) for mean, count in blocks])
    ceiling = high - heights[-1] / 2 - offsets[-1]
    return list(np.clip(level, min(low + heights[0] / 2, ceiling), ceiling) + offsets)


def looks_of(starts: Iterable[str]) -> list[tuple[str, str, str]]:
    """(start, colour, marker) of every start once; the well-known ones always look the same."""
    names = list(dict.fromkeys(starts))
    others = [name for name in names if name not in COLOURS]
    colours = {**COLOURS, **{name: MORE_COLOURS[i % len(MORE_COLOURS)] for i, name in enumerate(others)}}
    known = list(COLOURS)
    order = {name: known.index(name) if name in known else len(known) + others.index(name) for name in names}
    return [(name, colours[name], MARKERS[order[name] % len(MARKERS)]) for name in names]


def limits(axes: Axes, values: Sequence[float]) -> None:
    """Room around all values, within 0..100 %."""
    margin = max(0.07 * (max(values) - min(values)), 4.0)  # at least: whole numbers at the ticks
    axes.set_ylim(max(0.0, min(values) - margin), min(100.0, max(values) + margin))
