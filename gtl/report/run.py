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

EVIDENCE = "evidence.json"
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


def write_evidence(folder: Path, document: Mapping[str, Any]) -> list[Path]:
    """Write an evidence document into a folder (made if absent): ``evidence.json``, ``evidence.md``, ``descendants.png``
    and ``curves.png``.

    Raises:
        StorageError: the disk refused.
    """
    from gtl.report import figures

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make the folder {folder}: {error.strerror}. Choose another with --out.") from error
    written = [folder / EVIDENCE, folder / "evidence.md", folder / "descendants.png"]
    storage.publish(written[0], json.dumps(document, indent=2, allow_nan=False).encode() + b"\n", overwrite=True)
    storage.publish(written[1], markdown_starts(document).encode(), overwrite=True)
    figures.save(figures.descendants_figure(document["descendants"], document["starts"]), written[2])
    shots = max(row["shots"] for row in document["descendants"])
    curves = {
        row["start"]: row["curve"] for row in document["descendants"] if row["shots"] == shots and row.get("curve")
    }
    if curves:
        written.append(folder / "curves.png")
        title = f"Descendants while they learn, {shots} images a class"
        figures.save(figures.curves_figure(curves, title=title), written[-1])
    return written


def export_run(run: Path, out: Path, *, license_id: str = "unknown") -> tuple[Learngene, Path, list[Path]]:
    """Write a finished run's learngene with its evidence to `out`, and beside it its pictures and its card.

    Returns:
        The learngene as written, the card, the pictures.

    Raises:
        LearngeneError: the run is not finished.
        StorageError: something else is there already under one of the names, or the disk refused.
    """
    from gtl.report.card import LEARNGENE as OWN_FOLDER
    from gtl.report.card import write_card

    gene = Learngene.load(run / LEARNGENE).with_evidence(read_evidence(run))
    prefix = "" if out.stem == OWN_FOLDER else f"{out.stem}-"
    sources = [path for path in (run / "evolution.png", run / "channels.png") if path.exists()]
    pictures = {out.parent / f"{prefix}{path.name}": path for path in sources}
    for path in sorted(run.glob("*/descendants.png")):
        pictures[out.parent / f"{prefix}descendants-{path.parent.name.removeprefix(FEWSHOT)}.png"] = path
    gene.save(out)
    for target, source in pictures.items():
        data = source.read_bytes()
        if storage.read_bytes(target) == data:
            continue
        try:
            storage.publish(target, data)
        except FileExistsError:
            raise StorageError(f"{target} is there already and is another picture; move it away") from None
    card = write_card(gene, out, figures=[target.name for target in pictures], license_id=license_id)
    return gene, card, list(pictures)


def read_evidence(run: Path) -> list[dict[str, Any]]:
    """The evidence documents in a run's folders, by name of the folder: what `gtl.report.card` needs.

    Raises:
        RunError: one of them is damaged.
    """
    return [read_record(path) for path in sorted(run.glob(f"*/{EVIDENCE}"))]
