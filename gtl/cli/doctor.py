"""gtl doctor: what would stop a run, before it starts."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from gtl.cli.common import JsonFlag, print_json
from gtl.cluster.check import Check

RUNS = Path("populations")  # where `gtl evolve` makes runs; from gtl.population.run, which would load torch
SIGNS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "problem": ("✗", "bold red")}
WORDS = {"ok": "ok", "warning": "WARN", "problem": "FAIL"}  # for terminals without the signs
INDENT = 15


def doctor(
    run: Annotated[Path, typer.Option(help="Run directory, or the folder in which runs are made.")] = RUNS,
    address: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Running Ray cluster that runs should join.")
    ] = None,
    json_: JsonFlag = False,
) -> None:
    """Look for what would stop a run: versions, GPUs, disks, locks, tokens, ports, orphans. Changes nothing.

    Ends with code 1 if there is a problem; warnings do not count.
    """
    from gtl.cluster.doctor import examine
    from gtl.cluster.security import Address

    checks = []
    for check in examine(run, Address.parse(address) if address is not None else None):
        checks.append(check)
        if not json_:
            _show(check)
    counts = Counter(check.state for check in checks)
    if json_:
        rows = [{"name": c.name, "state": c.state, "found": c.found, "remedy": c.remedy or None} for c in checks]
        print_json({"ok": not counts["problem"], "checks": rows})
    else:
        parts = [
            f"{counts[state]} {state}{'s' * (counts[state] > 1)}" for state in ("problem", "warning") if counts[state]
        ]
        print(f"{len(checks)} checks: {', '.join(parts) or 'all is well'}")
    if counts["problem"]:
        raise typer.Exit(1)


COMMANDS: tuple[Callable[..., None], ...] = (doctor,)


def _show(check: Check) -> None:
    """The check in a line; what is longer than the terminal, and the remedy, go on below it."""
    console = Console(highlight=False, soft_wrap=True)
    fancy = (sys.stdout.encoding or "").lower().startswith("utf")
    sign, style = SIGNS[check.state]
    line = Text()
    line.append(f"{sign} " if fancy else f"{WORDS[check.state]:<5}", style)
    line.append(f"{check.name:<{INDENT - 2}}", "bold")
    indent = len(line)
    width = shutil.get_terminal_size().columns - indent if console.is_terminal else sys.maxsize
    line.append(_folded(check.found, width, indent))
    if check.remedy:
        arrow = "→ " if fancy else "-> "
        line.append(f"\n{'':<{indent}}{arrow}", style)
        line.append(_folded(check.remedy, width - len(arrow), indent + len(arrow)), style)
    console.print(line)


def _folded(text: str, width: int, indent: int) -> str:
    """Text in lines of a width, all but the first indented. Paths and commands stay whole, so that they can be copied."""
    lines = textwrap.wrap(text, max(width, 30), break_long_words=False, break_on_hyphens=False)
    return f"\n{'':<{indent}}".join(lines)
