"""gtl evolve, resume: runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from gtl.cli.common import JsonFlag, Overrides, print_json, say

RunPath = Annotated[Path, typer.Argument(help="Run directory.")]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1, help="Worker processes; by default as many as there is room for. The result does not depend on it."
    ),
]
Address = Annotated[
    str | None, typer.Option(metavar="ADDRESS", help="Ray cluster: auto, HOST:PORT or ray://HOST:PORT.")
]


def evolve(
    config: Annotated[Path, typer.Argument(help="YAML file, see configs/.")],
    set_: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="New run directory; by default populations/NAME/runs/NNN.")] = None,
    workers: Workers = None,
    address: Address = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Say what the run will do and need, from a short calibration; start nothing."),
    ] = False,
    json_: JsonFlag = False,
) -> None:
    """Evolve a learngene from a configuration."""
    from gtl import engine
    from gtl.cli.plan import show_plan
    from gtl.config_file import load_config

    settled = load_config(config, set_ or ())
    if dry_run:
        show_plan(settled, workers, out, json_)
        return
    _finish(
        lambda observer: engine.evolve(settled, out, workers=workers, address=address, observer=observer),
        json_,
    )


def resume(
    run: RunPath,
    generations: Annotated[int | None, typer.Option(min=1, help="Extend to this many generations with lives.")] = None,
    workers: Workers = None,
    address: Address = None,
    json_: JsonFlag = False,
) -> None:
    """Go on with a run from where it was, on as many workers and on whatever cluster there is now."""
    from gtl import engine

    _finish(
        lambda observer: engine.resume(
            run, generations=generations, workers=workers, address=address, observer=observer
        ),
        json_,
    )


COMMANDS: tuple[Callable[..., None], ...] = (evolve, resume)


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
