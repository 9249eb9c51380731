"""Image files to square RGB arrays. What cannot be used becomes a reason, never an exception, and never much memory."""

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from gtl.data.arrays import pixel_hash
from gtl.data.request import DataRequest
from gtl.errors import DataError

MOST_PIXELS = 50_000_000
FEWEST_PIXELS = 8  # a side; less shows nothing, and a 1 x 1 picture is a web page's counter
# Formats that are pictures and nothing else: Pillow also opens PostScript, by running another program.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
_SHOWN = 10


class Decoded(NamedTuple):
    """One usable image: its file, its pixels uint8 ``(S, S, 3)``, and the hash of them before resizing."""

    path: Path
    pixels: np.ndarray
    digest: bytes


def decode_all(paths: Sequence[Path], size: int) -> tuple[list[Decoded], list[tuple[Path, str]]]:
    """Decode files on several threads (Pillow lets go of the interpreter while it works), in the order given.

    Returns:
        The usable images, and the others with the reason.
    """
    good: list[Decoded] = []
    bad: list[tuple[Path, str]] = []
    with warnings.catch_warnings(), ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        warnings.simplefilter("ignore")  # on odd metadata; and on large pictures, for which we have our own limit
        for path, result in zip(paths, pool.map(lambda path: decode(path, size), paths), strict=True):
            if isinstance(result, Decoded):
                good.append(result)
            else:
                bad.append((path, result))
    return good, bad


def decode(path: Path, size: int) -> Decoded | str:
    """One file as an image of `size`: shorter side resized, centre cropped; or the reason why it cannot be used.

    Transparent parts become white, all modes become RGB, the camera's orientation is applied.
    """
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            return "is a folder; images must lie directly in their class folder"
        if not stat.S_ISREG(status.st_mode):
            return "is not a regular file"  # opening a pipe would wait for ever
        if status.st_size == 0:
            return "empty file"
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size  # from the header; nothing has been decoded yet
            if width * height > MOST_PIXELS:
                return f"{width} x {height} pixels, more than the limit of {MOST_PIXELS // 1_000_000} million"
            if min(width, height) < FEWEST_PIXELS:
                return f"{width} x {height} pixels, less than {FEWEST_PIXELS} a side"
            if image.mode.startswith(("I", "F")):
                return f"mode {image.mode}, more than 8 bits a channel; convert it to 8 bits"
            # JPEG can be decoded at a fraction of its size, still at least twice as large as wanted.
            image.draft("RGB", (2 * size, 2 * size))
            rgb = _to_rgb(ImageOps.exif_transpose(image))
        square = ImageOps.fit(rgb, (size, size), Image.Resampling.BILINEAR)
        return Decoded(path, np.asarray(square), pixel_hash(np.asarray(rgb)))
    except Image.DecompressionBombError:
        return f"more than the limit of {MOST_PIXELS // 1_000_000} million pixels"
    except UnidentifiedImageError:
        return "not an image of a known kind (" + ", ".join(FORMATS) + ")"
    # Pillow's decoders raise nearly anything on damaged files (OSError, SyntaxError, struct.error, ...); one
    # bad picture must end up in the report together with the others.
    except Exception as error:
        return f"cannot be decoded: {error}" if str(error) else f"cannot be decoded: {type(error).__name__}"


def report_bad(bad: Sequence[tuple[Path, str]], root: Path, request: DataRequest) -> None:
    """One DataError for all unusable images if there are more than `skip_bad`, else one warning."""
    if not bad:
        return
    shown = "".join(f"\n  {path.relative_to(root)}: {reason}" for path, reason in bad[:_SHOWN])
    rest = f"\n  and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
    if len(bad) > request.skip_bad:
        raise DataError(
            f"{request.source}: {len(bad)} images below {root} cannot be used (skip_bad is {request.skip_bad}); repair "
            f"or remove them, or leave them out with skip_bad={len(bad)}:{shown}{rest}"
        )
    warnings.warn(f"{request.source}: {len(bad)} images below {root} are left out:{shown}{rest}", stacklevel=2)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")
