"""The picture of instincts: does it hold the maps, fit its edges, and say its numbers?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from report_samples import make_document, make_learngene

from gtl.report.card import CAPTIONS, card_markdown, write_card
from gtl.report.figures import save
from gtl.report.run import write_evidence
from gtl.report.saliency_figure import saliency_figure
from gtl.saliency import Agreement, Saliency
from gtl.stats import estimate

NAMES = ("scratch", "one-shot", "learngene", "pretrained")
LONG = "LATIN_SMALL LETTER\nWITH SUPERCALIFRAGILISTIC $_$ NAMES"


def make_saliency(starts: tuple[str, ...] = NAMES, rows: int = 3, measured: bool = True, **changes: Any) -> Saliency:
    draw = np.random.default_rng(0)
    numbers = [
        Agreement(
            start,
            estimate([0.1 * n, 0.1 * n + 0.2]),
            estimate([0.0, 0.1]),
            None if start == "scratch" else estimate([0.1, 0.2]),
        )
        for n, start in enumerate(starts)
        if start != "pretrained"
    ]
    found = Saliency(
        source="cifar_fs",
        method="attention",
        group="stage3.out",
        grid=8,
        newborns=5,
        pictured=((LONG, 7), *((f"class {row}", row) for row in range(1, rows)))[:rows],
        pixels=draw.integers(0, 256, (rows, 32, 32, 3), dtype=np.uint8),
        maps={start: draw.random((rows, 32, 32), dtype=np.float32) for start in starts},
        agreements=tuple(numbers) if measured else (),
    )
    return replace(found, **changes)


def written(figure: Figure) -> str:
    own = [text.get_text() for text in figure.texts]
    return "\n".join(own + [text.get_text() for axes in figure.axes for text in axes.texts])


def test_the_picture_holds_images_and_maps() -> None:
    saliency = make_saliency()
    figure = saliency_figure(saliency)
    cells = figure.axes[:-1]  # the last are the colours
    assert len(cells) == 3 * 5
    for row in range(3):
        image, *maps = cells[5 * row : 5 * row + 5]
        assert np.array_equal(image.images[0].get_array(), saliency.pixels[row])
        for axes, start in zip(maps, NAMES, strict=True):
            grey, over = axes.images
            assert np.array_equal(over.get_array(), saliency.maps[start][row]) and over.get_clim() == (0, 1)
            assert grey.get_array().shape == (32, 32) and 0 < over.get_alpha() < 1
    text = written(figure)
    for wanted in ("learngene", "0.10 ± 1.27", "1 (reference)", "n = 2 images", "at most 0.05", "stage3.out, 8 x 8 places",
                   "class 2", "one-shot gene is cut from that very network"):  # fmt: skip
        assert wanted in text, wanted


def test_without_a_reference_no_number_is_claimed() -> None:
    text = written(saliency_figure(make_saliency(("scratch", "learngene"), measured=False)))
    assert "agreement" not in text.lower() and "reference" not in text and "one-shot" not in text
    with pytest.raises(ValueError, match="no maps"):
        saliency_figure(make_saliency(()))


@pytest.mark.parametrize(
    "saliency",
    [make_saliency(rows=6), make_saliency(("scratch", "learngene"), rows=1, measured=False), make_saliency(method="grad-cam")],
    ids=["all", "least", "grad-cam"],
)  # fmt: skip
def test_nothing_runs_over_the_edge_and_equal_pictures_are_equal_files(saliency: Saliency, tmp_path: Path) -> None:
    figure = saliency_figure(saliency)
    renderer: Any = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    box, (width, height) = figure.get_tightbbox(renderer), figure.get_size_inches()
    assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height, box
    boxes = [text.get_window_extent(renderer) for text in figure.texts]
    for number, one in enumerate(boxes):
        assert not any(one.overlaps(other) for other in boxes[:number] if other.width and one.width), figure.texts[
            number
        ]
    save(figure, tmp_path / "a.png")
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "red", "image.cmap": "jet", "savefig.dpi": 30}):
        save(saliency_figure(saliency), tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as image:
        assert image.width == 900


def test_it_is_written_beside_the_evidence_and_onto_the_card(tmp_path: Path) -> None:
    names = [path.name for path in write_evidence(tmp_path / "evidence", make_document(), make_saliency())]
    assert names == ["evidence.json", "evidence.md", "descendants.png", "saliency.png"]
    assert (tmp_path / "evidence" / "saliency.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "saliency-cifar_fs.png").write_bytes(b"")
    text = write_card(make_learngene(), tmp_path / "learngene.safetensors").read_text()
    assert f"![{CAPTIONS['saliency']}](saliency-cifar_fs.png)" in text
    assert "saliency" not in card_markdown(make_learngene())
