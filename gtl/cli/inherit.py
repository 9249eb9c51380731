"""gtl inherit: the initial weights of a descendant, from a learngene or as a low-rank inheritor of a trained network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from gtl import storage
from gtl.cli.common import JsonFlag, print_json
from gtl.cli.gene import load_gene

if TYPE_CHECKING:
    import torch

    from gtl.learngene.inherit import InheritReport
    from gtl.transfer.inhernet_options import InherNetReport

METHODS = ("learngene", "inhernet")
LOOKED_AT = 1024  # images that activations are measured on


def inherit(
    source: Annotated[
        Path,
        typer.Argument(
            help="Learngene file, or the directory of a finished run; for inhernet the trained network, a state dict, "
            ".safetensors or torch's .pt."
        ),
    ],
    arch: Annotated[
        str,
        typer.Option(
            help="The descendant: vgg11, resnet12, torchvision's vgg*_bn, resnet18 and 34, or MODULE:FUNCTION. For "
            "inhernet, which network the source is."
        ),
    ],
    classes: Annotated[int, typer.Option(min=1, help="Number of classes of the descendant's head.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="State dict to write (.safetensors).")],
    method: Annotated[
        str, typer.Option(help="learngene, or inhernet: low-rank layers (docs/transfer.md).")
    ] = "learngene",
    width: Annotated[float, typer.Option(help="Width multiplier, of vgg11 and resnet12.")] = 1.0,
    family: Annotated[str, typer.Option(help="Width family, of vgg11 and resnet12.")] = "64-128-256-512",
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of everything that is not inherited.")] = 0,
    rank: Annotated[int | None, typer.Option(help="inhernet: rank of every layer.")] = None,
    energy: Annotated[float | None, typer.Option(help="inhernet: share of its energy that every layer keeps.")] = None,
    budget: Annotated[float | None, typer.Option(help="inhernet: largest share of the network's parameters.")] = None,
    experts: Annotated[int | None, typer.Option(help="inhernet: up-projections of a layer; 3 if left out.")] = None,
    deviation: Annotated[
        float | None, typer.Option(help="inhernet: zero-sum deviation of the experts, such as 0.005; 0 if left out.")
    ] = None,
    activation_images: Annotated[
        str, typer.Option(help="inhernet: weigh by activations on a source's train images: NAME or NAME:PATH.")
    ] = "",
    keep_dense: Annotated[
        str, typer.Option(help="inhernet: layers that stay as they are, comma-separated, * as in file names.")
    ] = "",
    json_: JsonFlag = False,
) -> None:
    """Start a descendant from a learngene, or from a whole network with low-rank layers: a state dict of plain tensors.

    What a learngene starts loads with torch and safetensors alone; an InherNet with gtl.transfer.load_inhernet.
    """
    from gtl.errors import ConfigError

    own = {"rank": rank, "energy": energy, "budget": budget, "experts": experts, "deviation": deviation}
    options: dict[str, Any] = {name: value for name, value in own.items() if value is not None}
    if keep_dense:
        options["keep_dense"] = tuple(name.strip() for name in keep_dense.split(","))
    if method not in METHODS:
        raise ConfigError(f"--method {method!r}: give {' or '.join(METHODS)}")
    given = [*options, *(["activation_images"] if activation_images else [])]
    if method == "learngene" and given:
        raise ConfigError(
            f"--{given[0].replace('_', '-')} belongs to --method inhernet; leave it out, or give that method"
        )
    storage.check_new(out, ".safetensors", "a state dict")
    network = {"name": arch, "classes": classes, "width": width, "family": family, "seed": seed}
    if method == "inhernet":
        low_rank = _low_rank(source, out, network, options, activation_images)
        _show_low_rank(low_rank, arch, out, json_)
    else:
        report = _from_gene(source, out, network)
        _show_gene(report, arch, out, json_)


COMMANDS: tuple[Callable[..., None], ...] = (inherit,)


def _from_gene(source: Path, out: Path, network: dict[str, Any]) -> InheritReport:
    from safetensors.torch import save

    from gtl.learngene.inherit import inherit as inherit_

    gene = load_gene(source)
    descendant = _build(network)
    report = inherit_(descendant, gene)
    storage.publish_new(out, save({name: tensor.contiguous() for name, tensor in descendant.state_dict().items()}))
    return report


def _low_rank(
    source: Path, out: Path, network: dict[str, Any], options: dict[str, Any], activation_images: str
) -> InherNetReport:
    from gtl.learngene.checkpoint import load_weights
    from gtl.models import FAMILIES
    from gtl.transfer import InherNetOptions, inhernet, save_inhernet
    from gtl.transfer.inhernet import classifier_of

    settled = InherNetOptions(**options)
    parent = _build(network)
    load_weights(parent, source, without=classifier_of(parent, settled))
    images = _images(activation_images, network["seed"]) if activation_images else None
    inheritor, report = inhernet(parent, settled, images=images, classes=network["classes"], seed=network["seed"])
    known = ("name", "classes", "width", "family") if network["name"] in FAMILIES else ("name", "classes")
    save_inhernet(inheritor, out, {name: network[name] for name in known})
    return report


def _build(network: dict[str, Any]) -> torch.nn.Module:
    from gtl.models.named import by_name

    options = {name: network[name] for name in ("width", "family", "seed")}
    return by_name(network["name"], network["classes"], **options)


def _images(source: str, seed: int) -> torch.Tensor:
    """Some train images of a source; novel classes are not looked at."""
    import torch

    from gtl.data.sources import load, parse_source
    from gtl.seeds import rng

    images = load(parse_source(source), ("train",))["train"].images
    return images[torch.from_numpy(rng(seed, "activation images").permutation(len(images))[:LOOKED_AT])]


def _show_gene(report: InheritReport, arch: str, out: Path, json_: bool) -> None:
    if json_:
        print_json({"descendant": str(out), **report.to_json()})
        return
    table = _table(arch, out, ("unit", "takes"), ("circuit", "inherited", "zero", "identity", "fresh"))
    for group in report.groups:
        row = (group.inherited, group.zero_filled, group.identity, group.fresh)
        circuit = f"{group.kept}/{group.channels}" if group.kept else ""
        table.add_row(group.group, group.of or ("carries on" if group.kept else ""), circuit, *map("{:,}".format, row))
    table.add_row("head", "", "", "0", "0", "0", f"{report.head:,}")
    totals = (report.inherited, report.zero_filled, report.identity, report.fresh)
    table.add_row("all", "", "", *map("{:,}".format, totals))
    Console().print(table)
    for note in report.notes:
        print(note)
    print(f"{report.share:.1%} of the parameters are inherited")


def _show_low_rank(report: InherNetReport, arch: str, out: Path, json_: bool) -> None:
    if json_:
        print_json({"descendant": str(out), **report.to_json()})
        return
    table = _table(arch, out, ("layer",), ("rank", "of", "keeps", "before", "after"), ("why dense",))
    for layer in report.layers:
        rank, kept = ("", "") if layer.rank is None else (str(layer.rank), f"{layer.kept:.1%}")
        sizes = (f"{layer.before:,}", f"{layer.after:,}")
        table.add_row(layer.layer, rank, str(layer.full_rank), kept, *sizes, layer.dense)
    rest = (report.before - sum(x.before for x in report.layers), report.after - sum(x.after for x in report.layers))
    table.add_row("the rest", "", "", "", *map("{:,}".format, rest), "")
    table.add_row("all", "", "", "", f"{report.before:,}", f"{report.after:,}", "")
    Console().print(table)
    energy = "of the layer's mean squared output" if report.weighted else "of the layer's squared singular values"
    print(f"{report.share:.1%} of the network's parameters, {report.experts} expert(s) a layer; keeps: {energy}")


def _table(
    arch: str, out: Path, names: tuple[str, ...], numbers: tuple[str, ...], words: tuple[str, ...] = ()
) -> Table:
    table = Table(
        title=f"{arch}: {out}", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False
    )
    for column in (*names, *numbers, *words):
        table.add_column(column, justify="right" if column in numbers else "left", no_wrap=True)
    return table
