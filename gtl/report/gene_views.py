"""Learngenes for a terminal: one looked into, two side by side, one that was made of others.

They may come from anyone: texts of theirs are shown on one line, as they are, without control characters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from gtl.learngene.artifact import Learngene
from gtl.learngene.diff import GeneDiff
from gtl.learngene.inspection import Inspection
from gtl.learngene.records import look_up, shares
from gtl.models import gene_layout
from gtl.report.table import gain_text, mean_text, one_line, printable, render_starts

BAR = 24  # letters of a whole group
NONE = "-"


def render_inspection(gene: Learngene, found: Inspection) -> Group:
    """A learngene's groups, size, cost, origin and evidence."""
    table = _table(f"{gene.arch} learngene {gene.digest[:12]}")
    for column in ("group", "kept", "of", "share", "parameters", "MFLOP"):
        table.add_column(column, justify="left" if column == "group" else "right", no_wrap=True)
    table.add_column("")
    for group in found.groups:
        share = group.kept / group.size
        table.add_row(
            group.group, str(group.kept), str(group.size), f"{share:.0%}", f"{group.parameters:,}",
            f"{group.flops / 1e6:.2f}", "#" * round(BAR * share),
        )  # fmt: skip
    size = f"{found.image_size} x {found.image_size} pixels{'' if found.recorded else ' (usual; no size is recorded)'}"
    channels = sum(group.kept for group in found.groups)
    lines = [
        size_line(found.shares),
        f"computes: {found.flops / 1e6:.1f} MFLOP an image, the whole network {found.network_flops / 1e6:.1f} "
        f"({found.flops / found.network_flops:.1%}); convolutions on {size}",
        f"runs alone: {'yes' if found.runs_alone else 'NO, it gives values that are not finite'}; {found.silent} of "
        f"{channels:,} channels are not moved by noise",
        *found.notes,
        f"made: {made(gene.provenance)}",
        *_notes_of(gene),
    ]
    parts: list[Any] = [table, *(Text(line) for line in lines)]
    for row in gene.evidence:
        parts.append(_evidence(row))
    if not gene.evidence:
        parts.append(Text("evidence: none in the file"))
    return Group(*parts)


def size_line(counted: Mapping[str, float | int]) -> str:
    """Its size, counted both ways."""
    return (
        f"size: {counted['circuit_parameters']:,} of {counted['network_parameters']:,} convolution parameters: "
        f"{counted['circuit']:.1%} as a circuit, {counted['kernels']:.1%} if whole kernels are counted"
    )


def made(provenance: Mapping[str, Any]) -> str:
    """How a gene was made, in one sentence, as far as its provenance says."""
    parts = [_text(provenance, "method") or "not recorded how", *_how(provenance)]
    source, seed = _text(provenance, "data", "source"), _text(provenance, "seed")
    parts += [f"on {source}"] if source else []
    parts += [f"seed {seed}"] if seed else []
    if isinstance(look_up(provenance, "images"), Mapping):
        images = look_up(provenance, "images", "total")
        parts.append(f"{images:,} training images" if type(images) is int else "training images unknown")
    fitness = look_up(provenance, "winner", "fitness")
    if type(fitness) in (int, float):
        critic = _text(provenance, "critic", "kind")
        parts.append(f"fitness {fitness:.3f} on validation classes{f' ({critic} critic)' if critic else ''}")
    return ", ".join(parts)


def _how(provenance: Mapping[str, Any]) -> list[str]:
    """What a cut, a derivation or an evolution says about itself."""
    parents = look_up(provenance, "parents")
    if isinstance(parents, list):
        digests = [_text(parent, "digest")[:12] for parent in parents]
        return [f"of {' and '.join(digests)}"] if digests else []
    if look_up(provenance, "cut") is not None:
        return [
            f"sha256 {_text(provenance, 'checkpoint', 'sha256')[:12]}, channels by {_text(provenance, 'cut', 'channels')}, "
            f"{_text(provenance, 'cut', 'allocation')} allocation"
        ]
    generations = _text(provenance, "generations")
    return [f"{generations} generations"] if generations else []


def _notes_of(gene: Learngene) -> list[str]:
    notes = look_up(gene.provenance, "derived", "notes")
    return [f"mind: {one_line(note)}" for note in notes] if isinstance(notes, list) else []


def _evidence(row: Mapping[str, Any]) -> Any:
    row = printable(row)
    if {"descendants", "data", "starts"} <= row.keys():
        try:
            return render_starts(row)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError):
            pass  # evidence may be of any shape
    return Text(f"evidence: {row}")


def render_diff(found: GeneDiff) -> Group:
    """Two learngenes side by side."""
    parts: list[Any] = [Text(_side("a", found.a)), Text(_side("b", found.b))]
    if found.equal:
        parts.append(Text("they are the same gene: equal architecture, channels and weights"))
    if found.refused:
        parts.append(Text(f"channels and weights do not compare: {found.refused}"))
    if found.groups:
        parts.append(_groups_table(found))
    elif found.likeness:
        parts.append(_likeness_table(found))
    lines = []
    if found.groups:
        lines.append(
            "kernels, norms: relative distance of the weights on shared channels; 0: equal, about 1.41: unrelated"
        )
        if found.ancestor != "same":
            known = (
                "they come from other ancestors" if found.ancestor == "different" else "one ancestor is not on record"
            )
            lines.append(f"{known}: equal channel numbers need not mean the same, and only CKA compares them")
    if found.images is not None:
        lines.append(
            f"CKA: linear, unbiased, of {found.images['images']:,} {found.images['role']} images of "
            f"{found.images['source']} in batches of {found.images['batch']}; 1: alike up to rotation and scale, 0: unrelated"
        )
    elif found.refused or found.ancestor != "same":
        lines.append("what they compute can be compared: give --images SOURCE")
    parts += [Text(line, style="dim") for line in lines]
    evidence = _evidence_table(found)
    if evidence is not None:
        parts += [
            evidence,
            Text("gains are over scratch; they compare where images, seeds and budget were the same", "dim"),
        ]
    else:
        parts.append(Text("evidence: neither carries any"))
    return Group(*parts)


