"""The command line: thin doors to the library. Errors end in one sentence and an exit code (docs/cli.md)."""

from __future__ import annotations

import sys

import typer

from gtl.cli import (
    algebra,
    bench,
    condense,
    config,
    data,
    demo,
    descend,
    doctor,
    gene,
    inherit,
    inspection,
    launch,
    runs,
    share,
    watch,
)
from gtl.cli.common import interruptible
from gtl.errors import GtlError

app = typer.Typer(
    name="gtl",
    help="Evolve the small core of a neural network that is worth inheriting, and give it to new networks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for module in (runs, watch, inspection, gene, inherit, descend, condense, algebra, share, demo, bench, doctor):
    for command in module.COMMANDS:
        app.command()(interruptible(command))
app.add_typer(data.app, name="data", help="Data sources: list them, look at one.")
app.add_typer(config.app, name="config", help="Configurations: show one resolved, print the schema.")
app.add_typer(launch.app, name="launch", help="Files that start a run on a cluster (docs/cluster.md).")


def main() -> None:
    """Entry point of the ``gtl`` command."""
    try:
        app()
    except GtlError as error:
        print(f"gtl: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
