"""gtl data: list the sources, look at one."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from gtl.cli.common import JsonFlag, print_json

app = typer.Typer(no_args_is_help=True)


@app.command("list")
def list_(json_: JsonFlag = False) -> None:
    """The data sources that gtl can read."""
    from gtl.data.sources import describe

    if json_:
        print_json([source._asdict() for source in describe()])
        return
    table = Table("source", "path", "what it is")
    for source in describe():
        table.add_row(source.name, f"{source.name}:PATH" if source.needs_root else "none", source.summary)
    Console().print(table)


@app.command()
def show(
    source: Annotated[str, typer.Argument(help="NAME or NAME:PATH, see `gtl data list`.")], json_: JsonFlag = False
) -> None:
    """Classes, images and splits of a source; reads all of it, so it is a check as well."""
    from gtl.data.images import ROLES
    from gtl.data.sources import load, parse_source
    from gtl.errors import DataError

    request = parse_source(source)
    known, refused = None, None
    for role in ROLES:  # a source need not have every role
        try:
            known = load(request, (role,)).class_lists
            break
        except DataError as error:
            refused = refused or error
    if known is None:
        assert refused is not None
        raise refused
    splits = load(request, [role for role in ROLES if known.get(role)])
    if json_:
        print_json(
            {
                "source": splits.source,
                "digest": splits.digest,
                "roles": {
                    role: {"image_size": images.image_size, "classes": images.class_counts}
                    for role, images in splits.sets.items()
                },
            }
        )
        return
    table = Table(
        "role", "classes", "images", "a class", "pixels", "names", title=f"{splits.source} {splits.digest[:12]}"
    )
    for role, images in splits.sets.items():
        counts = images.class_counts.values()
        each = f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)}-{max(counts)}"
        names = ", ".join(images.class_names[:6]) + (", ..." if images.n_classes > 6 else "")
        table.add_row(role, str(images.n_classes), f"{len(images.labels):,}", each, str(images.image_size), names)
    Console().print(table)
