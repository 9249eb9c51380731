"""gtl fewshot, compare: what a learngene is worth."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from gtl.cli.common import DataRoot, JsonFlag, Overrides, print_json, say

GenePath = Annotated[Path, typer.Argument(help="Learngene file, or the directory of a finished run.")]


LearngeneData = Annotated[
    str, typer.Option(help="Source of novel classes: NAME or NAME:PATH. The gene's own if left out.")
]
Shots = Annotated[str, typer.Option(help="Training images a class, comma-separated. The gene's config if left out.")]
Seeds = Annotated[int | None, typer.Option(min=2, max=1000, help="Repetitions.")]
Out = Annotated[Path | None, typer.Option(help="Folder for evidence and pictures; a run keeps them in itself.")]
TrialWorkers = Annotated[
    int | None,
    typer.Option(
        min=1, max=1024, help="Processes that train descendants; by default one a CPU core, or one for a GPU."
    ),
]


def fewshot(
    learngene: GenePath,
    data: LearngeneData = "",
    shots: Shots = "",
    seeds: Seeds = None,
    starts: Annotated[str, typer.Option(help="Which starts to compare, comma-separated.")] = "",
    data_root: DataRoot = None,
    workers: TrialWorkers = None,
    out: Out = None,
    json_: JsonFlag = False,
) -> None:
    """What a learngene is worth: descendants from several starts, same images and budget, on novel classes."""
    from gtl.learngene.evidence import STARTS

    names = _split(starts) or list(STARTS)
    _measure(learngene, data, _numbers(shots), seeds, names, data_root, workers, out, json_)


def compare(
    source: Annotated[Path, typer.Argument(help="Learngene file, run directory, or a configuration to evolve first.")],
    data: LearngeneData = "",
    shots: Shots = "",
    seeds: Seeds = None,
    starts: Annotated[
        str,
        typer.Option(
            help="Which opponents, comma-separated (docs/compare.md). By default all but those asked for by name."
        ),
    ] = "",
    set_: Overrides = None,
    data_root: DataRoot = None,
    workers: TrialWorkers = None,
    plan: Annotated[
        float | None,
        typer.Option(min=0.01, max=100.0, help="Also say how many seeds would show a difference of so many points."),
    ] = None,
    out: Out = None,
    json_: JsonFlag = False,
) -> None:
    """A learngene against every way of starting that costs as many training images: one table, one picture, one JSON.

    A comparison that was stopped goes on when the same command is given again: finished trainings are kept.
    """
    from gtl.errors import ConfigError
    from gtl.learngene.opponents import DEFAULTS, check_names

    names, numbers = _split(starts) or list(DEFAULTS), _numbers(shots)
    check_names(names)  # nobody wants to hear of a slip after the evolution
    transfer: dict[str, Any] = {}
    if source.suffix in (".yaml", ".yml"):
        if out is None:
            raise ConfigError(
                f"{source} is evolved first: say where the run and the evidence shall lie, with --out DIR"
            )
        source = _evolved(source, set_ or (), out / "run", json_)
    elif set_:
        transfer = transfer_options(load_gene(source), set_)
    document = _measure(source, data, numbers, seeds, names, data_root, workers, out, json_, transfer)
    if plan is not None:
        from gtl.report.seed_plan import plan_seeds

        for line in plan_seeds(document, plan):
            say(line)


def _evolved(config: Path, overrides: Sequence[str], run: Path, json_: bool) -> Path:
    """The run of a configuration: begun, gone on with, or finished before."""
    from gtl import engine
    from gtl.cli.live import watching
    from gtl.config_file import load_config
    from gtl.population.run import LEARNGENE, refuse_other_config
    from gtl.report.run import write_run_pictures

    settled = load_config(config, overrides)
    if (run / RUN).exists():
        refuse_other_config(settled, run)
    if not (run / LEARNGENE).exists():
        with watching(json_mode=json_) as observer:
            if (run / RUN).exists():
                engine.resume(run, observer=observer)
            else:
                engine.evolve(settled, run, observer=observer)
        write_run_pictures(run)
    return run


def _measure(
    learngene: Path,
    data: str,
    shots: Sequence[int],
    seeds: int | None,
    starts: Sequence[str],
    data_root: Path | None,
    workers: int | None,
    out: Path | None,
    json_: bool,
    transfer: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Compare starts, and print and write what came out."""
    from gtl.errors import StorageError
    from gtl.measurement import measure
    from gtl.report.card import shown_command
    from gtl.report.run import EVIDENCE, FEWSHOT, free_folder, write_evidence
    from gtl.report.table import render_starts

    if out is not None and (out / EVIDENCE).exists():
        raise StorageError(f"{out / EVIDENCE} is there already; give another folder with --out")
    gene = load_gene(learngene)
    command = shown_command(["gtl", *sys.argv[1:]])
    (evidence,) = measure(
        gene,
        data,
        shots=shots,
        seeds=seeds,
        starts=starts,
        data_root=data_root or root_of_run(learngene),
        transfer=transfer,
        workers=workers,
        say=say,
    )
    document: dict[str, Any] = {"command": command, **evidence.to_json()}
    if out is None and (learngene / RUN).exists():
        out = free_folder(learngene, f"{FEWSHOT}{evidence.data['source']}")
    if out is not None:
        say("wrote " + ", ".join(str(path) for path in write_evidence(out, document, evidence.saliency)))
    if json_:
        print_json(document)
    else:
        Console().print(render_starts(document))
    return document


RUN = "run.json"  # what makes a folder a run

COMMANDS: tuple[Callable[..., None], ...] = (fewshot, compare)


def load_gene(path: Path) -> Any:
    """The learngene in a file, or of a finished run.

    Raises:
        LearngeneError: not a learngene, or the run has none yet.
    """
    from gtl.errors import LearngeneError
    from gtl.learngene.artifact import Learngene
    from gtl.population.run import LEARNGENE

    if path.is_dir():
        if not (path / LEARNGENE).exists():
            if not (path / RUN).exists():
                raise LearngeneError(
                    f"{path} is no run directory, and holds no {LEARNGENE}: give a run's or a learngene file"
                )
            raise LearngeneError(f"{path} holds no {LEARNGENE}: the run is not finished. Go on with: gtl resume {path}")
        path = path / LEARNGENE
    return Learngene.load(path)


def transfer_options(gene: Any, overrides: Sequence[str]) -> dict[str, Any]:
    """The transfer section of a learngene's configuration with these changes.

    Raises:
        ConfigError: a key of another section, or a value that is not allowed.
    """
    from gtl.config_file import overridden
    from gtl.errors import ConfigError
    from gtl.learngene.evidence import config_of

    if not all(text.strip().startswith("transfer.") for text in overrides):
        raise ConfigError(
            "--set changes a configuration to evolve; a learngene has its own, of which only transfer.* can be changed. "
            "Leave the others out"
        )
    return overridden(config_of(gene), overrides).transfer.model_dump()


def _split(text: str) -> list[str]:
    return [item.strip() for item in text.split(",")] if text else []


def _numbers(shots: str) -> list[int]:
    from gtl.errors import ConfigError

    items = _split(shots)
    if not all(item.isdecimal() and int(item) > 0 for item in items):
        raise ConfigError(f"--shots {shots!r}: give positive whole numbers, separated by commas, as in --shots 1,5,20")
    return [int(item) for item in items]


def root_of_run(path: Path) -> Path | None:
    """The data root that a run's own configuration names, so that a run directory needs no --data-root."""
    from gtl.population.run import read_config

    root = read_config(path).data.root if (path / RUN).exists() else None
    return None if root is None else Path(root)