def _side(name: str, about: Mapping[str, Any]) -> str:
    size, fitness = about["shares"], about["fitness"]
    known = f", fitness {fitness:.3f}" if type(fitness) in (int, float) else ""
    return (
        f"{name}: {about['arch']} {about['digest'][:12]}, {sum(about['counts'].values()):,} channels, "
        f"{size['circuit_parameters']:,} parameters ({size['circuit']:.1%} as a circuit, {size['kernels']:.1%} in "
        f"whole kernels){known}"
    )


def _groups_table(found: GeneDiff) -> Table:
    table, seen = _table(""), {row.a: row for row in found.likeness}
    columns = ["group", "of", "both", "only a", "only b", "Jaccard", "kernels", "norms"]
    columns += ["CKA", "of both"] if seen else []
    for column in columns:
        table.add_column(column, justify="left" if column == "group" else "right", no_wrap=True)
    for row in found.groups:
        cells = [row.group, str(row.size), str(row.both), str(row.only_a), str(row.only_b)]
        cells += [number(row.jaccard), number(row.kernels), number(row.norms)]
        cells += [number(seen[row.group].cka), number(seen[row.group].shared)] if seen else []
        table.add_row(*cells)
    totals = [str(sum(getattr(row, key) for row in found.groups)) for key in ("size", "both", "only_a", "only_b")]
    numbers = [number(found.jaccard), number(found.kernels), number(found.norms)]
    table.add_row("all", *totals, *numbers, *([""] * (2 if seen else 0)), style="bold")
    return table


def _likeness_table(found: GeneDiff) -> Table:
    table = _table("")
    levels = any(row.level for row in found.likeness)
    for column in (["level"] if levels else []) + ["a", "b", "CKA"]:
        table.add_column(column, justify="left" if column in ("a", "b") else "right", no_wrap=True)
    for row in found.likeness:
        table.add_row(*([str(row.level)] if levels else []), row.a, row.b, number(row.cka))
    return table


def _evidence_table(found: GeneDiff) -> Table | None:
    """Accuracy and gain of both, by source and shots; None without evidence."""
    cells: dict[tuple[str, str], dict[str, list[str]]] = {}
    for side, about in (("a", found.a), ("b", found.b)):
        for row in printable(about["evidence"]):
            gain = row["gain"]
            known = isinstance(gain, Mapping) and all(
                type(gain.get(key)) in (int, float) for key in ("mean", "low", "high")
            )
            text = f"{mean_text(row['accuracy'])} {gain_text(gain) if known else ''}".strip()
            cells.setdefault((row["source"], str(row["shots"])), {}).setdefault(side, []).append(text)
    if not cells:
        return None
    table = _table("descendants on novel classes: accuracy, gain in points")
    for column in ("source", "shots", "a", "b"):
        table.add_column(column, justify="right" if column == "shots" else "left")
    for (source, shots), sides in cells.items():
        table.add_row(Text(source), Text(shots), *(Text("; ".join(sides.get(side, [NONE]))) for side in ("a", "b")))
    return table


def render_derived(gene: Learngene, parents: Sequence[Learngene]) -> Group:
    """A gene that was made of others: its groups beside theirs, its size, and what to mind."""
    table = _table("")
    names = [parent.digest[:8] for parent in parents]
    for column in ("group", *names, "kept", "of"):
        table.add_column(column, justify="left" if column == "group" else "right", no_wrap=True)
    for group, mask in gene.genotype.items():
        before = [str(len(parent.genotype[group])) for parent in parents]
        table.add_row(group, *before, str(len(mask)), str(mask.size))
    counted = shares(gene_layout(gene.arch, gene.genotype.sizes), gene.genotype)
    lines = [size_line(counted), *_better(gene), *_notes_of(gene)]
    return Group(table, *(Text(line) for line in lines))


def _better(gene: Learngene) -> list[str]:
    how = look_up(gene.provenance, "derived")
    if look_up(how, "better") is None:
        return []
    fitness = ", ".join(f"{digest[:12]} {value:.1%}" for digest, value in how["fitness"].items())
    where = "measured on validation classes" if how["measured"] else "as recorded"
    return [f"better: {how['better'][:12]}, {where}: {fitness}"]


def number(value: float | None) -> str:
    """Two places, or a dash."""
    return NONE if value is None else f"{value:.2f}"


def _text(record: Any, *keys: str) -> str:
    """A plain value on one line; "" if there is none."""
    found = look_up(record, *keys)
    return one_line(found)[:200] if isinstance(found, str | int | float) and not isinstance(found, bool) else ""


def _table(title: str) -> Table:
    heading = Text(title, style="bold") if title else None
    return Table(box=box.SIMPLE_HEAD, title=heading, title_justify="left", padding=(0, 1, 0, 0), pad_edge=False)
