"""How a learngene was made, as a table for its card: read from its provenance, which may be of any shape."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from gtl.learngene.records import look_up
from gtl.report.table import plain

LINE_ENDS = 4  # ancestors at either end of a line that is too long to be told


class Record:
    """A learngene's provenance, which may be of any shape: what is not there, or of another type, is None."""

    def __init__(self, value: Mapping[str, Any]) -> None:
        self._value = value

    def get(self, *keys: str) -> Any:
        return look_up(self._value, *keys)

    def text(self, *keys: str) -> str:
        """As Markdown; "" if it is not a plain value."""
        found = self.get(*keys)
        if isinstance(found, float):
            found = f"{found:g}"
        return plain(found)[:300] if isinstance(found, str | int) and not isinstance(found, bool) else ""

    def number(self, *keys: str) -> int | float | None:
        found = self.get(*keys)
        return found if isinstance(found, int | float) and not isinstance(found, bool) else None


def making(record: Record) -> str:
    made_of = record.get("derived") is not None
    evolved = record.get("cut") is None and not made_of
    classes = {role: record.get("data", "lists", role) for role in ("train", "val", "novel")}
    counts = ", ".join(f"{len(names)} {role}" for role, names in classes.items() if isinstance(names, Sequence))
    rows = [
        ("method", record.text("method")),
        ("data", record.text("data", "source") + (f": classes {counts}" if counts else "")),
        ("class lists (sha256)", _code(record.text("data", "classes"))),
        *(_derivation(record) if made_of else _evolution(record) if evolved else _cut(record)),
        (
            "largest share allowed",
            _percent(record.number(*(("derived",) if made_of else ("config", "gene")), "budget")),
        ),
        ("fitness", "" if made_of else _fitness(record)),
        ("winner" if evolved else "gene", _winner(record)),
        ("lineage", _lineage(record)),
        ("training images", _images(record)),
        ("seed", record.text("seed")),
        ("versions", _versions(record)),
        ("configuration (sha256)", _code(record.text("config_hash"))),
    ]
    table = facts([(name, value) for name, value in rows if value])
    if not table:
        return "This learngene carries no record of how it was made."
    line = " and the line of the winner" if evolved else ""
    inside = f"The whole configuration, the class lists{line} are inside the file: `gtl inspect --json`."
    return "\n\n".join(part for part in (table, inside, _again(record)) if part)


def _evolution(record: Record) -> list[tuple[str, str]]:
    evolution = ("config", "evolution")
    return [
        ("founders", _founders(record)),
        (
            "generations",
            _join(
                record.text("generations")
                + _with(" (", record.text(*evolution, "search_generations"), " of them without lives)"),
                _with("population ", record.text(*evolution, "population")),
                _with("tournaments of ", record.text(*evolution, "tournament", "size")),
            ),
        ),
        (
            "a life",
            _join(
                _with("", record.text("config", "life", "steps"), " steps"),
                _with("", record.text("config", "life", "n_way"), " classes"),
                _with("litters of ", record.text(*evolution, "litter")),
            ),
        ),
    ]


def _derivation(record: Record) -> list[tuple[str, str]]:
    """How a gene was made of other learngenes."""
    parents, notes = record.get("parents"), record.get("derived", "notes")
    digests = (
        [Record({"gene": parent}).text("gene", "digest") for parent in parents] if isinstance(parents, list) else []
    )
    images = record.text("derived", "norms", "images")
    return [
        ("made of", ", ".join(map(_code, digests))),
        (
            "channels of a group",
            _with("by ", record.text("derived", "channels")) + _with(", ", record.text("derived", "allocation")),
        ),
        (
            "norms",
            f"estimated on {images} images of {record.text('derived', 'norms', 'source')}"
            if images
            else record.text("derived", "norms"),
        ),
        ("mind", "; ".join(plain(note) for note in notes) if isinstance(notes, list) else ""),
    ]


