"""gtl inherit, fewshot, compare: learngenes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from gtl.cli.common import DataRoot, JsonFlag, Overrides, print_json, say

GenePath = Annotated[Path, typer.Argument(help="Learngene file, or the directory of a finished run.")]


def inherit(
    learngene: GenePath,
    arch: Annotated[
        str,
        typer.Option(
            help="The descendant: vgg11, resnet12, torchvision's vgg*_bn, resnet18 and 34, or MODULE:FUNCTION."
        ),
    ],
    classes: Annotated[int, typer.Option(min=1, help="Number of classes of the descendant's head.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="State dict to write (.safetensors).")],
    width: Annotated[float, typer.Option(help="Width multiplier, of vgg11 and resnet12.")] = 1.0,
    family: Annotated[str, typer.Option(help="Width family, of vgg11 and resnet12.")] = "64-128-256-512",
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of everything that is not inherited.")] = 0,
    json_: JsonFlag = False,
) -> None:
    """Start a descendant from a learngene: a plain state dict that loads with torch and safetensors alone."""
    from safetensors.torch import save

    from gtl import storage
    from gtl.errors import StorageError
    from gtl.learngene.inherit import inherit as inherit_
    from gtl.models.named import by_name

    gene = load_gene(learngene)
    network = by_name(arch, classes, width=width, family=family, seed=seed)
    report = inherit_(network, gene)
    try:
        storage.publish(out, save({name: tensor.contiguous() for name, tensor in network.state_dict().items()}))
    except FileExistsError:
        raise StorageError(f"{out} exists already; give another path, or remove it first") from None
    if json_:
        print_json({"descendant": str(out), **report.to_json()})
        return
    table = Table(
        title=f"{arch}: {out}", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False
    )
    for column in ("unit", "takes", "circuit", "inherited", "zero", "identity", "fresh"):
        table.add_column(column, justify="left" if column in ("unit", "takes") else "right", no_wrap=True)
    for group in report.groups:
        row = (group.inherited, group.zero_filled, group.identity, group.fresh)
        circuit = f"{group.kept}/{group.channels}" if group.kept else ""
        table.add_row(group.group, group.of or ("carries on" if group.kept else ""), circuit, *map("{:,}".format, row))
    table.add_row("head", "", "", "0", "0", "0", f"{report.head:,}")
    totals = (report.inherited, report.zero_filled, report.identity, report.fresh)
    table.add_row("all", "", "", *map("{:,}".format, totals))
    Console().print(table)
    for note in report.notes:
        print(note)
    print(f"{report.share:.1%} of the parameters are inherited")


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

    names = _split(starts, "--starts") or list(STARTS)
    _measure(learngene, data, shots, seeds, names, data_root, workers, out, json_)


def compare(
    source: Annotated[Path, typer.Argument(help="Learngene file, run directory, or a configuration to evolve first.")],
    data: LearngeneData = "",
    shots: Shots = "",
    seeds: Seeds = None,
    starts: Annotated[
        str, typer.Option(help="Which opponents, comma-separated (docs/compare.md). All by default.")
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
    from gtl.learngene.opponents import OPPONENTS

    names = _split(starts, "--starts") or list(OPPONENTS)
    if source.suffix in (".yaml", ".yml"):
        if out is None:
            raise ConfigError(
                f"{source} is evolved first: say where the run and the evidence shall lie, with --out DIR"
            )
        source = _evolved(source, set_ or (), out / "run", json_)
    elif set_:
        raise ConfigError("--set changes a configuration to evolve; a learngene has its own. Leave --set out")
    document = _measure(source, data, shots, seeds, names, data_root, workers, out, json_)
    if plan is not None:
        from gtl.report.seed_plan import plan_seeds

        for line in plan_seeds(document, plan):
            say(line)


def _evolved(config: Path, overrides: Sequence[str], run: Path, json_: bool) -> Path:
    """The run of a configuration: begun, gone on with, or finished before."""
    from gtl import engine
    from gtl.cli.live import watching
    from gtl.config_file import load_config
    from gtl.population.run import LEARNGENE

    settled = load_config(config, overrides)
    if not (run / LEARNGENE).exists():
        with watching(json_mode=json_) as observer:
            if (run / RUN).exists():
                engine.resume(run, observer=observer)
            else:
                engine.evolve(settled, run, observer=observer)
    return run


def _measure(
    learngene: Path,
    data: str,
    shots: str,
    seeds: int | None,
    starts: Sequence[str],
    data_root: Path | None,
    workers: int | None,
    out: Path | None,
    json_: bool,
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
        shots=[int(item) for item in _split(shots, "--shots")],
        seeds=seeds,
        starts=starts,
        data_root=data_root or _root_of_run(learngene),
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

COMMANDS: tuple[Callable[..., None], ...] = (inherit, fewshot, compare)


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
            raise LearngeneError(f"{path} holds no {LEARNGENE}: the run is not finished. Go on with: gtl resume {path}")
        path = path / LEARNGENE
    return Learngene.load(path)


def _split(text: str, option: str) -> list[str]:
    from gtl.errors import ConfigError

    items = [item.strip() for item in text.split(",")] if text else []
    if option == "--shots" and not all(item.isdecimal() and int(item) > 0 for item in items):
        raise ConfigError(f"--shots {text!r}: give positive whole numbers, separated by commas, as in --shots 1,5,20")
    return items


def _root_of_run(path: Path) -> Path | None:
    """The data root that a run's own configuration names, so that a run directory needs no --data-root."""
    from gtl.population.run import read_config

    root = read_config(path).data.root if (path / RUN).exists() else None
    return None if root is None else Path(root)
