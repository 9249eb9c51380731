"""gtl merge, shrink: a learngene of two, and a smaller one of one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from gtl import storage
from gtl.cli.common import Images, JsonFlag, compute_here, print_json
from gtl.cli.gene import GenePath, load_gene

Out = Annotated[Path, typer.Option("-o", "--out", help="Learngene file to write (.safetensors).")]
Seed = Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of what is drawn.")]


def merge(
    a: GenePath,
    b: GenePath,
    out: Out,
    how: Annotated[
        str,
        typer.Option(
            help="union: channels of both; intersection: those in both; better: the fitter one's circuit first."
        ),
    ] = "union",
    images: Images = "",
    seed: Seed = 0,
    json_: JsonFlag = False,
) -> None:
    """One learngene of two of the same network. It carries no evidence: nothing was measured on it yet."""
    from gtl.learngene.gene_images import load_images
    from gtl.learngene.merging import HOW
    from gtl.learngene.merging import merge as merge_

    check_choice("--how", how, HOW)
    storage.check_new(out, ".safetensors", "a learngene file")
    genes = load_gene(a), load_gene(b)
    seen = load_images(genes, images, "train") if images else None
    judged = load_images(genes, images, "val") if images and how == "better" else None
    gene = merge_(*genes, how, images=seen, validation=judged, compute=compute_here(), seed=seed)
    gene.save(out)
    _show(gene, genes, out, json_)


def shrink(
    learngene: GenePath,
    budget: Annotated[float, typer.Option(help="Largest share of the network's convolution parameters, as 0.1.")],
    out: Out,
    method: Annotated[
        str, typer.Option(help="Which channels: l1, bn, random; taylor and activation look at --images.")
    ] = "bn",
    allocation: Annotated[str, typer.Option(help="How many of each group: greedy, proportional.")] = "greedy",
    images: Images = "",
    seed: Seed = 0,
    json_: JsonFlag = False,
) -> None:
    """The most important channels of a learngene, within a budget. It carries no evidence."""
    from gtl.learngene.gene_images import load_images
    from gtl.learngene.shrinking import ALLOCATIONS, METHODS
    from gtl.learngene.shrinking import shrink as shrink_

    check_choice("--method", method, METHODS)
    check_choice("--allocation", allocation, ALLOCATIONS)
    storage.check_new(out, ".safetensors", "a learngene file")
    whole = load_gene(learngene)
    seen = load_images([whole], images, "train") if images else None
    gene = shrink_(whole, budget, method=method, allocation=allocation, images=seen, compute=compute_here(), seed=seed)
    gene.save(out)
    _show(gene, [whole], out, json_)


COMMANDS: tuple[Callable[..., None], ...] = (merge, shrink)


def check_choice(option: str, given: str, known: Sequence[str]) -> None:
    """Raise ConfigError unless it is one of the known words."""
    from gtl.errors import ConfigError

    if given not in known:
        raise ConfigError(f"{option} {given!r}: known are {', '.join(known)}")


def _show(gene: Any, parents: Sequence[Any], out: Path, json_: bool) -> None:
    from gtl.report.gene_views import render_derived

    unchanged = len(parents) == 1 and gene.digest == parents[0].digest
    if json_:
        print_json(
            {
                "learngene": str(out),
                "digest": gene.digest,
                "counts": gene.genotype.counts,
                "shares": dict(gene.shares),
                "parents": [parent.digest for parent in parents],
                "unchanged": unchanged,
                "derived": None if unchanged else gene.provenance["derived"],
            }
        )
    elif unchanged:
        print(f"{out}: the learngene is within the budget already, and was written as it is")
    else:
        print(f"{out}: {gene.provenance['method']}, {gene.digest[:12]}")
        Console().print(render_derived(gene, parents))
