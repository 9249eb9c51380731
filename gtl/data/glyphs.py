"""`glyphs`, the embedded default source: characters drawn with the fonts that matplotlib ships. Nothing is downloaded.

One class a character (`glyph_classes.json`; no digits, so that handwritten digits stay unseen). Every image takes a
random face, a random affine (rotation, shear, stretch, shift), random ink and ground colours that differ in brightness,
a ground that shades from one colour to another, blotches and noise. Each character has its own generator, so its images
do not depend on which other classes are drawn.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from functools import cache
from importlib import metadata, resources
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont, features

from gtl.data.arrays import check_counts, image_set
from gtl.data.cache import read_array, write_array
from gtl.data.images import ImageSet, Role, Splits
from gtl.data.request import DataRequest, check_roles, split_classes
from gtl.errors import DataError
from gtl.seeds import rng

GENERATOR_VERSION = 2  # raise it with every change that changes a pixel
DEFAULT_SIZE = 32
DEFAULT_IMAGES = 60
MIN_FACES = 8

FACE_FILES = (
    *(f"DejaVuSans{style}.ttf" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSansMono{style}.ttf" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{style}.ttf" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{style}.ttf" for style in ("", "Bol", "Italic", "BolIta")),
    *(f"{name}10.ttf" for name in ("cmr", "cmb", "cmti", "cmss", "cmtt")),
)


class Face(NamedTuple):
    """A font file and the code points that it draws."""

    path: Path
    codes: frozenset[int]


@cache
def faces() -> tuple[Face, ...]:
    """The text faces that matplotlib ships.

    Raises:
        DataError: the font folder is not there.
    """
    import matplotlib
    from matplotlib.ft2font import FT2Font

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    found = []
    for file in FACE_FILES:
        path = folder / file
        if not path.is_file():
            raise DataError(f"glyphs: font {path} is missing; reinstall matplotlib with its bundled fonts")
        codes = frozenset(FT2Font(str(path)).get_charmap())
        # Computer Modern puts other signs at many code points; its letters are where they belong.
        letters = frozenset(code for code in codes if code < 128 and chr(code).isalpha())
        found.append(Face(path, letters if file.startswith("cm") else codes))
    return tuple(found)


@cache
def characters() -> str:
    """The shipped classes in their order (see `glyph_classes` for how they were chosen)."""
    text = resources.files("gtl.data").joinpath("glyph_classes.json").read_text(encoding="ascii")
    return str(json.loads(text)["characters"])


def class_name(character: str) -> str:
    """For example ``U+0416 Ж``."""
    return f"U+{ord(character):04X} {character}"


def load(request: DataRequest, roles: Sequence[Role]) -> Splits:
    """Glyph images of the wanted roles.

    Raises:
        DataError: class counts that do not fit, or fonts that are not there.
    """
    by_name = {class_name(character): character for character in characters()}
    class_lists = split_classes(tuple(by_name), request)
    check_roles(roles, class_lists, request.source)
    count = request.images_per_class or DEFAULT_IMAGES
    check_counts({name: count for names in class_lists.values() for name in names}, request)
    sets: dict[Role, ImageSet] = {}
    for role in roles:
        text = "".join(by_name[name] for name in class_lists[role])
        images = cached_render(text, count, request.image_size or DEFAULT_SIZE)
        labels = np.repeat(np.arange(len(text)), count)
        sets[role] = image_set(images, labels, class_lists[role], role, request, mirror=False)
    return Splits(source=request.source, sets=sets, class_lists=class_lists)


def cached_render(text: str, count: int, size: int) -> np.ndarray:
    """`render`, through the cache; uint8 ``(len(text) * count, size, size, 3)``."""
    # What draws is part of the key: another Pillow or FreeType may draw other pixels, and a cached set must be equal
    # to one drawn afresh.
    drawn_by = [metadata.version(name) for name in ("matplotlib", "numpy", "pillow")] + [features.version("freetype2")]
    key = hashlib.sha256(json.dumps([text, count, size, drawn_by]).encode()).hexdigest()[:16]
    name = f"glyphs-v{GENERATOR_VERSION}-{key}.npz"
    shape = (len(text) * count, size, size, 3)
    images = read_array(name, shape)
    if images is None:
        images = np.concatenate([render(character, count, size) for character in text])
        write_array(name, images)
    return images


def render(character: str, count: int, size: int) -> np.ndarray:
    """Images of one character.

    Returns:
        uint8 ``(count, size, size, 3)``; the same for the same arguments, whatever was drawn before.

    Raises:
        DataError: fewer than MIN_FACES faces have the character.
    """
    able = [face for face in faces() if ord(character) in face.codes]
    if len(able) < MIN_FACES:
        raise DataError(
            f"glyphs: {len(able)} of the bundled fonts draw {class_name(character)}, {MIN_FACES} are needed; "
            "install a matplotlib with the DejaVu and STIX fonts"
        )
    generator = rng(0, "glyphs", GENERATOR_VERSION, ord(character))
    ink = np.empty((count, size, size, 1), np.float32)
    for row in range(count):
        face = able[generator.integers(len(able))]
        stencil = draw_stencil(face.path, character, 3 * size)
        ink[row, :, :, 0] = np.asarray(_place(stencil, size, generator), np.float32) / 255
    return _paint(ink, generator)


def draw_stencil(path: Path, character: str, points: int) -> Image.Image:
    """The character as an ``L`` image, cut to its ink plus two pixels on each side."""
    font = _font(path, points)
    left, top, right, bottom = font.getbbox(character)
    image = Image.new("L", (max(1, math.ceil(right - left)) + 4, max(1, math.ceil(bottom - top)) + 4))
    ImageDraw.Draw(image).text((2 - left, 2 - top), character, fill=255, font=font)
    return image


@cache
def _font(path: Path, points: int) -> ImageFont.FreeTypeFont:
    # The basic layout is in every Pillow; the other one comes with an optional library and may place ink elsewhere.
    return ImageFont.truetype(str(path), points, layout_engine=ImageFont.Layout.BASIC)


def _place(stencil: Image.Image, size: int, generator: np.random.Generator) -> Image.Image:
    """The stencil under a random affine on an ``L`` image of `size`: drawn twice as large, then averaged."""
    angle = math.radians(generator.uniform(-15, 15))
    shear = generator.uniform(-0.2, 0.2)
    stretch = math.exp(generator.uniform(-0.15, 0.15))
    fill = generator.uniform(0.55, 0.95)  # the longer side of the character as a share of the image
    shift_x, shift_y = generator.uniform(-0.08, 0.08, 2) * 2 * size
    scale = fill * 2 * size / (max(stencil.size) - 4)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    # PIL wants the map from output to input pixels, so the forward matrix is inverted.
    inverse = np.linalg.inv(turn @ np.array([[scale * stretch, shear * scale], [0.0, scale / stretch]]))
    centre = np.array([size + shift_x, size + shift_y])
    offset = np.array(stencil.size) / 2 - inverse @ centre
    matrix = (*inverse[0], offset[0], *inverse[1], offset[1])
    placed = stencil.transform((2 * size, 2 * size), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    placed = _wobble(placed, generator)
    if generator.random() < 0.5:  # a broader pen
        placed = placed.filter(ImageFilter.MaxFilter(3 if generator.random() < 0.5 else 5))
    coarse = round(size * generator.uniform(0.25, 1.0))
    if generator.random() < 0.5:  # seen by a worse camera
        return placed.resize((coarse, coarse), Image.Resampling.BOX).resize((size, size), Image.Resampling.BICUBIC)
    return placed.reduce(2)


def _wobble(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """The image bent a little, as by hand: the inner corners of a coarse grid of quadrilaterals are moved."""
    size, cells = image.size[0], 3
    edges = np.linspace(0, size, cells + 1)
    corners = np.stack(np.meshgrid(edges, edges, indexing="xy"), -1)  # (row, column, (x, y))
    corners[1:-1, 1:-1] += generator.uniform(-0.07, 0.07, (cells - 1, cells - 1, 2)) * size
    mesh = []
    for row in range(cells):
        for column in range(cells):
            box = (int(edges[column]), int(edges[row]), int(edges[column + 1]), int(edges[row + 1]))
            around = (
                corners[row, column],
                corners[row + 1, column],
                corners[row + 1, column + 1],
                corners[row, column + 1],
            )
            mesh.append((box, tuple(float(value) for corner in around for value in corner)))
    return image.transform(image.size, Image.Transform.MESH, mesh, Image.Resampling.BILINEAR)


def _paint(ink: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Colours, shading, blotches and noise for coverage ``(N, S, S, 1)`` in 0..1; returns uint8 ``(N, S, S, 3)``."""
    count, size = ink.shape[:2]
    ground, pen = _colours(count, generator)
    # Shading: a ramp from 0 to 1 across the image in a random direction, added with a random colour.
    angle = generator.uniform(0, 2 * np.pi, (count, 1, 1)).astype(np.float32)
    axis = np.linspace(-0.5, 0.5, size, dtype=np.float32)
    ramp = (np.cos(angle) * axis[None, None, :] + np.sin(angle) * axis[None, :, None])[..., None]
    ground_tilt, pen_tilt = generator.uniform(-0.2, 0.2, (2, count, 1, 1, 3)).astype(np.float32)
    # Blotches: a coarse random field, smoothly enlarged.
    coarse = generator.uniform(-1, 1, (count, 5, 5, 3)).astype(np.float32)
    coarse *= generator.uniform(0, 0.12, (count, 1, 1, 1)).astype(np.float32)
    blotches = _enlarge(_enlarge(coarse, 1, size), 2, size)
    below = ground[:, None, None, :] + ramp * ground_tilt + blotches
    above = pen[:, None, None, :] + ramp * pen_tilt
    image = below + ink * (above - below)
    strength = generator.uniform(0, 0.06, (count, 1, 1, 1)).astype(np.float32)
    image += generator.standard_normal(image.shape, dtype=np.float32) * strength
    pixels: np.ndarray = (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)
    return pixels


def _colours(count: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Ground and pen colours ``(count, 3)`` in 0..1 whose brightness differs by at least 0.35."""
    tries = generator.uniform(0, 1, (count, 40, 2, 3)).astype(np.float32)
    brightness = (tries * np.array([0.299, 0.587, 0.114], np.float32)).sum(-1)
    enough = np.abs(brightness[:, :, 0] - brightness[:, :, 1]) >= 0.35
    enough[:, -1] = True  # about three in ten pairs will do, so all forty fail once in a million images
    chosen = tries[np.arange(count), enough.argmax(1)]
    return chosen[:, 0], chosen[:, 1]


def _enlarge(field: np.ndarray, axis: int, size: int) -> np.ndarray:
    """Linear interpolation of one axis to `size` points."""
    position = np.linspace(0, field.shape[axis] - 1, size)
    low = np.minimum(position.astype(np.int64), field.shape[axis] - 2)
    shape = [1] * field.ndim
    shape[axis] = size
    weight = (position - low).astype(np.float32).reshape(shape)
    start = field.take(low, axis)
    end = field.take(low + 1, axis)
    between: np.ndarray = start + weight * (end - start)
    return between
