"""gtl bench: how fast this machine is, by every way to compute that it offers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from gtl.cli.common import JsonFlag, Overrides, print_json, say
from gtl.cli.plan import span


def bench(
    config: Annotated[Path, typer.Argument(help="YAML file, see configs/.")],
    set_: Overrides = None,
    json_: JsonFlag = False,
) -> None:
    """Try precisions, workers and threads on a configuration's own lives, and say which is fastest. Writes nothing."""
    from gtl import planning
    from gtl.config_file import load_config
    from gtl.world import make_world

    settled = load_config(config, set_ or ())
    world = make_world(settled)
    paces = planning.bench(world, say)
    best = paces[0]
    time = planning.duration(planning.plan(world, best.way.workers), world, best.calibration)
    advice = f"gtl evolve {config} {best.way.settings()}"
    if json_:
        rows = [pace.to_json() for pace in paces]
        print_json({"name": settled.name, "ways": rows, "fastest": advice, "time": time.to_json()})
        return
    table = Table(title=f"{settled.name}: lives on this machine, the fastest first", title_justify="left")
    for name in ("precision", "workers", "threads of each", "images/s", "lives/h", "of peak"):
        table.add_column(name, justify="left" if name == "precision" else "right")
    for pace in paces:
        share = "" if pace.peak_share is None else f"{pace.peak_share:.0%}"
        way, rate = pace.way, f"{pace.images_per_second:,.0f}" if pace.images_per_second else ""
        table.add_row(
            way.precision, str(way.workers), str(way.threads), rate, f"{pace.lives_per_hour:,.0f}", share
        )  # fmt: skip
    console = Console()
    console.print(table)
    print("of peak: convolutions and head against a large matrix product in the same precision, one worker")
    print(f"the whole run, the fastest way: {span(time.low)} to {span(time.high)}")
    print(f"  {advice}")
    if any(pace.calibration.disturbed for pace in paces):
        print("this machine is busy with other things; try again when it is idle")


COMMANDS: tuple[Callable[..., None], ...] = (bench,)
