"""How the classes of `glyphs` were chosen. ``python -m gtl.data.glyph_classes`` writes `glyph_classes.json` anew.

Characters are taken in a fixed order, letters of the large scripts first. A character is dropped if in any reference
face it looks too much like one already taken, or like a digit: both drawn, cut to their ink, brought to one size,
upright or turned by 12 degrees, and correlated. The list is shipped and not computed at run time, so that class lists
(and their hashes in runs and cards) do not hang on the version of a font renderer.
"""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from gtl.data.glyphs import MIN_FACES, Face, draw_stencil, faces

DIGITS = "0123456789"
REFERENCE_FACES = (
    "DejaVuSans.ttf",
    "DejaVuSansMono.ttf",
    "DejaVuSerif.ttf",
    "DejaVuSerif-Italic.ttf",  # its italics redraw some Cyrillic letters as Latin ones
    "STIXGeneral.ttf",
    "STIXGeneralItalic.ttf",
)
LIKE_A_DIGIT = 0.80
LETTER_LIKE_A_DIGIT = 0.88  # for A-Z and a-z: at 0.80 half of the alphabet would go (D and 0, S and 5)
MOST_CLASSES = 300

# (first, last, limit of likeness): letters of large scripts may be fairly alike (E and F, 0.94, are too much so); the
# rest, of which there is plenty, has to stand apart more.
RANGES = (
    (0x0041, 0x005A, 0.89),  # Latin
    (0x0061, 0x007A, 0.89),
    (0x0391, 0x03C9, 0.86),  # Greek
    (0x0410, 0x044F, 0.84),  # Cyrillic
    (0x0531, 0x0586, 0.82),  # Armenian
    (0x10A0, 0x10F6, 0.82),  # Georgian
    (0x0E81, 0x0EAE, 0.82),  # Lao
    (0x0021, 0x00BF, 0.80),  # signs
    (0x20A0, 0x20BF, 0.80),  # currencies
    (0x2600, 0x27BF, 0.80),  # pictures
    (0x2100, 0x214F, 0.80),  # letterlike
    (0x0400, 0x052F, 0.76),  # further Cyrillic, accented and African Latin
    (0x00C0, 0x024F, 0.76),
    (0x2190, 0x21FF, 0.76),  # arrows
    (0x25A0, 0x25FF, 0.74),  # shapes
    (0x2200, 0x22FF, 0.74),  # mathematics
)
_CATEGORIES = frozenset({"Lu", "Ll", "Lo", "Sc", "Sm", "So"})
_PUNCTUATION = frozenset("!#%&*?@")


def candidates() -> Iterator[tuple[str, float]]:
    """Characters in order of preference with their limits; letters and signs that at least MIN_FACES faces have."""
    count = Counter(code for face in faces() for code in face.codes)
    seen: set[str] = set()
    for first, last, limit in RANGES:
        for code in range(first, last + 1):
            character = chr(code)
            wanted = unicodedata.category(character) in _CATEGORIES or character in _PUNCTUATION
            # Superscripts and ordinal signs are digits and letters once more, only smaller.
            small = unicodedata.decomposition(character).startswith("<super>")
            if wanted and not small and count[code] >= MIN_FACES and character not in seen:
                seen.add(character)
                yield character, limit


@cache
def look(face: Face, character: str, angle: int = 0) -> np.ndarray:
    """How the character looks in a face: ``(1024,)`` float32, mean zero, norm one; size and place are taken out."""
    ink = draw_stencil(face.path, character, 64)
    if angle:
        ink = ink.rotate(angle, Image.Resampling.BICUBIC, expand=True)
    box = ink.getbbox()
    canvas = Image.new("L", (32, 32))
    if box is not None:
        ink = ink.crop(box)
        scale = 24 / max(ink.size)
        width, height = (max(1, round(side * scale)) for side in ink.size)
        canvas.paste(ink.resize((width, height), Image.Resampling.BOX), ((32 - width) // 2, (32 - height) // 2))
    flat: np.ndarray = np.asarray(canvas.filter(ImageFilter.GaussianBlur(1)), np.float32).ravel()
    flat = flat - flat.mean()
    flat /= max(1e-6, float(np.linalg.norm(flat)))
    return flat


def likeness(a: str, b: str) -> float:
    """Largest correlation of the looks of two characters over the reference faces that have both."""
    return max((_correlation(face, a, b) for face in reference_faces() if {ord(a), ord(b)} <= face.codes), default=0.0)


def reference_faces() -> list[Face]:
    """The faces that are compared."""
    return [face for face in faces() if face.path.name in REFERENCE_FACES]


def select() -> str:
    """The characters that stay: a pure function of the fonts. Takes some seconds."""
    taken: list[str] = []
    for character, limit in candidates():
        if len(taken) == MOST_CLASSES:
            break
        digit_limit = LETTER_LIKE_A_DIGIT if character.isascii() and character.isalpha() else LIKE_A_DIGIT
        if all(likeness(character, digit) < digit_limit for digit in DIGITS) and all(
            likeness(character, other) < limit for other in taken
        ):
            taken.append(character)
    return "".join(taken)


def _correlation(face: Face, a: str, b: str) -> float:
    upright = look(face, b)
    return max(float(look(face, a, angle) @ upright) for angle in (0, -12, 12))


if __name__ == "__main__":
    Path(__file__).with_suffix(".json").write_text(
        json.dumps({"characters": select()}, ensure_ascii=True, indent=1) + "\n", encoding="ascii"
    )
