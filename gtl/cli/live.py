"""What the command line shows of a running evolution: a live table on a terminal, plain lines in a pipe.

With ``--json`` both go to standard error: standard output holds the one document and nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from gtl.individual import Job, Outcome
from gtl.population.founding import Ancestor
from gtl.population.manager import Manager
from gtl.population.observer import Observer

Clock = Callable[[], float]
COLUMNS = ("gen", "phase", "best", "mean", "worst", "gene", "failed", "images/s", "left")
WIDTHS = (4, 8, 6, 6, 6, 6, 6, 8, 9)
LIVES = "lives"
BESIDE_TABLE = 9  # lines of a terminal that are not generations: title, heading, bar, caption, prompt
LEAST_ROWS = 3


class Watcher(Observer):
    """An observer that is entered before a run and left after it, however it ends. Silent itself; keeps the pace.

    Args:
        console: where to write.
        clock: seconds, for the pace.
    """

    def __init__(self, console: Console, clock: Clock = time.monotonic) -> None:
        self.console = console
        self.pace = Pace(clock)
        self.rows: list[tuple[str, ...]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        return None

    def asked(self, jobs: Sequence[Job]) -> None:
        """Start the generation's clock."""
        self.pace.asked(jobs)

    def evaluated(self, outcome: Outcome) -> None:
        """Count it."""
        self.pace.evaluated(outcome)

    def generation(self, manager: Manager) -> None:
        """One row."""
        rate, left = f"{self.pace.images_per_second:,.0f}", self.pace.left(manager)
        self.rows.append(row_of(manager.logbook[-1], rate=rate if self.pace.images else "-", left=left))


class PlainObserver(Watcher):
    """For pipes and log files: a heading, then one line a generation. The ancestor's messages thin out as they go on."""

    def __init__(self, console: Console, clock: Clock = time.monotonic) -> None:
        super().__init__(console, clock)
        self._ancestor_messages = 0

    def message(self, text: str) -> None:
        """A line; of the ancestor's messages only the 1st, 2nd, 4th, 8th, ..."""
        if text.startswith("ancestor:"):
            self._ancestor_messages += 1
            if self._ancestor_messages & (self._ancestor_messages - 1):
                return
        self._print(text)

    def started(self, manager: Manager, ancestor: Ancestor, run: Path) -> None:
        """The heading."""
        self._print(_line(COLUMNS))

    def generation(self, manager: Manager) -> None:
        """One line."""
        super().generation(manager)
        self._print(_line(self.rows[-1]))

    def _print(self, text: str) -> None:
        self.console.out(" ".join(text.splitlines()), highlight=False)


class LiveObserver(Watcher):
    """For terminals: a table that grows by a row a generation, and a bar of the jobs of the current one.

    Use it as a context manager: the terminal is put right again when an exception or Ctrl-C passes.
    """

    def __init__(self, console: Console, clock: Clock = time.monotonic) -> None:
        super().__init__(console, clock)
        self._manager: Manager | None = None
        self._title = self._caption = self._status = ""
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=4, vertical_overflow="crop")

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Draw a last time and give the terminal back."""
        self._status = ""
        self.pace.finish()
        self._live.stop()

    def message(self, text: str) -> None:
        """The ancestor's progress stands under the table, everything else stays above it."""
        if text.startswith("ancestor:"):
            self._status = text
        else:
            self.console.print(Text(text))

    def started(self, manager: Manager, ancestor: Ancestor, run: Path) -> None:
        """Title, what whole networks reach, and the generations that are there already."""
        self._manager, self._title, self._status = manager, str(run), ""
        known = (("scratch", "random weights"), ("pretrained", "pre-trained"))
        lines = [f"{name} {ancestor.reference[key]:.1%}" for key, name in known if key in ancestor.reference]
        self._caption = f"whole networks under the same critic: {', '.join(lines)}" if lines else ""
        self.rows = [row_of(record, rate="", left="") for record in manager.logbook]

    def evaluated(self, outcome: Outcome) -> None:
        """Count it; say why it failed."""
        super().evaluated(outcome)
        if not outcome.evaluation.ok:
            self._status = f"{outcome.individual} {outcome.evaluation.status}: {outcome.evaluation.reason}"

    def generation(self, manager: Manager) -> None:
        """A row; after the last, the finalists are still to be compared."""
        super().generation(manager)
        if manager.done:
            self._status = "finalists meet a larger set of tasks"

    def _render(self) -> Group:
        """Called by the refreshing thread too: reads lists that only grow."""
        parts: list[Any] = []
        if self._manager is not None:
            parts.append(self._table())
        if self.pace.jobs and self._manager is not None:
            parts.append(self._bar(self._manager))
        parts += [
            Text(line, style="dim", no_wrap=True, overflow="ellipsis") for line in (self._status, self._caption) if line
        ]
        return Group(*parts)

    def _table(self) -> Table:
        heading = Text(self._title, style="bold", overflow="ellipsis", no_wrap=True)
        table = Table(box=box.SIMPLE_HEAD, title=heading, title_justify="left", collapse_padding=True, show_edge=False)
        for column in COLUMNS[:-1]:  # the time left stands beside the bar
            table.add_column(column, justify="left" if column == "phase" else "right", no_wrap=True)
        room = max(LEAST_ROWS, self.console.height - BESIDE_TABLE)
        rows = list(self.rows)
        if len(rows) > room:
            table.add_row("...", f"{len(rows) - room + 1} more", style="dim")
            rows = rows[-(room - 1) :]
        for row in rows:
            table.add_row(*row[:-1], style=None if row[1] == LIVES else "dim")
        return table

    def _bar(self, manager: Manager) -> Table:
        pace = self.pace
        best = f", best so far {pace.best:.1%}" if pace.best is not None else ""
        text = f"generation {pace.generation} of {last_generation(manager)}  {pace.told}/{pace.jobs}{best}"
        line = Table.grid(padding=(0, 2))
        bar = ProgressBar(total=pace.jobs, completed=pace.told, width=max(8, min(30, self.console.width - 62)))
        line.add_row(bar, Text(text, no_wrap=True), Text(f"left {pace.left(manager)}", no_wrap=True))
        return line


