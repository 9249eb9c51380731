"""gtl status, watch: a run seen from another shell, from its directory alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from gtl.cli.common import JsonFlag, print_json, say
from gtl.cli.table import (
    BESIDE_TABLE,
    caption_of,
    dim,
    fitness_cells,
    is_screen,
    job_bar,
    line_of,
    table_of,
)
from gtl.errors import RunError, StoppedByUserError, StoppedError

if TYPE_CHECKING:
    from gtl.population.standing import Failure, Onlooker, Standing

RunPath = Annotated[Path, typer.Argument(help="Run directory.")]
Interval = Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")]

COLUMNS = ("gen", "phase", "best", "mean", "worst", "gene", "alive", "failed", "images")
WIDTHS = (4, 8, 6, 6, 6, 6, 6, 6, 11)
GRACE = 5.0  # seconds without a driver after which watching ends: one that resumes is without the lock for a moment
RESUME = "gtl resume"  # a driver that was stopped has left this advice in its last words
REASON = 300  # letters of it that are shown
YOUNG = 10.0  # seconds that a directory may take to become a run


def status(run: RunPath, json_: JsonFlag = False) -> None:
    """Where a run stands, from its directory alone; also while it is running."""
    from gtl.population.standing import Onlooker

    now = Onlooker(run).look()
    if json_:
        print_json(now.to_json())
        return
    console = Console()
    console.print(_view(now, console, rows=None))


def watch(run: RunPath, interval: Interval = 2.0) -> None:
    """Watch a run from another shell, until it is finished or its driver is gone (exit code 75)."""
    try:
        now = _watch(run, interval)
    except KeyboardInterrupt:
        raise StoppedByUserError("watching has ended; the run goes on") from None
    if not now.finished:
        raise StoppedError(_abandoned(now))
    say(f"finished: {now.learngene}")


COMMANDS: tuple[Callable[..., None], ...] = (status, watch)


class _Screen:
    """The table on a terminal, drawn anew at every look."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, vertical_overflow="crop")

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, now: Standing) -> None:
        """Draw."""
        self._live.update(_view(now, self._console, rows=self._console.height), refresh=True)


