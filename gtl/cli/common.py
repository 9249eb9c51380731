"""What commands share: printing JSON, options."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, ParamSpec

import typer

from gtl.errors import StoppedByUserError

P = ParamSpec("P")

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output, nothing else.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the configuration, as a.b=c.")
]
DataRoot = Annotated[
    Path | None,
    typer.Option("--data-root", help="Where the data that the gene was evolved on lies, if it has a place."),
]

Images = Annotated[
    str,
    typer.Option(
        "--images",
        metavar="SOURCE",
        help="Images to look at, NAME or NAME:PATH as in `gtl data list`; never of novel classes.",
    ),
]


def interruptible(command: Callable[P, None]) -> Callable[P, None]:
    """The command, with Ctrl-C ending in a sentence and exit code 130 instead of typer's bare exit."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except KeyboardInterrupt:
            raise StoppedByUserError(
                "interrupted. A run goes on from its last whole generation with: gtl resume RUN"
            ) from None

    return run


def print_json(document: Any) -> None:
    """One JSON document on standard output."""
    json.dump(document, sys.stdout, indent=2, allow_nan=False)
    sys.stdout.write("\n")


def compute_here() -> Any:
    """Where to compute on this machine: a GPU if there is one; float32, so that it matters little which."""
    from gtl.config import ComputeSection
    from gtl.training import pick_compute

    return pick_compute(ComputeSection(precision="float32"))


def say(text: str) -> None:
    """A line for people, on standard error."""
    print(text, file=sys.stderr, flush=True)
