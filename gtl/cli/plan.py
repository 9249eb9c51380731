"""gtl evolve --dry-run: what a run will do and need, before it starts. Writes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from gtl.cli.common import print_json, say
from gtl.config import Config

if TYPE_CHECKING:
    from gtl.planning import Calibration, Disk, Duration, Memory, Plan


def show_plan(settled: Config, workers: int | None, out: Path | None, json_: bool) -> None:
    """Print what evolving this configuration will do, how long it takes, and whether memory and disk suffice.

    Args:
        settled: the configuration.
        workers: processes that evaluate side by side; by default as configured, or as many as there is room for.
        out: the run directory; by default the next one under ``populations/``.

    Raises:
        ConfigError, DataError, RunError, StorageError: what a real start would be refused for.
        EvolutionError: not even one life could be tried out.
    """
    from gtl import planning
    from gtl.learngene.founders import check_checkpoint
    from gtl.population.run import next_run
    from gtl.population.workforce import settle
    from gtl.tuning import tune
    from gtl.world import make_world

    folder = out if out is not None else next_run(settled.name)
    planning.check_place(folder)
    settled, force = settle(settled, workers)
    count = force.workers
    if not json_:
        say("trying out a few steps of each kind ...")
    world = make_world(settled)
    check_checkpoint(world)
    world, _ = tune(world, force)  # as the run itself would
    settled = world.config
    plan = planning.plan(world, count)
    found = planning.calibrate_apart(settled, settled.compute.threads)
    time = planning.duration(plan, world, found)
    memory = planning.memory(found, count)
    disk = planning.disk(plan, world, folder, time.parts["ancestor"])
    if json_:
        print_json(
            {
                "name": settled.name,
                "run": str(folder),
                "plan": plan.to_json(),
                "time": time.to_json(),
                "memory": memory.to_json(),
                "disk": disk.to_json(),
                "calibration": found.to_json(),
                "compute": settled.compute.model_dump(mode="json"),
                "fits": memory.fits and disk.fits,
            }
        )
        return
    Console().print(_table(settled, plan, found, time, memory, disk, folder))


def _table(
    settled: Config, plan: Plan, found: Calibration, time: Duration, memory: Memory, disk: Disk, folder: Path
) -> Table:
    table = Table(title=f"{settled.name}: dry run, nothing was written", show_header=False, title_justify="left")
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    bound = "at most " if plan.at_most else ""
    parts = [f"{sum(each.times for each in plan.of(phase))} {phase}" for phase in ("founding", "search", "lives")]
    steps = f"{plan.ancestor_steps:,} steps, {plan.images['ancestor']:,} images"
    table.add_row("ancestor", steps if plan.ancestor_steps else "none to train")
    table.add_row("generations", f"{bound}{plan.generations:,} ({', '.join(parts)})")
    judged = plan.evaluations - plan.births
    table.add_row(
        "evaluations",
        f"{bound}{plan.evaluations:,}: {plan.births:,} births, {plan.lives:,} of them with a life, "
        f"{judged:,} survivors judged again; then about {plan.finalists:,} finalists",
    )
    table.add_row("training images", f"{bound}{sum(plan.images.values()):,}")
    table.add_section()
    where = f"{_counted(plan.workers, 'worker')} with {_counted(found.threads, 'thread')}, {found.device}, "
    where += f"{settled.compute.precision}, {settled.compute.memory_format}"
    table.add_row("computes with", where)
    table.add_row("time", f"{bound}{span(time.low)} to {span(time.high)}")
    shown = [f"{part} {span(seconds)}" for part, seconds in time.parts.items() if seconds]
    table.add_row("", ", ".join(shown))
    table.add_row(
        "",
        f"a step of the ancestor {_brief(found.ancestor_step)}, of a life {_brief(found.life_step)}; "
        f"one criticism {_brief(found.criticism)}",
    )
    if found.disturbed:
        busy = f"this machine is busy: the trial got {found.share:.0%} of a core. Times hold for such a load; try again"
        table.add_row("", f"[bold yellow]{busy} when it is idle[/]")
    table.add_section()
    table.add_row("memory", _memory(memory))
    if memory.gpu_worker:
        one = f"{_bytes(memory.gpu_worker)} for each worker"
        table.add_row("GPU memory", f"{one}; {_bytes(memory.gpu_available)} free on one GPU")
    holds = f"{_bytes(disk.needed)} in {folder} (a gene {_bytes(disk.gene)}); {_bytes(disk.free)} free"
    table.add_row("disk", holds + ("" if disk.fits else "\n[bold red]NOT ENOUGH[/]: give another place with --out"))
    return table


def _memory(memory: Memory) -> str:
    text = f"{_bytes(memory.needed)}: {_bytes(memory.worker)} for each worker, {_bytes(memory.shared)} of images"
    if memory.available:
        text += f"; {_bytes(memory.available)} available"
    if memory.room is not None and not memory.fits:
        return f"{text}\n[bold red]NOT ENOUGH[/]: {_counted(memory.room, 'worker')} would fit here"
    return text + (f"; up to {_counted(memory.room, 'worker')} would fit here" if memory.room is not None else "")


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def span(seconds: float) -> str:
    """Rounded for people: 42 s, 7 min, 3.2 h, 4.5 days."""
    for unit, size in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            value = seconds / size
            return f"{value:.0f} {unit}" if value >= 10 or unit == "min" else f"{value:.1f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 1 else f"{seconds:.1g} s"


def _brief(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1000 * seconds:{'.0f' if seconds >= 0.01 else '.2g'}} ms"


def _bytes(count: float) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1e3:.0f} kB"
