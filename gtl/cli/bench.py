"""gtl bench: how fast this machine is, by every way to compute that it offers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from gtl.cli.common import JsonFlag, Overrides, print_json, say
from gtl.cli.plan import span
from gtl.config import Config

if TYPE_CHECKING:
    from gtl.tuning import Tuning


def bench(
    config: Annotated[Path, typer.Argument(help="YAML file, see configs/.")],
    set_: Overrides = None,
    json_: JsonFlag = False,
) -> None:
    """Try precisions, workers and threads on a configuration's own lives, and say which is fastest. Writes nothing."""
    from gtl import planning
    from gtl.config_file import load_config
    from gtl.population.workforce import settle
    from gtl.tuning import tune
    from gtl.world import make_world

    settled, force = settle(load_config(config, set_ or ()))
    say("what gtl evolve leaves to a calibration ...")
    world, tuning = tune(make_world(settled), force, small_too=True)
    paces = planning.bench(world, say)
    best = paces[0]
    time = planning.duration(planning.plan(world, best.way.workers), world, best.calibration)
    advice = f"gtl evolve {config} {best.way.settings()}"
    if json_:
        rows = [pace.to_json() for pace in paces]
        calibration = None if tuning is None else tuning.to_json()
        print_json({
            "name": settled.name, "calibration": calibration, "ways": rows, "fastest": advice, "time": time.to_json(),
        })  # fmt: skip
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
    console.print(_choices(world.config, tuning))
    console.print(table)
    print("of peak: convolutions and head against a large matrix product in the same precision, one worker")
    print(f"the whole run, the fastest way: {span(time.low)} to {span(time.high)}")
    print(f"  {advice}")
    if any(pace.calibration.disturbed for pace in paces):
        print("this machine is busy with other things; try again when it is idle")


def _choices(settled: Config, tuning: Tuning | None) -> Table | str:
    """What an evolution of this configuration computes in, and what it chose among."""
    from gtl.tuning import WORTHWHILE, images_of_lives

    compute = settled.compute
    if tuning is None:
        return f"gtl evolve computes in {compute.precision}, {compute.memory_format}: there is nothing to choose"
    threads = f"{compute.threads} thread{'' if compute.threads == 1 else 's'}"
    table = Table(title=f"what gtl evolve chooses: training steps of one worker with {threads}", title_justify="left")
    for name in ("precision", "memory format", "images/s", ""):
        table.add_column(name, justify="right" if name == "images/s" else "left")
    if images_of_lives(settled) < WORTHWHILE:
        table.caption = (
            f"lives on fewer than {WORTHWHILE:,} images are too few for that: they compute in {tuning.usual}"
        )
        table.caption_justify = "left"
    for choice, rate in sorted(tuning.rates.items(), key=lambda item: -item[1]):
        chosen = "chosen" if choice == tuning.chosen else ""
        table.add_row(choice.precision, choice.memory_format, f"{rate:,.0f}", chosen)
    return table


COMMANDS: tuple[Callable[..., None], ...] = (bench,)