class _Lines:
    """In a pipe: a heading, the generation that is the last now, and a line for every new one."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._told: int | None = None

    def __enter__(self) -> Self:
        self._print(COLUMNS)
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def show(self, now: Standing) -> None:
        """Print what is new."""
        new = now.logbook[-1:] if self._told is None else [r for r in now.logbook if r["generation"] > self._told]
        for row in new:
            self._print(_cells(row))
        self._told = now.logbook[-1]["generation"] if now.logbook else -1

    def _print(self, cells: tuple[str, ...]) -> None:
        self._console.out(line_of(cells, COLUMNS, WIDTHS), highlight=False)
        self._console.file.flush()  # in a pipe, too, a line is there when it is new


def _watch(run: Path, interval: float) -> Standing:
    """Look and show until there is nothing more to see; the last look."""
    onlooker = _onlooker(run)
    console = Console()
    alone_since: float | None = None
    with _Screen(console) if is_screen(console) else _Lines(console) as shown:
        while True:
            now = onlooker.look()
            shown.show(now)
            if not now.lost:
                alone_since = None
            elif alone_since is None:
                alone_since = time.monotonic()
            if now.finished or (alone_since is not None and time.monotonic() - alone_since >= GRACE):
                return now
            time.sleep(interval if alone_since is None else min(interval, GRACE / 2))


def _onlooker(run: Path) -> Onlooker:
    """Of a run, or of a directory that is just being made one."""
    from gtl.population.standing import Onlooker

    since = time.monotonic()
    while True:
        try:
            return Onlooker(run)
        except RunError:
            begun = (run / "config.yaml").exists() and not (run / "run.json").exists()
            if not begun or time.monotonic() - since >= YOUNG:
                raise
        time.sleep(0.2)


def _view(now: Standing, console: Console, rows: int | None) -> Group:
    """Everything there is to see, for a terminal of so many lines; None: with as many as it takes, nothing cut."""
    cut = rows is not None
    lines = [
        Text(line, style=style, no_wrap=cut, overflow="ellipsis" if cut else "fold") for line, style in _lines(now)
    ]
    parts: list[Any] = []
    if now.logbook:
        room = None if rows is None else rows - BESIDE_TABLE - len(lines)
        parts.append(table_of(_title(now), COLUMNS, [_cells(row) for row in now.logbook], room))
    else:
        parts.append(Text(_title(now), style="bold", no_wrap=True, overflow="ellipsis"))
    said = now.progress or {}
    if now.driver.state == "alive" and said.get("state") == "generation" and said.get("jobs"):
        from gtl.population.pace import Left

        left = Left(said["seconds_left"], said["seconds_left_bound"]).text
        text = f"generation {said['generation']} of {said['last_generation']}"
        parts.append(job_bar(text, said["done"], said["jobs"], said["best"], left, console.width))
    caption = caption_of(now.reference)
    parts += [*lines, *([dim(caption)] if caption else [])]
    return Group(*parts)


def _title(now: Standing) -> str:
    return f"{now.name}: {now.state} ({now.run})"


def _lines(now: Standing) -> list[tuple[str, str]]:
    """What stands under the table, with styles: jobs and workers, who drives, what failed."""
    lines = []
    if now.driver.state in {"alive", "silent"} and now.progress is not None:
        lines += [(line, "") for line in (_jobs(now.progress), _workers(now.progress.get("workers"))) if line]
    if now.finished:
        lines.append((f"learngene: {now.learngene}", ""))
    else:
        lines.append((_driver(now), "" if now.driver.state == "alive" else "yellow"))
    if now.driver.state != "alive" and not now.finished and RESUME not in _driver(now):
        hedge = "if it is gone, " if now.driver.state == "silent" else ""
        lines.append((f"{hedge}go on with: {RESUME} {now.run}", "yellow"))
    lines += [(_failure(failure), "dim") for failure in now.failures]
    return [(" ".join(line.split()), style) for line, style in lines]


def _jobs(said: Mapping[str, Any]) -> str:
    """What is being done now; beside the bar of a generation, what the bar does not tell."""
    if said["state"] == "finalists":
        return "finalists meet a larger set of tasks"
    if said["state"] != "generation":
        return str(said["message"])
    waiting = said["pending"] - (said["running"] or 0)
    parts = [
        f"{said['done'] - said['failed']} alive",
        f"{said['failed']} failed",
        *([f"{said['running']} running"] if said["running"] is not None else []),
        f"{waiting} {'pending' if said['running'] is None else 'waiting'}",
        *([f"{said['images_per_second']:,.0f} images/s"] if said["images_per_second"] else []),
    ]
    return ", ".join(parts) if said["jobs"] else ""


def _workers(report: Mapping[str, Any] | None) -> str:
    """``workers 7 of 8 on 2 nodes, 2 retries; worker on node-3 died``."""
    if not report:
        return ""
    text = f"workers {report['ready']} of {report['ready'] + report['starting']}"
    if report["nodes"] > 1:
        text += f" on {report['nodes']} nodes"
    for number, one, many in ((report["retries"], "retry", "retries"), (report["lost"], "lost", "lost")):
        if number:
            text += f", {number} {one if number == 1 else many}"
    return f"{text}; {report['note']}" if report["note"] else text


def _driver(now: Standing) -> str:
    driver = now.driver
    process = f"process {driver.pid} on {driver.host}"
    sign = "" if driver.sign is None else _ago(driver.sign)
    if driver.state == "alive":
        return f"driven by {process}, last sign of life {sign} ago"
    if driver.state == "silent":
        return f"no sign of life from {process} for {sign}"
    if driver.state == "gone":
        return f"nobody is driving it: {process} is gone, last sign of life {sign} ago"
    said = now.progress or {}
    why = f": {said['message']}" if said.get("state") == "stopped" and said.get("message") else ""
    return f"nobody is driving it{why}"


def _abandoned(now: Standing) -> str:
    reached = "before its first generation was whole" if now.generation is None else f"at {now.state}"
    said = f"{_driver(now).rstrip('.')}. The run is not finished ({reached})"
    return said if RESUME in said else f"{said}; go on with: {RESUME} {now.run}"


def _failure(failure: Failure) -> str:
    others = "" if failure.count == 1 else f" and {failure.count - 1} more"
    return f"generation {failure.generation}: {failure.example}{others} {failure.status}: {failure.reason[:REASON]}"


def _ago(seconds: float) -> str:
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    return (*fitness_cells(row), str(row["alive"]), str(row["failed"]), f"{row['images']:,}")
