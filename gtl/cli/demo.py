"""gtl demo: the whole story in a few minutes, on data that comes with gtl."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from gtl.cli.common import say

PAUSE = 15.0  # seconds between two lines about a comparison under way


def demo(
    out: Annotated[Path | None, typer.Option(help="New run directory; by default populations/glyphs/runs/NNN.")] = None,
) -> None:
    """Evolve a learngene on rendered characters, give it to descendants, show what it is worth."""
    from gtl import engine
    from gtl.cli.live import watching
    from gtl.config_file import load_config
    from gtl.measurement import measure
    from gtl.report.run import FEWSHOT, write_evidence, write_run_pictures
    from gtl.report.table import render_starts

    settled = load_config("glyphs")
    console = Console()
    console.print("1. Evolve a learngene: the channels of a small VGG11 that are worth inheriting.")
    with watching(json_mode=False) as observer:
        result = engine.evolve(settled, out, observer=observer)
    pictures = write_run_pictures(result.run)
    console.print("2. Train the networks that it is compared with, on as many images as it cost.")
    sources = (settled.data.source, "digits")
    titles = (
        "3. Give it to descendants that learn characters nobody has seen.",
        "4. And to descendants that learn real handwritten digits.",
    )
    measured = measure(result.learngene, sources, say=now_and_then(PAUSE))
    for title, source, evidence in zip(titles, sources, measured, strict=True):
        console.print(title)
        document = {"command": "gtl demo", **evidence.to_json()}
        console.print(render_starts(document))
        pictures += write_evidence(result.run / f"{FEWSHOT}{source}", document, evidence.saliency)
    say("pictures and tables:")
    for path in pictures:
        say(f"  {path}")


def now_and_then(pause: float, clock: Callable[[], float] = time.monotonic) -> Callable[[str], None]:
    """`say`, for the first line and for those that come at least `pause` seconds after the last that was said."""
    due = clock()

    def report(text: str) -> None:
        nonlocal due
        if clock() >= due:
            say(f"  {text}")
            due = clock() + pause

    return report


COMMANDS: tuple[Callable[..., None], ...] = (demo,)
