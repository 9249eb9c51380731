"""gtl export, push, pull: learngenes that go elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from gtl.cli.common import JsonFlag, print_json, say
from gtl.cli.gene import RUN, load_gene

RepoId = Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Repository on the hub.")]


def export(
    source: Annotated[
        Path, typer.Argument(help="Finished run, learngene file, or (with --arch) a descendant's state dict.")
    ],
    file: Annotated[Path | None, typer.Argument(help="Learngene file to write (.safetensors).")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write instead: learngene.safetensors, CARD.md, pictures.")
    ] = None,
    license_: Annotated[
        str, typer.Option("--license", help="Licence of the weights, as model hubs spell it, for the card.")
    ] = "unknown",
    onnx: Annotated[
        Path | None, typer.Option(help="Write an ONNX file instead: of the gene alone, or of a descendant.")
    ] = None,
    arch: Annotated[
        str, typer.Option(help="With --onnx: SOURCE is the state dict of this network, as in gtl inherit.")
    ] = "",
    classes: Annotated[int, typer.Option(min=0, help="With --arch: classes of its head.")] = 0,
    width: Annotated[float, typer.Option(help="With --arch: width multiplier, of vgg11 and resnet12.")] = 1.0,
    family: Annotated[str, typer.Option(help="With --arch: width family.")] = "64-128-256-512",
    image_size: Annotated[int, typer.Option(min=1, max=4096, help="With --onnx: height and width of images.")] = 32,
    json_: JsonFlag = False,
) -> None:
    """Write a learngene with its evidence, a card and pictures: a file, or a folder for gtl push. Or an ONNX file."""
    from gtl.errors import ConfigError
    from gtl.learngene.hub import FILE
    from gtl.report.run import export_gene, export_run

    targets = [target for target in (file, out, onnx) if target is not None]
    if len(targets) != 1:
        raise ConfigError("say where to: one of FILE.safetensors, --out FOLDER and --onnx FILE.onnx")
    if onnx is not None:
        _export_onnx(source, onnx, arch, classes, width, family, image_size, json_)
        return
    if arch:
        raise ConfigError(f"--arch {arch} goes with --onnx; a descendant is a plain state dict already")
    target = out / FILE if out is not None else targets[0]
    if (source / RUN).exists():
        gene, card, pictures = export_run(source, target, license_id=license_)
    else:
        gene, card, pictures = export_gene(load_gene(source), target, license_id=license_)
    if json_:
        written = {"learngene": str(target), "card": str(card), "pictures": [str(path) for path in pictures]}
        print_json({**written, "digest": gene.digest, "shares": dict(gene.shares)})
        return
    share = gene.shares.get("circuit")
    size = "" if share is None else f" {share:.1%} of the convolution parameters;"
    print(f"{target}:{size} card in {card}")
    if license_ == "unknown":
        say("the card says that the licence is unknown, so others cannot know what they may do; --license sets it")


def _export_onnx(
    source: Path, target: Path, arch: str, classes: int, width: float, family: str, size: int, json_: bool
) -> None:
    from gtl.data.augment import MEAN, STD
    from gtl.errors import ConfigError
    from gtl.learngene.checkpoint import load_network
    from gtl.learngene.onnx_file import export_onnx, gene_alone
    from gtl.models.named import by_name

    if arch and not classes:
        raise ConfigError(f"--arch {arch} needs --classes, the number of classes of the descendant's head")
    notes = {"images": f"RGB, (pixel / 255 - {MEAN}) / {STD}"}
    if arch:
        network, output = by_name(arch, classes, width=width, family=family), "logits"
        load_network(network, source)
    else:
        gene = load_gene(source)
        network, output = gene_alone(gene), "features"
        notes["learngene"] = gene.digest
    report = export_onnx(network, target, image_size=size, output=output, notes=notes)
    if json_:
        print_json({"onnx": str(target), **report.to_json()})
    else:
        print(
            f"{target}: images (batch, 3, {size}, {size}) to {output} (batch, {report.outputs}), opset {report.opset}; "
            f"onnxruntime and torch differ by {report.difference:.1e} at most"
        )


def push(
    folder: Annotated[Path, typer.Argument(help="Folder that gtl export --out wrote.")],
    repo_id: RepoId,
    private: Annotated[bool, typer.Option("--private", help="Make the repository private.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch to commit to; made if there is none.")] = None,
    update: Annotated[
        bool, typer.Option("--update", help="Commit over another learngene or card that is there.")
    ] = False,
    json_: JsonFlag = False,
) -> None:
    """Put a learngene with its card and pictures on a model hub."""
    from gtl.learngene.hub import push as push_

    pushed = push_(folder, repo_id, private=private, revision=revision, update=update)
    if json_:
        print_json({"url": pushed.url, "commit": pushed.commit, "files": list(pushed.files)})
    else:
        print(f"{pushed.url}: {', '.join(pushed.files)}")


def pull(
    repo_id: RepoId,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit.")] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Learngene file to write; NAME.safetensors by default.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Largest file to fetch, in MiB.")] = 1024,
    json_: JsonFlag = False,
) -> None:
    """Fetch a learngene from a model hub: its file and nothing else, after a look at its size, through the strict reader."""
    from gtl import storage
    from gtl.errors import StorageError
    from gtl.learngene.artifact import Learngene
    from gtl.learngene.hub import fetch

    target = out if out is not None else Path(f"{repo_id.rpartition('/')[2]}.safetensors")
    fetched = fetch(repo_id, revision, limit=limit << 20)
    gene = Learngene.from_bytes(fetched.data, source=f"{repo_id} at {fetched.commit[:12]}")
    if storage.read_bytes(target) != fetched.data:
        try:
            storage.publish(target, fetched.data)
        except FileExistsError:
            raise StorageError(f"{target} is there already and is something else; give another with --out") from None
    if json_:
        print_json({"learngene": str(target), "arch": gene.arch, "digest": gene.digest, "commit": fetched.commit})
    else:
        print(f"{target}: a {gene.arch} learngene, digest {gene.digest[:12]}, from {repo_id} at {fetched.commit}")


COMMANDS: tuple[Callable[..., None], ...] = (export, push, pull)
