"""What the command line shows of a running evolution: a live table on a terminal, plain lines in a pipe.

With ``--json`` both go to standard error: standard output holds the one document and nothing else.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from gtl.cli.table import BESIDE_TABLE, caption_of, dim, fitness_cells, is_screen, job_bar, line_of, table_of
from gtl.individual import Job, Outcome
from gtl.population.founding import Ancestor
from gtl.population.manager import FINAL, Manager
from gtl.population.observer import Observer, WorkerReport
from gtl.population.pace import Clock, Pace, last_generation
from gtl.population.run import life_rate

COLUMNS = ("gen", "phase", "best", "mean", "worst", "gene", "failed", "images/s", "left")
WIDTHS = (4, 8, 6, 6, 6, 6, 6, 8, 9)
SILENCE = 300.0  # seconds without a line, after which a log says that a generation is still under way
GLANCE = 5.0  # seconds between two looks whether it is time


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
        self._manager: Manager | None = None

    def __enter__(self) -> Self:
        self.begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end()

    def begin(self) -> None:
        """Before the run."""

    def end(self) -> None:
        """After it, also when an exception or Ctrl-C passes."""

    def started(self, manager: Manager, ancestor: Ancestor, run: Path) -> None:
        """What steps took before the run foretells its lives."""
        self._manager = manager
        self.pace.expect(life_rate(run))

    def asked(self, jobs: Sequence[Job]) -> None:
        """Start the generation's clock."""
        self.pace.asked(jobs)

    def evaluated(self, outcome: Outcome) -> None:
        """Count it."""
        self.pace.evaluated(outcome)

    def workers(self, report: WorkerReport) -> None:
        """More workers need less time."""
        self.pace.workers(report)

    def generation(self, manager: Manager) -> None:
        """One row."""
        rate, left = f"{self.pace.images_per_second:,.0f}", self.pace.left(manager).text
        self.rows.append(row_of(manager.logbook[-1], rate=rate if self.pace.images else "-", left=left))


class PlainObserver(Watcher):
    """For pipes and log files: a heading, then one line a generation. The ancestor's messages thin out as they go on.

    Entered as a context manager, it also breaks long silences: a life may take hours.
    """

    def __init__(self, console: Console, clock: Clock = time.monotonic) -> None:
        super().__init__(console, clock)
        self._ancestor_messages = 0
        self._clock, self._said, self._silence = clock, clock(), SILENCE
        self._over = threading.Event()
        self._glances = threading.Thread(target=self._glance, daemon=True)  # what computes has nothing to call us with

    def begin(self) -> None:
        """Listen for silences."""
        self._glances.start()

    def end(self) -> None:
        """No more."""
        self._over.set()
        self._glances.join()

    def message(self, text: str) -> None:
        """A line; of the ancestor's messages only the 1st, 2nd, 4th, 8th, ..."""
        if text.startswith("ancestor:"):
            self._ancestor_messages += 1
            if self._ancestor_messages & (self._ancestor_messages - 1):
                return
        self._print(text)

    def started(self, manager: Manager, ancestor: Ancestor, run: Path) -> None:
        """The heading."""
        super().started(manager, ancestor, run)
        self._print(line_of(COLUMNS, COLUMNS, WIDTHS))

    def generation(self, manager: Manager) -> None:
        """One line."""
        super().generation(manager)
        self._print(line_of(self.rows[-1], COLUMNS, WIDTHS))

    def break_silence(self) -> None:
        """After a long one, how the generation under way stands; the next may last twice as long."""
        manager, silence = self._manager, self._silence
        if manager is None or not self.pace.jobs or self._clock() - self._said < silence:
            return
        pace = self.pace
        self._print(
            f"      {under_way(pace, manager)}: {pace.told} of {pace.jobs} judged, left {pace.left(manager).text}"
        )
        self._silence = 2 * silence

    def _print(self, text: str) -> None:
        self.console.out(" ".join(text.splitlines()), highlight=False)
        self._said, self._silence = self._clock(), SILENCE

    def _glance(self) -> None:
        while not self._over.wait(GLANCE):
            self.break_silence()


class LiveObserver(Watcher):
    """For terminals: a table that grows by a row a generation, and a bar of the jobs of the current one.

    Use it as a context manager: the terminal is put right again when an exception or Ctrl-C passes.
    """

    def __init__(self, console: Console, clock: Clock = time.monotonic) -> None:
        super().__init__(console, clock)
        self._title = self._caption = self._status = self._note = ""
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=4, vertical_overflow="crop")

    def begin(self) -> None:
        """Take the terminal."""
        self._live.start()

    def end(self) -> None:
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
        super().started(manager, ancestor, run)
        self._title, self._status = str(run), ""
        self._caption = caption_of(ancestor.reference)
        self.rows = [row_of(record, rate="", left="") for record in manager.logbook]

    def evaluated(self, outcome: Outcome) -> None:
        """Count it; say why it failed."""
        super().evaluated(outcome)
        if not outcome.evaluation.ok:
            self._status = f"{outcome.individual} {outcome.evaluation.status}: {outcome.evaluation.reason}"

    def workers(self, report: WorkerReport) -> None:
        """Show what happened to them."""
        super().workers(report)
        if report.note != self._note:  # told again with every report, until there is another
            self._note = self._status = report.note

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
        parts += [dim(line) for line in (self._status, self._caption) if line]
        return Group(*parts)

    def _table(self) -> Table:
        rows = [row[:-1] for row in self.rows]  # the time left stands beside the bar
        return table_of(self._title, COLUMNS[:-1], rows, self.console.height - BESIDE_TABLE)

    def _bar(self, manager: Manager) -> Table:
        pace, left = self.pace, self.pace.left(manager).text
        return job_bar(under_way(pace, manager), pace.told, pace.jobs, pace.best, left, self.console.width)


def observer_for(console: Console, json_mode: bool) -> Watcher:
    """Live on a terminal, plain elsewhere; on standard error when standard output belongs to a JSON document."""
    if json_mode:
        console = Console(stderr=True)
    return LiveObserver(console) if is_screen(console) else PlainObserver(console)


def watching(*, json_mode: bool) -> Watcher:
    """`observer_for` standard output: ``with watching(json_mode=...) as observer``."""
    return observer_for(Console(), json_mode)


def under_way(pace: Pace, manager: Manager) -> str:
    """Which jobs are being done."""
    return "finalists" if pace.generation == FINAL else f"generation {pace.generation} of {last_generation(manager)}"


def row_of(record: dict[str, Any], *, rate: str, left: str) -> tuple[str, ...]:
    """A logbook record as the cells of COLUMNS; `gene` is the size of the generation's best."""
    return (*fitness_cells(record), str(record["failed"]), rate, left)
