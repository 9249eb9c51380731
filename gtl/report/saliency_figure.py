"""The picture of instincts (the GTL paper's Fig. 5): where newborns look that never trained. 900 pixels wide."""

from __future__ import annotations

import textwrap

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from gtl.report.drawing import MUTED, WIDTH, styled
from gtl.saliency import Saliency

NAMES = {
    "scratch": "random\nnewborn",
    "one-shot": "newborn with\none-shot gene",
    "learngene": "newborn with\nlearngene",
    "pretrained": "whole network,\npre-trained",
}
METHODS = {
    "attention": "mean squared activation of {group}",
    "grad-cam": "Grad-CAM of the class mean in {group}",
}
COLOURS = "viridis"  # for the colour-blind, too: lightness rises with the value
OPACITY = 0.64
GREYS = (0.18, 0.82)  # of black and white under a map, so that they hide no colour
LUMINANCE = (0.299, 0.587, 0.114)
LONGEST = 12  # letters on a line of a class name


@styled
def saliency_figure(saliency: Saliency, *, title: str = "Where newborns look that never trained") -> Figure:
    """A row an image, a column a start: the saliency map laid over the image in grey.

    Under a start's name stands how far its maps agree with the trained network's, where that was measured.

    Raises:
        ValueError: there are no maps.
    """
    if not saliency.maps or not len(saliency.pixels):
        raise ValueError("there are no maps to draw")
    rows, columns = len(saliency.pixels), 1 + len(saliency.maps)
    left, gap, top, bottom = 0.98, 0.05, 0.92, 0.86  # inches
    side = min(0.95, (WIDTH - left - 0.08) / columns - gap)
    height = top + rows * (side + gap) + bottom
    figure = Figure(figsize=(WIDTH, height))

    def place(row: int, column: int) -> Axes:
        x, y = left + column * (side + gap), top + row * (side + gap)
        axes = figure.add_axes((x / WIDTH, 1 - (y + side) / height, side / WIDTH, side / height))
        _bare(axes)
        return axes

    agreements = {agreement.start: agreement for agreement in saliency.agreements}
    heads = [("novel\nimage", "")]
    for start in saliency.maps:
        found = agreements.get(start)
        number = "" if found is None else f"{found.same.mean:.2f} ± {found.same.half_width:.2f}"
        heads.append((NAMES.get(start, start), number or ("1 (reference)" if agreements else "")))
    grey = GREYS[0] + (GREYS[1] - GREYS[0]) * (saliency.pixels @ np.array(LUMINANCE)) / 255
    for row, (name, _) in enumerate(saliency.pictured):
        axes = place(row, 0)
        axes.imshow(saliency.pixels[row], interpolation="nearest")
        axes.text(-0.05, 0.5, _wrapped(name), transform=axes.transAxes, ha="right", va="center", fontsize=8)
        for column, maps in enumerate(saliency.maps.values(), start=1):
            axes = place(row, column)
            axes.imshow(grey[row], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axes.imshow(maps[row], cmap=COLOURS, vmin=0, vmax=1, alpha=OPACITY, interpolation="bilinear")
    for column, (text, number) in enumerate(heads):
        x = (left + column * (side + gap) + side / 2) / WIDTH
        bold = "bold" if column and list(saliency.maps)[column - 1] == "learngene" else "normal"
        for above, line in enumerate(reversed(text.split("\n"))):
            y = 1 - (top - 0.26 - 0.13 * above) / height
            figure.text(x, y, line, ha="center", va="baseline", fontweight=bold)
        figure.text(x, 1 - (top - 0.06) / height, number, ha="center", va="bottom", color=MUTED, fontsize=7.5)
    figure.text(0.012, 1 - 0.2 / height, title, fontsize=10, va="center")
    if agreements:
        figure.text((left - 0.06) / WIDTH, 1 - (top - 0.06) / height, "agreement", ha="right", va="bottom", color=MUTED,
                    fontsize=7.5)  # fmt: skip
    _key(figure, height, left)
    _notes(figure, height, saliency)
    return figure


def _key(figure: Figure, height: float, left: float) -> None:
    """The colours, from least to most."""
    axes = figure.add_axes((left / WIDTH, 0.7 / height, 0.95 / WIDTH, 0.08 / height))
    _bare(axes)
    axes.imshow(np.linspace(0, 1, 64)[None], cmap=COLOURS, aspect="auto", interpolation="bilinear")
    look = {"color": MUTED, "fontsize": 7.5, "va": "center"}
    figure.text((left - 0.06) / WIDTH, 0.74 / height, "least", ha="right", **look)  # type: ignore[arg-type]
    figure.text((left + 1.01) / WIDTH, 0.74 / height, "most, of each map", **look)  # type: ignore[arg-type]


def _notes(figure: Figure, height: float, saliency: Saliency) -> None:
    method = METHODS[saliency.method].format(group=saliency.group)
    lines = [
        f"Novel classes of {saliency.source}, drawn by seed. Map: {method}, {saliency.grid} x {saliency.grid} places."
    ]
    if saliency.agreements:
        count, other = saliency.agreements[0].same.n, max(each.other.mean for each in saliency.agreements)
        lines += [
            f"Agreement: rank correlation with the pre-trained network's map, n = {count} images (95 % interval); with its map",
            f"of another image at most {other:.2f}. It says where newborns answer, not that the object is there.",
        ]
        if "one-shot" in saliency.maps:
            lines.append(
                "A one-shot gene is cut from that very network: its maps agree by their nature, whatever they are worth."
            )
    text = "\n".join(lines)
    figure.text(0.012, 0.06 / height, text, color=MUTED, fontsize=7.5, va="bottom", linespacing=1.25)


def _bare(axes: Axes) -> None:
    axes.xaxis.set_major_locator(NullLocator())
    axes.yaxis.set_major_locator(NullLocator())
    for spine in axes.spines.values():
        spine.set_visible(False)


def _wrapped(name: str) -> str:
    """A class name on at most three short lines."""
    lines = textwrap.wrap(name.replace("_", " "), LONGEST)
    return "\n".join([*lines[:2], *([f"{lines[2][: LONGEST - 1]}…"] if len(lines) > 3 else lines[2:3])])
