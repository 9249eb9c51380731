"""Inputs that are nearly right: what a careless or a hostile writer makes of real ones.

A change keeps what a forger would keep: hashes are made right again, so that inputs come to the checks behind them.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

from fuzz_seeds import seeds

from gtl.config_file import known_keys
from gtl.lineage import ANCESTOR
from gtl.population.manifest import seal

Change = Callable[[bytes, Random], bytes]

AGAIN, MOST = 0.3, 5  # chance of one more change, and how many an input has at most
HUGE = 0.002  # share of inputs that are made long
WORDS = (
    "", "vgg11", "resnet12", "alexnet", "../../etc/passwd", "os.system", "1.0", "1.7", "2.0", "01.0", "F32", "I32", "U8", "F64",
    "kept.conv1", "conv1", "gtl", "__metadata__", "\0", "\ud800", "\u0661", "e\u0301", "a" * 300, "NaN", "null", "1e999", "ok",
    ANCESTOR,
)  # fmt: skip
NUMBERS = (
    0, 1, -1, 2, 3, 4, 255, 65535, 65536, 65537, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**62, 2**63 - 1, 2**63, 2**64,
    -(2**63) - 1, 10**30, 10**400, 0.0, -0.0, 0.5, 1.0, 3.0, 1e-320, 1e308, math.nan, math.inf, -math.inf,
)  # fmt: skip
FLOATS = (math.nan, math.inf, -math.inf, -1.0, 0.0, -0.0, 1e-45, 3.4e38)
INDICES = (-1, 0, 1, 2, 3, 65535, 2**31 - 1, -(2**31))
TOKENS = (
    *"[]{},:?-#&*!|>'\"%@` \t\n\r~=.<\\", ": ", "- ", "\n  ", "---\n", "...\n", "%YAML 1.2\n", "<<: ", "&a ", "*a", "!!str ",
    "!!python/object/apply:os.system ", "? ", "null", "true", "yes", "010", "0x10", "1_000", "12:30:45", "1e3", "1e999", ".inf",
    ".nan", "-", "9" * 120, "\u2028", "\ufeff", "\x85", "\ud800", "\U0001f600", "\\x41", "\\UFFFFFFFF", "base: x.yaml\n",
    "a" * 200,
)  # fmt: skip


def changed(kind: str, data: bytes, draw: Random) -> bytes:
    """An input of this kind with one to five changes."""
    changes, weights = zip(*CHANGES[kind], strict=True)
    for number in range(MOST):
        if number and draw.random() > AGAIN:
            break
        (change,) = draw.choices(changes, weights)
        data = change(data, draw)
    return grown(data, draw) if draw.random() < HUGE else data


# ---- changes of any bytes ------------------------------------------------------------------------------------------


def scrambled(data: bytes, draw: Random) -> bytes:
    """Bits flipped, bytes changed, parts left out, doubled, moved or cut off."""
    found = bytearray(data or b"\0")
    at, to = sorted((draw.randrange(len(found)), draw.randrange(len(found))))
    action = draw.randrange(7)
    if action == 0:
        found[at] ^= 1 << draw.randrange(8)
    elif action == 1:
        found[at] = draw.randrange(256)
    elif action == 2:
        del found[at : at + draw.randrange(1, 9)]
    elif action == 3:
        found[at:at] = bytes(draw.randrange(256) for _ in range(draw.randrange(1, 9)))
    elif action == 4:
        found[to:to] = found[at : min(to, at + 64)]
    elif action == 5:
        del found[at : min(to, at + 256)]
    else:
        del found[to:]
    return bytes(found)


def grown(data: bytes, draw: Random) -> bytes:
    """Something of it thousands of times."""
    at = draw.randrange(len(data) + 1)
    part = data[at : at + draw.randrange(1, 40)] or b"["
    return data[:at] + part * draw.randrange(1000, 8000) + data[at:]


def _rearranged(data: bytes, draw: Random) -> tuple[list[bytes], int, int]:
    """Lines, one of them left out, doubled or moved (actions 0 to 2); or as they are (3 and 4), and one to be changed."""
    lines = data.split(b"\n")
    at, to = draw.randrange(len(lines)), draw.randrange(len(lines))
    action = draw.randrange(5)
    if action == 0:
        del lines[at]
    elif action == 1:
        lines.insert(to, lines[at])
    elif action == 2:
        lines[at], lines[to] = lines[to], lines[at]
    return lines, at, action


# ---- changes of JSON -----------------------------------------------------------------------------------------------


def shake(root: Any, draw: Random) -> Any:
    """Change one place of a tree of JSON; returns the tree."""
    holder, key, node = None, None, root
    while isinstance(node, dict | list) and node and (holder is None or draw.random() < 0.75):
        holder = node
        key = draw.choice(list(node)) if isinstance(node, dict) else draw.randrange(len(node))
        node = node[key]
    if holder is None:
        return draw.choice(NUMBERS)
    action = draw.randrange(6)
    if action == 0:
        del holder[key]
    elif action == 1:
        if isinstance(holder, list):
            holder.insert(key, node)
        else:
            holder[draw.choice((*WORDS, f"{key}x", str(key)[:-1]))] = node
    elif action == 2 and isinstance(node, int | float | str):
        holder[key] = _nearby(node, draw)
    elif action == 3:
        other = draw.choice(list(holder)) if isinstance(holder, dict) else draw.randrange(len(holder))
        holder[key], holder[other] = holder[other], node
    else:
        holder[key] = draw.choice(
            (draw.choice(WORDS), draw.choice(NUMBERS), None, True, [], {}, [node], {"name": node})
        )
    return root


def _nearby(value: float | str, draw: Random) -> float | str:
    if isinstance(value, str):
        at = draw.randrange(len(value) + 1)
        return value[:at] + draw.choice(("", draw.choice(WORDS), "x")) + value[at + draw.randrange(2) :]
    return draw.choice((value + 1, value - 1, -value, value * 2, float(value) if abs(value) < 2**60 else 0, str(value)))


def json_shaken(data: bytes, draw: Random) -> bytes:
    """A JSON text with one place changed, or one key twice."""
    try:
        root = json.loads(data)
    except (ValueError, RecursionError):
        return scrambled(data, draw)
    if isinstance(root, dict) and root and draw.random() < 0.05:
        return _doubled(root, draw).encode("utf-8", "surrogatepass")
    return _dumped(shake(root, draw), draw)


def rows_shaken(data: bytes, draw: Random) -> bytes:
    """Lines of JSON: one of them changed, left out, doubled or moved."""
    lines, at, action = _rearranged(data, draw)
    if action > 2:
        lines[at] = json_shaken(lines[at], draw)
    return b"\n".join(lines)


def resealed(data: bytes, draw: Random) -> bytes:
    """A manifest with one place changed, and its own hash right again."""
    try:
        root = json.loads(data)
        root.pop("sha256", None)
        return seal(shake(root, draw))
    except (ValueError, TypeError, AttributeError, RecursionError):
        return scrambled(data, draw)


def _dumped(root: Any, draw: Random) -> bytes:
    text = json.dumps(root, ensure_ascii=draw.random() < 0.5, separators=draw.choice(((",", ":"), (", ", ": "))))
    return text.encode("utf-8", "surrogatepass")


def _doubled(root: dict[str, Any], draw: Random) -> str:
    key = draw.choice(list(root))
    return "{" + json.dumps({key: root[key]})[1:-1] + "," + json.dumps(root)[1:]


# ---- changes of safetensors files ----------------------------------------------------------------------------------


def split(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and tensors of a file.

    Raises:
        ValueError: there is no header.
    """
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    if not isinstance(header, dict):
        raise ValueError("the header is no object")
    return header, data[8 + length :]


