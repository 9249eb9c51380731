"""gtl descend: train one descendant of a learngene and write it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from gtl.cli.common import DataRoot, JsonFlag, print_json, say
from gtl.cli.gene import RUN, GenePath, load_gene, root_of_run, transfer_options

TransferOverrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Override a key of the transfer section, as transfer.weight_mixup.rate=0.1."
    ),
]


def descend(
    learngene: GenePath,
    out: Annotated[Path, typer.Option("-o", "--out", help="State dict to write (.safetensors), a .json beside it.")],
    data: Annotated[
        str, typer.Option(help="Source of its classes: NAME or NAME:PATH. The gene's own if left out.")
    ] = "",
    role: Annotated[str, typer.Option(help="Which classes of the source: novel, val, train.")] = "novel",
    shots: Annotated[
        int | None, typer.Option(min=1, help="Training images a class. The gene's config if left out.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps. The gene's config if left out.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="The gene's config if left out.")] = None,
    start: Annotated[
        str, typer.Option(help="learngene, scratch; compact, compact-scratch: a network of just the gene's widths.")
    ] = "learngene",
    transfer: Annotated[
        str, typer.Option(help="What a parent does meanwhile: none, hkt, distillation (docs/transfer.md).")
    ] = "none",
    parent: Annotated[
        Path | None,
        typer.Option(
            help="State dict of a trained whole network, or a run: its ancestor. The gene's run if it is one."
        ),
    ] = None,
    mixer: Annotated[
        str | None, typer.Option(help="Of hkt: static, genetic, genetic-agree, learnable. genetic if left out.")
    ] = None,
    taps: Annotated[
        str | None, typer.Option(help="Of hkt: stages, comma-separated, as conv4,pooled. pooled if left out.")
    ] = None,
    fine_tuning: Annotated[
        str | None,
        typer.Option(
            help="Rule by which it is trained: plain, child-tuning-free, child-tuning-driven, subnetwork-annealing, "
            "weight-mixup. The gene's config if left out."
        ),
    ] = None,
    set_: TransferOverrides = None,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Of everything that is drawn.")] = 0,
    data_root: DataRoot = None,
    json_: JsonFlag = False,
) -> None:
    """Train one descendant on a few images of each class, and write it: a plain state dict, with a report beside it."""
    from safetensors.torch import save

    from gtl import storage
    from gtl.data.images import ROLES
    from gtl.descending import NO_TRANSFER
    from gtl.descending import descend as descend_
    from gtl.errors import ConfigError

    beside = out.with_suffix(".json")
    storage.check_new(out, ".safetensors", "a state dict")
    storage.check_new(beside, ".json", "a report")
    chosen = next((known for known in ROLES if known == role), None)
    if chosen is None:
        raise ConfigError(f"there is no role {role!r}; choose one of {', '.join(ROLES)}")
    gene = load_gene(learngene)
    if parent is None and transfer != NO_TRANSFER and (learngene / RUN).exists():
        parent = learngene
    named = {"mixer": mixer, "taps": None if taps is None else tuple(tap.strip() for tap in taps.split(","))}
    options = transfer_options(gene, set_) if set_ else {}
    options |= {name: value for name, value in named.items() if value is not None}
    result = descend_(
        gene,
        data,
        role=chosen,
        shots=shots,
        steps=steps,
        learning_rate=learning_rate,
        start=start,
        transfer=transfer,
        options=options,
        parent=parent,
        fine_tuning=fine_tuning,
        data_root=data_root or root_of_run(learngene),
        seed=seed,
        say=say,
    )
    document: dict[str, Any] = {"descendant": out.name, **result.report}
    state = {name: tensor.contiguous() for name, tensor in result.network.state_dict().items()}
    storage.publish_new(out, save(state))
    storage.publish_new(beside, json.dumps(document, indent=2, allow_nan=False).encode() + b"\n")
    if json_:
        print_json(document)
        return
    network = document["network"]
    print(
        f"{out}: a {network['arch']} of {network['parameters']:,} parameters for {len(network['classes'])} classes; "
        f"report in {beside.name}"
    )
    tested = document["test_images"] * len(network["classes"])
    print(
        f"{document['accuracy']:.1%} right on {tested:,} held-out images of these classes (one descendant, seed {seed}; "
        "gtl compare says how far such figures vary)"
    )


COMMANDS: tuple[Callable[..., None], ...] = (descend,)
