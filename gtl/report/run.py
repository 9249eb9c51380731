"""What is written into run directories for people: pictures of the evolution, evidence with its table and picture."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gtl import storage
from gtl.errors import StorageError
from gtl.learngene.artifact import Learngene
from gtl.population.founding import RECORD
from gtl.population.run import LEARNGENE, read_record
from gtl.population.store import RunStore
from gtl.report.table import markdown_starts
from gtl.saliency import Saliency

EVIDENCE = "evidence.json"
CURVES = 7  # that one picture can hold
FEWSHOT = "fewshot-"  # folders of a run that hold evidence, by data source


def write_run_pictures(run: Path) -> list[Path]:
    """Draw a run: ``evolution.png`` from its last whole generation, ``channels.png`` if it is finished.

    Returns:
        The pictures that were written; none if no generation is whole yet.

    Raises:
        RunError, LearngeneError, StorageError: the run cannot be read, or the disk refused.
    """
    from gtl.report import figures

    latest = RunStore.open(run).latest()
    if latest is None:
        return []
    gene = Learngene.load(run / LEARNGENE) if (run / LEARNGENE).exists() else None
    parameters = None if gene is None else gene.shares.get("network_parameters")
    reference = read_record(run / RECORD).get("reference", {})
    written = [run / "evolution.png"]
    figure = figures.evolution_figure(
        latest[1]["logbook"], reference, parameters=None if parameters is None else int(parameters)
    )
    figures.save(figure, written[0])
    if gene is not None:
        written.append(run / "channels.png")
        figures.save(figures.channels_figure(gene.genotype), written[1])
    return written


def write_evidence(folder: Path, document: Mapping[str, Any], saliency: Saliency | None = None) -> list[Path]:
    """Write an evidence document into a folder (made if absent): ``evidence.json``, ``evidence.md``, ``descendants.png``,
    ``curves.png`` and ``saliency.png``.

    Args:
        saliency: the maps that go with the document; None: there is no picture of them.

    Raises:
        StorageError: one of them is there already, or the disk refused.
    """
    from gtl.report import figures
    from gtl.report.drawing import COLOURS
    from gtl.report.saliency_figure import saliency_figure

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make the folder {folder}: {error.strerror}. Choose another with --out.") from error
    written = [folder / EVIDENCE, folder / "evidence.md", folder / "descendants.png"]
    taken = [path for path in (*written, folder / "curves.png", folder / "saliency.png") if path.exists()]
    if taken:
        raise StorageError(f"{taken[0]} is there already; give another folder with --out")
    storage.publish(written[0], json.dumps(document, indent=2, allow_nan=False).encode() + b"\n")
    storage.publish(written[1], markdown_starts(document).encode())
    figures.save(figures.descendants_figure(document["descendants"], document["starts"]), written[2])
    shots = max(row["shots"] for row in document["descendants"])
    listed = [row for row in document["descendants"] if row["shots"] == shots and row.get("curve")]
    known = [row for row in listed if row["start"] in COLOURS]  # of many starts, these and the best of the others
    others = sorted((row for row in listed if row not in known), key=lambda row: -row["accuracy"]["mean"])
    curves = {row["start"]: row["curve"] for row in [*known, *others][:CURVES]}
    if curves:
        written.append(folder / "curves.png")
        title = f"Descendants while they learn, {shots} images a class"
        figures.save(figures.curves_figure(curves, title=title), written[-1])
    if saliency is not None:
        written.append(folder / "saliency.png")
        figures.save(saliency_figure(saliency), written[-1])
    return written


def export_run(run: Path, out: Path, *, license_id: str = "unknown") -> tuple[Learngene, Path, list[Path]]:
    """Write a finished run's learngene with its evidence to `out`, and beside it its pictures and its card.

    Returns:
        The learngene as written, the card, the pictures.

    Raises:
        LearngeneError: the run is not finished.
        ConfigError, StorageError: as `export_gene`.
    """
    gene = Learngene.load(run / LEARNGENE)
    evidence = _evidence_of(run, gene.digest)
    pictures = {name: run / name for name in ("evolution.png", "channels.png")}
    for folder in evidence:
        for kind in ("descendants", "saliency"):
            pictures[f"{kind}-{folder.name.removeprefix(FEWSHOT)}.png"] = folder / f"{kind}.png"
    found = {name: path.read_bytes() for name, path in pictures.items() if path.exists()}
    return export_gene(gene.with_evidence(evidence.values()), out, pictures=found, license_id=license_id)


def export_gene(
    gene: Learngene, out: Path, *, pictures: Mapping[str, bytes] | None = None, license_id: str = "unknown"
) -> tuple[Learngene, Path, list[Path]]:
    """Write a learngene to `out`, and beside it its card and these pictures. Equal files that are there are left.

    Args:
        pictures: file name -> PNG; the card shows them. None: it shows those that lie beside this very file already.
        license_id: of the weights, as model hubs spell it.

    Returns:
        The learngene, the card, the pictures.

    Raises:
        ConfigError: a licence that no hub would take, or a name that does not end in .safetensors.
        StorageError: something else is there already under one of the names, or the disk refused.
    """
    from gtl.report.card import LEARNGENE as OWN_FOLDER
    from gtl.report.card import write_card

    storage.check_suffix(out, ".safetensors", "a learngene file")
    prefix = "" if out.stem == OWN_FOLDER else f"{out.stem}-"
    files = {out: gene.to_bytes()} | {out.parent / f"{prefix}{name}": data for name, data in (pictures or {}).items()}
    with storage.guard(out.parent, 0):
        out.parent.mkdir(parents=True, exist_ok=True)
    for target, data in files.items():  # all or nothing
        if target.exists() and storage.read_bytes(target) != data:
            raise StorageError(f"{target} is there already and is something else; move it away, or give another name")
    written = [target for target in files if target != out]
    is_in_place = pictures is None and out.exists() and not prefix
    figures = None if is_in_place else [picture.name for picture in written]
    card = write_card(gene, out, figures=figures, license_id=license_id)
    for target, data in files.items():
        if not target.exists():
            storage.publish(target, data)
    return gene, card, written


def free_folder(run: Path, name: str) -> Path:
    """A folder of the run that is not there yet: ``name``, else ``name-2``, ..."""
    folder, number = run / name, 1
    while folder.exists():
        number += 1
        folder = run / f"{name}-{number}"
    return folder


def read_evidence(run: Path, digest: str) -> list[dict[str, Any]]:
    """The evidence documents in a run's folders that are about the gene of this digest, by name of the folder.

    Raises:
        RunError: one of them is damaged.
    """
    return list(_evidence_of(run, digest).values())


def _evidence_of(run: Path, digest: str) -> dict[Path, dict[str, Any]]:
    """Folder -> evidence document, for the folders of a run whose evidence is about this gene."""
    documents = {path.parent: read_record(path) for path in sorted(run.glob(f"*/{EVIDENCE}"))}
    return {folder: document for folder, document in documents.items() if document.get("learngene") == digest}
