"""Glyphs as a user's own images would lie: PNG files in one folder a class, in train, val and novel folders.

python benchmarks/glyph_folder.py FOLDER [--images 120]

What `--data folder:FOLDER` of `gtl compare` and `gtl fewshot` then reads has nothing of photographs: lines of one colour on
a ground of another. Prints what it wrote; a folder that is there is left alone.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from gtl.data.images import ROLES
from gtl.data.request import DataRequest
from gtl.data.sources import load


def write(folder: Path, images_per_class: int) -> int:
    """All glyphs below a new folder; returns the number of images."""
    splits = load(DataRequest("glyphs", images_per_class=images_per_class), ROLES)
    folder.mkdir(parents=True)
    written = 0
    for role, found in splits.sets.items():
        for number, name in enumerate(found.class_names):
            place = folder / role / name.split()[0]  # U+0416: signs themselves are no names for folders everywhere
            place.mkdir(parents=True)
            for at, pixels in enumerate(found.images[found.labels == number]):
                Image.fromarray(pixels.numpy()).save(place / f"{at:03}.png")
                written += 1
    return written


def main(words: Sequence[str] | None = None) -> int:
    """Write them, or say that the folder is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="to write; must not be there")
    parser.add_argument("--images", type=int, default=120, help="of each class")
    given = parser.parse_args(words)
    if given.folder.exists():
        parser.error(f"{given.folder} is there already; name another folder, or remove it")
    print(f"{write(given.folder, given.images):,} images in {given.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
