"""gtl inspect, diff: look into learngenes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from gtl import storage
from gtl.cli.common import Images, JsonFlag, compute_here, print_json, say
from gtl.cli.gene import GenePath, load_gene


def inspect(
    learngene: GenePath,
    picture: Annotated[
        Path | None, typer.Option(help="Draw the kept channels of every group into this new file (.png).")
    ] = None,
    pixels: Annotated[
        int | None, typer.Option(min=28, max=84, help="A side of the images that FLOPs are counted for.")
    ] = None,
    json_: JsonFlag = False,
) -> None:
    """Look into a learngene: channels, size and FLOPs, does it run alone, how it was made, evidence."""
    from gtl.learngene.inspection import inspect as inspect_
    from gtl.report.gene_views import render_inspection

    if picture is not None:
        storage.check_new(picture, ".png", "a picture")
    gene = load_gene(learngene)
    found = inspect_(gene, pixels)
    if picture is not None:
        from gtl.report import figures

        try:
            figures.save(figures.channels_figure(gene.genotype), picture, overwrite=False)
        except FileExistsError:
            raise storage.taken(picture) from None
        say(f"wrote {picture}")
    if not json_:
        Console().print(render_inspection(gene, found))
        return
    print_json(
        {
            "arch": gene.arch,
            "digest": gene.digest,
            "genotype": gene.genotype.to_json(),
            **found.to_json(),
            "recorded_shares": dict(gene.shares),
            "provenance": dict(gene.provenance),
            "evidence": [dict(row) for row in gene.evidence],
        }
    )


def diff(
    a: GenePath,
    b: GenePath,
    images: Images = "",
    json_: JsonFlag = False,
) -> None:
    """Two learngenes side by side: shared channels, distance of their weights, size, evidence.

    With --images also what they compute: linear CKA of their activations, on validation classes of the source.
    """
    from gtl.learngene.diff import diff as diff_
    from gtl.learngene.gene_images import load_images
    from gtl.report.gene_views import render_diff

    genes = load_gene(a), load_gene(b)
    seen = load_images(genes, images, "val") if images else None
    found = diff_(*genes, seen, compute=compute_here())
    if json_:
        print_json(found.to_json())
    else:
        Console().print(render_diff(found))


COMMANDS: tuple[Callable[..., None], ...] = (inspect, diff)
