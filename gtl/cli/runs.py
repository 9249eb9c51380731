"""gtl evolve, resume, status, export: runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from gtl.cli.common import JsonFlag, Overrides, print_json, say

RunPath = Annotated[Path, typer.Argument(help="Run directory.")]


def evolve(
    config: Annotated[Path, typer.Argument(help="YAML file, see configs/.")],
    set_: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="New run directory; by default populations/NAME/runs/NNN.")] = None,
    json_: JsonFlag = False,
) -> None:
    """Evolve a learngene from a configuration."""
    from gtl import engine
    from gtl.config_file import load_config

    settled = load_config(config, set_ or ())
    _finish(lambda observer: engine.evolve(settled, out, observer=observer), json_)


def resume(
    run: RunPath,
    generations: Annotated[int | None, typer.Option(min=1, help="Extend to this many generations with lives.")] = None,
    json_: JsonFlag = False,
) -> None:
    """Go on with a run from its last whole generation."""
    from gtl import engine

    _finish(lambda observer: engine.resume(run, generations=generations, observer=observer), json_)


def status(run: RunPath, json_: JsonFlag = False) -> None:
    """Where a run stands, from its directory alone; also while it is running."""
    found = run_status(run)
    if json_:
        print_json(found)
        return
    table = Table(title=f"{found['name']}: {found['state']}")
    for column in ("generation", "phase", "best", "mean", "worst", "share", "failed", "images"):
        table.add_column(column, justify="left" if column == "phase" else "right")
    for row in found["logbook"]:
        fitness = row.get("fitness", {})
        table.add_row(
            str(row["generation"]),
            row["phase"],
            *(f"{fitness[key]:.3f}" if key in fitness else "-" for key in ("max", "mean", "min")),
            f"{row['best_share']:.1%}",
            str(row["failed"]),
            f"{row['images']:,}",
        )
    Console().print(table)


def export(
    run: RunPath,
    out: Annotated[Path, typer.Argument(help="Learngene file to write (.safetensors).")],
    license_: Annotated[
        str, typer.Option("--license", help="Licence of the weights, as model hubs spell it, for the card.")
    ] = "unknown",
    json_: JsonFlag = False,
) -> None:
    """Write the learngene of a finished run to a file, with its evidence, and a card and pictures beside it."""
    from gtl.report.run import export_run

    gene, card, pictures = export_run(run, out, license_id=license_)
    if json_:
        written = {"learngene": str(out), "card": str(card), "pictures": [str(path) for path in pictures]}
        print_json({**written, "digest": gene.digest, "shares": dict(gene.shares)})
    else:
        print(f"{out}: {gene.shares['circuit']:.1%} of the convolution parameters; card in {card}")


COMMANDS: tuple[Callable[..., None], ...] = (evolve, resume, status, export)


def run_status(run: Path) -> dict[str, Any]:
    """State of a run as plain values: its configuration's name, last whole generation, logbook, learngene if finished."""
    from gtl.learngene.artifact import Learngene
    from gtl.population.run import LEARNGENE, extended, read_config, read_record
    from gtl.population.store import RunStore

    store = RunStore.open(run)
    config = extended(read_config(run), run, None)
    latest = store.latest()
    last = config.evolution.search_generations + config.evolution.generations
    logbook = [] if latest is None else latest[1]["logbook"]
    generation = None if latest is None else latest[0]
    gene = Learngene.load(run / LEARNGENE) if (run / LEARNGENE).exists() else None
    finished = gene is not None and gene.provenance["generations"] == generation  # not while an extension is running
    ancestor = read_record(run / "ancestor.json")
    founding = f"founding, ancestor at step {ancestor['step']}" if "step" in ancestor else "founding"
    state = "finished" if finished else founding if generation is None else f"generation {generation} of {last}"
    return {
        "name": config.name,
        "state": state,
        "finished": finished,
        "generation": generation,
        "generations": last,
        "reference": ancestor.get("reference", {}),
        "learngene": None if gene is None else str(run / LEARNGENE),
        "logbook": logbook,
    }


def _finish(go: Callable[[Any], Any], json_: bool) -> None:
    """Run with a watching observer, write the pictures, say what came out."""
    from gtl.cli.live import watching
    from gtl.report.run import write_run_pictures

    with watching(json_mode=json_) as observer:
        result = go(observer)
    pictures = write_run_pictures(result.run)
    gene = result.learngene
    if json_:
        print_json(
            {
                "run": str(result.run),
                "learngene": str(result.run / "learngene.safetensors"),
                "digest": gene.digest,
                "shares": dict(gene.shares),
                "fitness": gene.provenance["winner"]["fitness"],
                "generations": gene.provenance["generations"],
                "images": dict(gene.provenance["images"]),
                "pictures": [str(path) for path in pictures],
            }
        )
        return
    print(f"learngene: {result.run / 'learngene.safetensors'}")
    print(
        f"  {gene.shares['circuit']:.1%} of the convolution parameters ({gene.shares['kernels']:.1%} if whole kernels are "
        f"counted), fitness {gene.provenance['winner']['fitness']:.3f} on validation classes "
        f"({gene.provenance['critic']['kind']} critic)"
    )
    for path in pictures:
        print(f"  {path}")
    say(f"next: gtl fewshot {result.run} --data {gene.provenance['data']['source']}")