def _cut(record: Record) -> list[tuple[str, str]]:
    """How a gene was cut from a checkpoint without evolution."""
    searched = _with(" (", record.text("cut", "evaluations"), " genes judged)")
    return [
        ("checkpoint (sha256)", _code(record.text("checkpoint", "sha256"))),
        ("channels of a group", _with("by ", record.text("cut", "channels"))),
        ("channels per group", record.text("cut", "allocation") + searched),
    ]


def _founders(record: Record) -> str:
    kind = record.text("config", "founders", "kind")
    if kind != "ancestor":
        return kind
    if record.get("config", "founders", "checkpoint") is not None:
        return "cut from a checkpoint of the user's"
    return _join(
        "cut from a network trained on the train classes",
        _with("", record.text("config", "founders", "epochs"), " epochs"),
    )


def _fitness(record: Record) -> str:
    kind = record.text("critic", "kind") or record.text("config", "critic", "kind")
    reference = [
        f"{name} {100 * value:.1f} %"
        for name, key in (("a whole random network", "scratch"), ("the whole ancestor", "pretrained"))
        if (value := record.number("critic", "reference", key)) is not None
    ]
    return _join(_with("", kind.replace("\\_", " "), " critic on validation classes"), *reference)


def _winner(record: Record) -> str:
    parents, line = record.get("winner", "parents"), record.get("winner", "line")
    fitness = record.number("winner", "fitness")
    several = isinstance(parents, Sequence) and len(parents) > 1
    selected = record.get("cut") is None or record.get("cut", "evaluations") is not None
    return _join(
        ""
        if fitness is None
        else f"{100 * fitness:.1f} % on validation classes{', which it was selected on' if selected else ''}",
        f"average of {len(parents)} siblings" if several else "",
        f"line of {len(line)} ancestors" if isinstance(line, Sequence) and line else "",
    )


def _lineage(record: Record) -> str:
    """From the founder down to the winner; of a long line, its ends."""
    line = record.get("winner", "line")
    if not isinstance(line, Sequence):
        return ""
    found = [entry.get("id") for entry in reversed(line) if isinstance(entry, Mapping)]
    names = [plain(name)[:40] for name in found if isinstance(name, str)]
    if len(names) > 2 * LINE_ENDS:
        names = [*names[:LINE_ENDS], f"{len(names) - 2 * LINE_ENDS} more", *names[-LINE_ENDS:]]
    return " → ".join(names)


def _again(record: Record) -> str:
    """The commands that make such a gene again, from the configuration that it carries."""
    if not isinstance(record.get("config"), Mapping):
        return ""
    made = "gtl evolve config.yaml --out again"
    if record.get("cut") is not None:
        choices = [record.get("cut", key) for key in ("channels", "allocation")]
        if not all(isinstance(choice, str) and re.fullmatch(r"[a-z0-9]{1,20}", choice) for choice in choices):
            return ""
        made = (
            f"gtl condense CHECKPOINT config.yaml --method {choices[0]} --allocation {choices[1]} -o again.safetensors"
        )
    return (
        "Made again by (paths are not recorded: add `--set data.root=PATH` where the data have a place; another machine or "
        f"version may differ in the last bits):\n\n```\ngtl config show learngene.safetensors > config.yaml\n{made}\n```"
    )


def _images(record: Record) -> str:
    total, ancestor, lives = (record.number("images", key) for key in ("total", "ancestor", "lives"))
    images = record.get("images")
    if isinstance(images, Mapping) and images.get("total", 0) is None:
        return "unknown"
    parts = [f"{value:,} {name}" for name, value in (("ancestor", ancestor), ("lives", lives)) if value is not None]
    return "" if total is None else f"{total:,}" + (f" ({', '.join(parts)})" if parts else "")


def _versions(record: Record) -> str:
    versions = record.get("versions")
    if not isinstance(versions, Mapping):
        return ""
    return ", ".join(
        f"{plain(name)} {plain(version)}" for name, version in versions.items() if isinstance(version, str)
    )


def facts(rows: Sequence[tuple[str, str]]) -> str:
    if not rows:
        return ""
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def _join(*parts: str) -> str:
    return ", ".join(part for part in parts if part)


def _with(before: str, text: str, after: str = "") -> str:
    return f"{before}{text}{after}" if text else ""


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:g} %"
