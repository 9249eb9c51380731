"""gtl condense: a learngene from a trained network, without evolution."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from gtl.cli.common import JsonFlag, Overrides, print_json, say


def condense(
    checkpoint: Annotated[Path, typer.Argument(help="The trained network: a state dict, .safetensors or torch's .pt.")],
    config: Annotated[Path, typer.Argument(help="YAML file, see configs/: which network it is, data, critic.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Learngene file to write (.safetensors).")],
    method: Annotated[
        str, typer.Option(help="Which channels: l1, bn, random, taylor, activation, uniform (docs/condense.md).")
    ] = "l1",
    allocation: Annotated[
        str, typer.Option(help="How many of each group: uniform, early, level, searched.")
    ] = "uniform",
    budget: Annotated[
        float | None, typer.Option(help="Largest share of the convolution parameters; gene.budget if left out.")
    ] = None,
    set_: Overrides = None,
    json_: JsonFlag = False,
) -> None:
    """Cut a learngene out of a trained network, without evolution: one file, as of a run."""
    from gtl import storage
    from gtl.config_file import changed_config, load_config
    from gtl.learngene.checkpoint import read_checkpoint
    from gtl.learngene.condense import check_choices
    from gtl.learngene.condense import condense as condense_
    from gtl.world import make_world

    check_choices(method, allocation)
    storage.check_new(out, ".safetensors", "a learngene file")
    settled = load_config(config, set_ or ())
    if budget is not None:
        settled = changed_config(settled, gene={"budget": budget, "initial_share": (budget, budget)})
    settled = changed_config(settled, founders={"kind": "ancestor", "checkpoint": str(checkpoint)})
    world = make_world(settled)
    network = read_checkpoint(checkpoint, world.host)
    if network.ignored:
        say(f"not part of a {world.host.arch} without its head, left out: {_some(network.ignored)}")
    gene = condense_(world, network.tensors, method=method, allocation=allocation, source=network.source, say=say)
    gene.save(out)
    if json_:
        provenance = {key: gene.provenance[key] for key in ("cut", "checkpoint", "critic")}
        print_json(
            {
                "learngene": str(out),
                "digest": gene.digest,
                "counts": gene.genotype.counts,
                "shares": dict(gene.shares),
                "fitness": gene.provenance["winner"]["fitness"],
                **provenance,
            }
        )
    else:
        _show(gene, out)


COMMANDS: tuple[Callable[..., None], ...] = (condense,)


def _show(gene: Any, out: Path) -> None:
    cut, shares, critic = gene.provenance["cut"], gene.shares, gene.provenance["critic"]
    print(f"{out}: a {gene.arch} learngene, channels by {cut['channels']}, {cut['allocation']} allocation")
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for column in ("group", "kept", "of"):
        table.add_column(column, justify="left" if column == "group" else "right", no_wrap=True)
    for group, mask in gene.genotype.items():
        table.add_row(group, str(len(mask)), str(mask.size))
    Console().print(table)
    print(
        f"{shares['circuit_parameters']:,} of {shares['network_parameters']:,} convolution parameters: "
        f"{shares['circuit']:.1%} as a circuit, {shares['kernels']:.1%} if whole kernels are counted"
    )
    reference = critic["reference"]
    print(
        f"{gene.provenance['winner']['fitness']:.1%} right on validation classes ({critic['kind']} critic); the whole network "
        f"{reference['pretrained']:.1%}, one of random weights {reference['scratch']:.1%}"
    )
    if "evaluations" in cut:
        rules = ", ".join(f"{name} {accuracy:.1%}" for name, accuracy in cut["rules"].items())
        print(
            f"the search judged {cut['evaluations']} genes on tasks of its own: best {cut['fitness']:.1%}, by rule: {rules}"
        )


def _some(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + more
