"""The table of generations, as `evolve` and `watch` both draw it: on a terminal with a bar below, or as plain lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

LIVES = "lives"
BESIDE_TABLE = 9  # lines of a terminal that are not generations: title, heading, bar, caption, prompt
LEAST_ROWS = 3


def is_screen(console: Console) -> bool:
    """Whether a table can be drawn again and again."""
    # rich calls it a terminal too where FORCE_COLOR is set; a pipe must not get cursor movements for that
    return console.is_terminal and console.file.isatty() and not console.is_dumb_terminal


def table_of(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], room: int | None) -> Table:
    """Rows of cells, the second being the phase; of more than `room` the last ones."""
    heading = Text(title, style="bold", overflow="ellipsis", no_wrap=True)
    table = Table(box=box.SIMPLE_HEAD, title=heading, title_justify="left", collapse_padding=True, show_edge=False)
    for column in columns:
        table.add_column(column, justify="left" if column == "phase" else "right", no_wrap=True)
    room = len(rows) if room is None else max(LEAST_ROWS, room)
    if len(rows) > room:
        table.add_row("...", f"{len(rows) - room + 1} more", style="dim")
        rows = rows[-(room - 1) :]
    for row in rows:
        table.add_row(*row, style=None if row[1] == LIVES else "dim")
    return table


def job_bar(what: str, told: int, jobs: int, best: float | None, left: str, width: int) -> Table:
    """How far the jobs of one generation are, on a console of that width."""
    text = f"{what}  {told}/{jobs}" + (f", best so far {best:.1%}" if best is not None else "")
    left = f"left {left}"
    line = Table.grid(padding=(0, 2))
    bar = ProgressBar(total=jobs, completed=told, width=max(8, min(30, width - len(text) - len(left) - 5)))
    line.add_row(bar, Text(text, no_wrap=True), Text(left, no_wrap=True))
    return line


def dim(line: str) -> Text:
    """A line that stands back, cut where the terminal ends."""
    return Text(line, style="dim", no_wrap=True, overflow="ellipsis")


def caption_of(reference: Mapping[str, float]) -> str:
    """What whole networks reach under the same critic; "" if that is unknown."""
    known = (("scratch", "random weights"), ("pretrained", "ancestor"))
    lines = [f"{name} {reference[key]:.1%}" for key, name in known if key in reference]
    return f"whole networks under the same critic: {', '.join(lines)}" if lines else ""


def line_of(cells: Sequence[str], columns: Sequence[str], widths: Sequence[int]) -> str:
    """A row as a plain line, its cells under those of the lines before."""
    padded = [
        cell.ljust(width) if column == "phase" else cell.rjust(width)
        for cell, column, width in zip(cells, columns, widths, strict=True)
    ]
    return "  ".join(padded).rstrip()


def fitness_cells(record: Mapping[str, Any]) -> tuple[str, ...]:
    """Number, phase, fitness (best, mean, worst) and size of the best gene: how every row begins."""
    fitness = record.get("fitness", {})
    return (
        str(record["generation"]),
        record["phase"],
        *(f"{fitness[key]:.1%}" if key in fitness else "-" for key in ("max", "mean", "min")),
        f"{record['best_share']:.1%}",
    )
