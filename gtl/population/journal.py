"""The journal of a run against its generations: what ``lineage.jsonl`` should say, and whether it can be mended."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from gtl.errors import RunError

REMEDY = "Move the file away: the generation folders hold every row, and the next resume rebuilds it."


def encode_rows(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """One line a row. Keys keep their order: the order of a genotype's groups is part of it.

    Raises:
        ValueError, TypeError: a row that JSON cannot hold (NaN included).
    """
    return b"".join(json.dumps(row, separators=(",", ":"), allow_nan=False).encode() + b"\n" for row in rows)


def mend(name: str, found: bytes, *, size: int, sha256: str, parts: Sequence[bytes | None], abandoning: bool) -> bytes:
    """What the journal must hold, given what it holds.

    Mended without a question: a torn last line, missing rows at the end (a kill between a generation's rename and its
    rows), rows of generations that are about to be set aside, line ends changed to CRLF, an empty or absent file.

    Args:
        name: the journal's path, for messages.
        found: its bytes; empty if it is absent.
        size: length of the journal as of the newest whole generation.
        sha256: hash of those bytes.
        parts: rows of each committed generation, oldest first; None where that copy is damaged.
        abandoning: whether newer generations are about to be set aside: then rows may follow the committed ones.

    Raises:
        RunError: damage before the end; names the line.
    """
    if hashlib.sha256(found[:size]).hexdigest() == sha256 and len(found) >= size:
        if not abandoning:
            _check_tail(name, found[:size], found[size:])
        return found[:size]
    lines = found.replace(b"\r\n", b"\n")
    lines = lines[: lines.rfind(b"\n") + 1]
    if hashlib.sha256(lines[:size]).hexdigest() == sha256 and len(lines) >= size:
        if not abandoning:
            _check_tail(name, lines[:size], lines[size:])
        return lines[:size]
    for missing in range(len(parts)):  # the rows of the newest 0, 1, 2, ... generations may be missing at the end
        tail = _rows(parts[len(parts) - missing - 1 :])
        if tail is None:
            break
        candidate = lines[: max(0, size - len(tail))] + tail
        if candidate.startswith(lines) and hashlib.sha256(candidate).hexdigest() == sha256:
            return candidate
    expected = _rows(parts)
    if expected is None or hashlib.sha256(expected).hexdigest() != sha256:
        raise RunError(
            f"{name} is damaged and the generation folders do not hold all of its rows either. Get the file from a "
            "backup, or start a new run with the same configuration: it repeats this one."
        )
    want, have = expected.split(b"\n"), lines.split(b"\n")
    number = next((i for i, (a, b) in enumerate(zip(want, have, strict=False), start=1) if a != b), len(want))
    raise RunError(f"{name}: line {number} is damaged: it is not what was committed. {REMEDY}")


def _rows(parts: Sequence[bytes | None]) -> bytes | None:
    """All parts as one; None if one is damaged."""
    return None if None in parts else b"".join(part for part in parts if part is not None)


def _check_tail(name: str, whole: bytes, tail: bytes) -> None:
    """Raise RunError if a complete line follows the committed ones; a torn one may."""
    if b"\n" in tail:
        number = whole.count(b"\n") + 1
        raise RunError(f"{name}: line {number} belongs to no committed generation. {REMEDY}")