def joined(text: bytes, payload: bytes) -> bytes:
    """A file of a header and tensors."""
    return struct.pack("<Q", len(text)) + text + payload


def sealed(header: dict[str, Any], document: Any, payload: bytes, draw: Random) -> bytes:
    """A learngene file whose hashes are right, whatever else is wrong."""
    if isinstance(document, dict) and "sha256" in document:
        document["sha256"] = hashlib.sha256(payload).hexdigest()
    text = _dumped(document, draw)
    header["__metadata__"] = {
        "gtl": text.decode("utf-8", "surrogatepass"),
        "gtl_sha256": hashlib.sha256(text).hexdigest(),
    }
    return joined(json.dumps(header).encode(), payload)


def header_shaken(data: bytes, draw: Random) -> bytes:
    """One place of the header changed."""
    try:
        header, payload = split(data)
    except (ValueError, RecursionError):
        return scrambled(data, draw)
    return joined(json_shaken(_dumped(header, draw), draw), payload)


def document_shaken(data: bytes, draw: Random) -> bytes:
    """One place of a learngene's document changed, and hashes right again."""
    try:
        header, payload = split(data)
        document = json.loads(header["__metadata__"]["gtl"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return scrambled(data, draw)
    return sealed(header, shake(document, draw), payload, draw)


def values_shaken(data: bytes, draw: Random) -> bytes:
    """Values or indices changed, and hashes right again."""
    try:
        header, payload = split(data)
        document = json.loads(header["__metadata__"]["gtl"])
        name = draw.choice(
            [name for name in header if name != "__metadata__" and (draw.random() < 0.5) == ("kept" in name)]
        )
        start, stop = header[name]["data_offsets"]
        form, values = ("<i", INDICES) if header[name]["dtype"] == "I32" else ("<f", FLOATS)
        found = bytearray(payload)
        for _ in range(draw.randrange(1, 4)):
            struct.pack_into(form, found, start + 4 * draw.randrange((stop - start) // 4), draw.choice(values))
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError, struct.error):
        return scrambled(data, draw)
    return sealed(header, document, bytes(found), draw)


def spliced(data: bytes, draw: Random) -> bytes:
    """The header of one gene, the tensors of another."""
    other = draw.choice(seeds("learngene"))
    try:
        header, _ = split(data)
        document = json.loads(header["__metadata__"]["gtl"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return scrambled(data, draw)
    return sealed(header, document, split(other)[1], draw)


# ---- changes of YAML -----------------------------------------------------------------------------------------------


def lines_shaken(data: bytes, draw: Random) -> bytes:
    """Lines left out, doubled, moved or indented."""
    lines, at, action = _rearranged(data, draw)
    if action == 3:
        lines[at] = b" " * draw.randrange(5) + lines[at]
    elif action == 4:
        lines[at] = lines[at].strip()
    return b"\n".join(lines)


def token_put(data: bytes, draw: Random) -> bytes:
    """A token of the language put somewhere, mostly where one begins or in place of a value."""
    token = draw.choice(TOKENS).encode("utf-8", "surrogatepass")
    places = [at + 1 for at, byte in enumerate(data) if byte in b" :,[{\n"] or [0]
    at = draw.choice(places) if draw.random() < 0.8 else draw.randrange(len(data) + 1)
    stop = at
    while draw.random() < 0.7 and stop < len(data) and data[stop] not in b",]}\n":
        stop += 1
    return data[:at] + token + data[stop:]


def setting_put(data: bytes, draw: Random) -> bytes:
    """A known key with any value, as a line of a file or as an override."""
    path = draw.choice(known_keys()).split(".")
    if draw.random() < 0.1:
        path[-1] += draw.choice(("x", "s", "."))
    value = draw.choice(
        (json.dumps(draw.choice(NUMBERS)), draw.choice(TOKENS), draw.choice(WORDS), "[1, 2]", "{a: 1}", "'x'")
    )
    if b"\n" not in data:
        text = f"{'.'.join(path)}={value}"
        return text.encode("utf-8", "surrogatepass")
    line = "".join(f"{'  ' * depth}{key}:{' ' if key is path[-1] else chr(10)}" for depth, key in enumerate(path))
    return data + f"{line}{value}\n".encode("utf-8", "surrogatepass")


_OF_TEXT: tuple[tuple[Change, float], ...] = (
    (scrambled, 2), (lines_shaken, 2), (token_put, 4), (setting_put, 3),
)  # fmt: skip
CHANGES: Mapping[str, Sequence[tuple[Change, float]]] = {
    "learngene": (
        (scrambled, 1), (header_shaken, 3), (document_shaken, 5), (values_shaken, 4), (spliced, 0.5),
    ),
    "blob": ((scrambled, 2), (header_shaken, 5)),
    "config": _OF_TEXT,
    "yaml": _OF_TEXT,
    "override": ((scrambled, 1), (token_put, 2), (setting_put, 4)),
    "manifest": ((scrambled, 1), (json_shaken, 1), (resealed, 4)),
    "run.json": ((scrambled, 1), (json_shaken, 4)),
    "journal": ((scrambled, 1), (rows_shaken, 5)),
}  # fmt: skip