class Pace:
    """How fast jobs are done, by wall clock, so that it holds for any number of workers."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._seconds = {True: 0.0, False: 0.0}  # by whether the generation has lives
        self._done = {True: 0, False: 0}
        self._began = self._last = 0.0
        self.generation = self.jobs = self.told = self.images = 0
        self.lives = False
        self.best: float | None = None

    def asked(self, jobs: Sequence[Job]) -> None:
        """A generation begins."""
        self.generation, self.jobs, self.told, self.images = jobs[0].generation if jobs else 0, len(jobs), 0, 0
        self.lives, self.best = any(job.lives for job in jobs), None
        self._began = self._last = self._clock()

    def evaluated(self, outcome: Outcome) -> None:
        """A job is done."""
        now = self._clock()
        self._seconds[self.lives] += now - self._last
        self._done[self.lives] += 1
        self._last, self.told = now, self.told + 1
        self.images += outcome.evaluation.images
        if outcome.evaluation.ok:
            self.best = max(self.best or 0.0, outcome.evaluation.fitness)

    def finish(self) -> None:
        """No generation is under way any more."""
        self.jobs = 0

    @property
    def images_per_second(self) -> float:
        """Training images a second in this generation."""
        return self.images / max(1e-9, self._last - self._began)

    def left(self, manager: Manager) -> str:
        """Time left: seconds per job so far, times the jobs to come. ``> `` while no life has been timed yet, ``< ``
        where patience may end the run earlier, ``-`` as long as nothing is known.
        """
        evolution, critic = manager.config.evolution, manager.config.critic
        births = (
            evolution.population if critic.tasks_change else max(1, evolution.population - evolution.tournament.elite)
        )
        under_way = self.jobs > self.told
        first = max(manager.generation + 1, self.generation + 1 if under_way else 0)
        to_come = {False: 0, True: 0}
        to_come[self.lives] += self.jobs - self.told
        for generation in range(first, last_generation(manager) + 1):
            to_come[generation > evolution.search_generations] += births
        if manager.done or not any(to_come.values()):
            return clock_text(0)
        if not any(self._done.values()):
            return "-"
        seconds, unknown = 0.0, False
        for lives, jobs in to_come.items():
            if self._done[lives]:
                seconds += jobs * self._seconds[lives] / self._done[lives]
            else:
                unknown |= jobs > 0
        mark = "> " if unknown else "< " if evolution.patience else ""
        return mark + clock_text(seconds)


def observer_for(console: Console, json_mode: bool) -> Watcher:
    """Live on a terminal, plain elsewhere; on standard error when standard output belongs to a JSON document."""
    if json_mode:
        console = Console(stderr=True)
    # rich calls it a terminal too where FORCE_COLOR is set; a pipe must not get cursor movements for that
    terminal = console.is_terminal and console.file.isatty() and not console.is_dumb_terminal
    return LiveObserver(console) if terminal else PlainObserver(console)


def watching(*, json_mode: bool) -> Watcher:
    """`observer_for` standard output: ``with watching(json_mode=...) as observer``."""
    return observer_for(Console(), json_mode)


def last_generation(manager: Manager) -> int:
    """Number of the last generation, unless patience ends the run before."""
    return manager.config.evolution.search_generations + manager.config.evolution.generations


def row_of(record: dict[str, Any], *, rate: str, left: str) -> tuple[str, ...]:
    """A logbook record as the cells of COLUMNS; `gene` is the size of the generation's best."""
    fitness = record["fitness"]
    return (
        str(record["generation"]),
        record["phase"],
        *(f"{fitness[key]:.1%}" for key in ("max", "mean", "min")),
        f"{record['best_share']:.1%}",
        str(record["failed"]),
        rate,
        left,
    )


def clock_text(seconds: float) -> str:
    """``0:42``, ``12:05`` or ``3:07:00``."""
    whole = round(seconds)
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def _line(cells: Sequence[str]) -> str:
    padded = [
        cell.ljust(width) if column == "phase" else cell.rjust(width)
        for cell, column, width in zip(cells, COLUMNS, WIDTHS, strict=True)
    ]
    return "  ".join(padded).rstrip()
