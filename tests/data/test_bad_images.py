"""F25 and F26: every kind of file that is no usable image ends in one report; odd but good ones are read."""

from __future__ import annotations

import io
import os
import re
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from pictures import pixels, png_header, write_roles
from PIL import Image

from gtl.data import DataRequest, load
from gtl.data.decode import Decoded, decode
from gtl.errors import DataError


def encoded(image: Image.Image, kind: str) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()


RGB = Image.fromarray(pixels(7, 64))
JPEG, PNG = encoded(RGB, "JPEG"), encoded(RGB, "PNG")

BAD = {
    "empty.jpg": (b"", "empty file"),
    "page.jpg": (b"<!DOCTYPE html><html><body>404</body></html>", "not an image of a known kind"),
    "cut.jpg": (JPEG[: len(JPEG) // 2], "cannot be decoded: .*[Tt]runcated"),
    "cut.png": (PNG[: len(PNG) // 2], "cannot be decoded"),
    "head.png": (PNG[:20], "cannot be decoded|not an image"),
    "noise.png": (PNG[:60] + b"garbage" * 50, "cannot be decoded"),
    "one.png": (encoded(RGB.resize((1, 1)), "PNG"), "1 x 1 pixels, less than 8 a side"),
    "deep.png": (encoded(Image.fromarray(np.full((40, 40), 40_000, np.uint16)), "PNG"), "mode I;16, more than 8 bits"),
    "script.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\n", "not an image of a known kind"),
    "notes.txt": (b"labels", "not an image of a known kind"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_have_a_reason(tmp_path: Path, name: str) -> None:
    content, reason = BAD[name]
    (tmp_path / name).write_bytes(content)
    result = decode(tmp_path / name, 32)
    assert isinstance(result, str)
    assert re.search(reason, result), result


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("side", "reason"), [(12_000, "12000 x 12000 pixels, more than"), (20_000, "more than the limit")]
)
def test_bombs_are_refused_from_the_header(tmp_path: Path, side: int, reason: str) -> None:
    path = png_header(tmp_path / "bomb.png", side, side)
    tracemalloc.start()
    began = time.perf_counter()
    result = decode(path, 32)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # The data behind the header is cut, so decoding it would have given another reason.
    assert isinstance(result, str) and reason in result and "50 million" in result
    assert time.perf_counter() - began < 1 and peak < 10_000_000


def test_things_that_are_no_files(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    assert "is a folder" in str(decode(tmp_path / "folder", 32))
    assert decode(tmp_path / "pipe.png", 32) == "is not a regular file"
    assert "No such file" in str(decode(tmp_path / "gone.png", 32))


MODES = {
    "png": ("RGB", "L", "1", "P", "RGBA", "LA"),
    "tiff": ("RGB", "L", "1", "P", "RGBA", "CMYK"),
    "jpg": ("RGB", "L", "CMYK"),
    "webp": ("RGB", "RGBA"),
    "gif": ("L", "P"),
}


@pytest.mark.parametrize(("kind", "mode"), [(kind, mode) for kind, modes in MODES.items() for mode in modes])
def test_modes_are_read_as_rgb(tmp_path: Path, kind: str, mode: str) -> None:
    original = RGB.convert("L").convert(mode) if mode in {"LA"} else RGB.convert(mode)
    original.save(tmp_path / f"image.{kind}")
    result = decode(tmp_path / f"image.{kind}", 64)
    assert isinstance(result, Decoded) and result.pixels.shape == (64, 64, 3)
    # A black and white image is dithered, and only its mean is that of the picture.
    reference = np.asarray(RGB.convert("L").convert("RGB") if mode in {"L", "1", "LA"} else RGB, np.float32)
    difference = np.abs(result.pixels.mean((0, 1)) - reference.mean((0, 1))).max()
    assert difference < 12, difference


def test_transparent_parts_are_white(tmp_path: Path) -> None:
    layer = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    layer.paste((0, 0, 0, 255), (10, 10, 30, 30))
    layer.save(tmp_path / "drawing.png")
    result = decode(tmp_path / "drawing.png", 40)
    assert isinstance(result, Decoded)
    assert (result.pixels[0, 0] == 255).all() and (result.pixels[20, 20] == 0).all()


def test_the_camera_orientation_is_applied(tmp_path: Path) -> None:
    half = np.zeros((40, 40, 3), np.uint8)
    half[:20] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(half).save(tmp_path / "photo.jpg", exif=exif)
    result = decode(tmp_path / "photo.jpg", 40)
    assert isinstance(result, Decoded)
    assert result.pixels[:15].mean() < 10 and result.pixels[25:].mean() > 240


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = write_roles(tmp_path)
    for name, (content, _) in BAD.items():
        (root / "train" / "train 0" / name).write_bytes(content)
    for i, side in enumerate((12_000, 20_000)):
        png_header(root / "val" / "val 1" / f"bomb {i}.png", side, side)
    return root


def test_one_report_for_all(root: Path) -> None:
    with pytest.raises(DataError) as caught:
        load(DataRequest("folder", root=str(root)))
    message = str(caught.value)
    assert f"12 images below {root} cannot be used (skip_bad is 0)" in message and "skip_bad=12" in message
    assert "train/train 0/empty.jpg: empty file" in message and "and 2 more" in message
    assert len(message.splitlines()) == 12  # the sentence, ten files, the rest


def test_a_budget_tolerates_that_many_and_says_so(root: Path) -> None:
    with pytest.raises(DataError, match=r"12 images .*\(skip_bad is 11\)"):
        load(DataRequest("folder", root=str(root), skip_bad=11))
    with pytest.warns(UserWarning, match="12 images below .* are left out"):
        splits = load(DataRequest("folder", root=str(root), skip_bad=12))
    assert splits["train"].class_counts == {"train 0": 3, "train 1": 3}
