"""The card of a learngene: one Markdown page that says what it is, how it was made and what it was measured to be worth.

It says nothing that the learngene and its evidence do not hold: no time, no path of the machine. What is not recorded is
left out or said to be unknown. The learngene may come from anyone, so its texts are escaped.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gtl import storage
from gtl.errors import LearngeneError, StorageError
from gtl.learngene.artifact import FORMAT_VERSION, Learngene
from gtl.learngene.hub import CARD
from gtl.report.front_matter import front_matter
from gtl.report.provenance import Record, facts, making
from gtl.report.table import markdown_starts, plain, shots_text

LEARNGENE = "learngene"  # the stem of the file in a folder of its own, as under populations/
CAPTIONS = {
    "evolution": "Accuracy on validation classes and size of the genes, generation by generation. Lines: whole networks "
    "under the same critic on the tasks of the last comparison, with random weights and with the ancestor's.",
    "channels": "The channels that the gene keeps, group by group.",
    "descendants": "Descendants on novel classes, by start, with 95 % intervals.",
    "curves": "Accuracy of descendants while they learn.",
    "saliency": "Where newborns look that never trained, on images of novel classes: the bright places are those where a "
    "network answers most. Numbers: rank agreement with the pre-trained network's maps.",
}

# the folders of an absolute path, at the start of a word or after = or :
_FOLDERS = re.compile(r"(?:^|(?<=[=:]))(?:[A-Za-z]:[\\/]|~[^\\/]*[\\/]|/(?!/))(?:.*[\\/])?", re.DOTALL)

Document = Mapping[str, Any]


def card_markdown(
    learngene: Learngene,
    *,
    results: Sequence[Document] | None = None,
    figures: Sequence[str] = (),
    command: Sequence[str] = (),
    license_id: str = "unknown",
) -> str:
    """The card as Markdown, with the front matter that model hubs read. Equal arguments give equal text.

    Args:
        results: evidence documents (what ``gtl fewshot --json`` prints); by default those that the learngene carries.
        figures: names of pictures that lie beside the card.
        command: the words of the command that made the evidence, for documents that do not name their own.
        license_id: of the weights, as model hubs spell it, for example ``"apache-2.0"``; only the user can know it.

    Raises:
        LearngeneError: evidence that is no such document.
        ConfigError: a licence that no hub would take.
    """
    documents = (
        [row for row in learngene.evidence if {"data", "descendants"} <= row.keys()]
        if results is None
        else list(results)
    )
    record = Record(learngene.provenance)
    name = record.text("config", "name") or learngene.arch
    with _reading_evidence():
        front = front_matter(learngene, record, documents, license_id)
        evidence = [_evidence(learngene, document, command) for document in documents]
    sections = [
        front,
        f"# {name}: a learngene of {learngene.arch}",
        _summary(learngene, record),
        *[_figure(figure) for figure in figures],
        "## What it is",
        _identity(learngene),
        "## How it was made",
        making(record),
        "## Evidence",
        *(evidence or ["None yet. `gtl fewshot learngene.safetensors` measures it on classes nothing here has seen."]),
        "## Intended use",
        _use(learngene),
        "## Limits",
        _limits(learngene, record, documents),
        "## How to load it",
        _loading(learngene, record),
    ]
    return "\n\n".join(section.strip("\n") for section in sections if section) + "\n"


def write_card(
    learngene: Learngene,
    out: Path,
    *,
    results: Sequence[Document] | None = None,
    figures: Sequence[str] | None = None,
    command: Sequence[str] = (),
    license_id: str = "unknown",
    overwrite: bool = False,
) -> Path:
    """Write the card beside the learngene file `out`; returns its path. An equal card is left as it is.

    It is ``CARD.md`` beside ``learngene.safetensors``, otherwise ``NAME.md`` beside ``NAME.safetensors``.

    Args:
        figures: by default the pictures with well-known names (``evolution.png``, ``descendants*.png``, ...) there.

    Raises:
        StorageError: another card is there and `overwrite` is False (people edit cards), or the disk refused.
    """
    path = out.parent / CARD if out.stem == LEARNGENE else out.with_suffix(".md")
    if figures is None:
        figures = [path.name for stem in CAPTIONS for path in sorted(out.parent.glob(f"{stem}*.png"))]
    text = card_markdown(learngene, results=results, figures=figures, command=command, license_id=license_id)
    if not overwrite and storage.read_bytes(path) == text.encode():
        return path
    try:
        storage.publish(path, text.encode(), overwrite=overwrite)
    except FileExistsError:
        raise StorageError(
            f"{path} is there already and says something else; move it away to have it made again"
        ) from None
    return path


def shown_command(words: Sequence[str]) -> str:
    """A command as others may type it: folders of this machine are cut from absolute paths, the file's name stays."""
    return shlex.join(_without_folders(word) for word in words)


def _summary(learngene: Learngene, record: Record) -> str:
    share = learngene.shares.get("circuit")
    size = "" if share is None else f"{100 * share:.1f} % of the convolution parameters of "
    data = record.text("data", "source")
    how = "evolved on" if record.get("cut") is None else "cut from a trained network with images of"
    whole = "what it computed in its ancestor"
    if record.get("derived") is not None:
        how, whole = "made of learngenes that know", "what it computes alone"
    text = (
        f"The part of a network that is worth inheriting: a circuit of {size}{_article(learngene.arch)} "
        f"{learngene.arch}{f', {how} {data}' if data else ''}. Put into a new network of the same family, equal or "
        f"wider, it computes from birth {whole}; the rest of the network is free to learn."
    )
    description = record.text("config", "description")
    return f"{text}\n\n> {description}" if description else text


def _identity(learngene: Learngene) -> str:
    shares, kept = learngene.shares, sum(learngene.genotype.counts.values())
    whole, circuit, kernels = (
        shares.get(key) for key in ("network_parameters", "circuit_parameters", "kernel_parameters")
    )
    rows = [
        ("architecture", f"{learngene.arch}, {len(learngene.genotype)} channel groups"),
        ("ancestor's widths", ", ".join(str(size) for size in learngene.genotype.sizes.values())),
        ("channels kept", f"{', '.join(str(count) for count in learngene.genotype.counts.values())} ({kept:,} in all)"),
    ]
    if whole is not None and circuit is not None and "circuit" in shares:
        rows.append(
            (
                "size as a circuit",
                f"{circuit:,} of {whole:,} convolution parameters ({100 * shares['circuit']:.1f} %): kernels restricted to "
                "kept channels on both sides",
            )
        )
    if whole is not None and kernels is not None and "kernels" in shares:
        rows.append(
            (
                "size in whole kernels",
                f"{kernels:,} of {whole:,} ({100 * shares['kernels']:.1f} %): whole kernels of the kept output channels",
            )
        )
    values = sum(tensor.numel() for tensor in learngene.tensors.values())
    rows.append(("values in the file", f"{values:,} float32, normalisation included; the classifier is not part of it"))
    rows.append(("format", f"learngene {FORMAT_VERSION}, safetensors; reading it runs no code"))
    rows.append(("digest (sha256)", f"`{learngene.digest}`"))
    return facts(rows)


@contextmanager
def _reading_evidence() -> Iterator[None]:
    """Evidence may be anyone's; of another shape, it is a LearngeneError."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise LearngeneError(
            f"evidence that is no document of `gtl fewshot --json` ({error!r}); give others"
        ) from error


def _evidence(learngene: Learngene, document: Document, command: Sequence[str]) -> str:
    shots = ", ".join(shots_text(count) for count in sorted({result["shots"] for result in document["descendants"]}))
    head = (
        f"Descendants learn the novel classes of **{plain(document['data']['source'])}** from {shots}; every start with the "
        f"same images, seeds and budget (class lists `{plain(document['data']['classes'])[:16]}`)."
    )
    if not _is_about(document, learngene):
        digest = plain(document["learngene"])[:16]
        head += f"\n\n**Measured with another gene** (digest `{digest}`); it does not carry over to this one."
    made = document.get("command")
    shown = shown_command(shlex.split(made)) if isinstance(made, str) and made else shown_command(command)
    return f"{head}\n\n{markdown_starts(document)}" + (f"\nMade by:\n\n```\n{_fenced(shown)}\n```" if shown else "")


def _is_about(document: Document, learngene: Learngene) -> bool:
    """Documents of gtl's first versions do not say which gene they are about; they lie in the file of theirs."""
    return bool(document.get("learngene", learngene.digest) == learngene.digest)


def _use(learngene: Learngene) -> str:
    return (
        f"Initialise {_article(learngene.arch)} {learngene.arch} of gtl, as wide as the ancestor or wider, that has to learn "
        "new classes of similar images from few examples; research on what networks inherit. Fine-tune all weights: the gene "
        "is a start, not a frozen feature extractor."
    )


def _limits(learngene: Learngene, record: Record, documents: Sequence[Document]) -> str:
    lines = [
        "gtl selects on train and validation classes only. Accuracies on validation classes are what the winner was chosen "
        "for, so they flatter it; the evidence is on novel classes, met after everything was decided.",
    ]
    size = record.number("config", "data", "image_size")
    if documents:
        results = [result for document in documents for result in document["descendants"]]
        seeds = sorted({result["accuracy"]["n"] for result in results})
        by_class = any(result.get("by_class") for result in results)
        own = [document for document in documents if _is_about(document, learngene)]
        sources = ", ".join(dict.fromkeys(plain(document["data"]["source"]) for document in own))
        others = ", those for others like them also other classes" if by_class else ""
        lines += [
            f"The evidence is of one gene from one run (seed {record.text('seed') or 'unknown'}). Its intervals span draws of "
            f"images and of new weights (n = {', '.join(map(str, seeds))} seeds){others}; not repeated evolutions, other "
            "splits of the classes or other data.",
            (
                f"Measurements of this gene are known from {sources} only. "
                if own
                else "This very gene was not measured. "
            )
            + "What is cut down, merged or trained on from it has to be measured again.",
            "A start from scratch costs no training images before; the others cost what the table's last column says.",
        ]
        lines.append(f"Descendants were gtl's {learngene.arch} of the ancestor's widths.")
    lines += [
        "Networks of other shapes take what has a place in them and say what has none (`gtl inherit`); what that is worth is "
        "another question.",
        f"Images were {'small (28 to 84 pixels)' if size is None else f'of {size} x {size} pixels'} and normalised as gtl "
        "does ((pixel / 255 - 0.5) / 0.25); others may find it of no use.",
        "Neither fairness nor robustness was tested, and biases of the data may be inherited. Not for decisions about people.",
    ]
    return "\n".join(f"* {line}" for line in lines)


def _loading(learngene: Learngene, record: Record) -> str:
    sizes, width, family = (
        learngene.genotype.sizes,
        record.number("config", "model", "width"),
        record.get("config", "model", "family"),
    )
    from gtl.models import FAMILIES

    families = FAMILIES[learngene.arch].base_widths
    arguments = "num_classes=20"
    default = "64-128-256-512"
    family = family if family in families else default
    base = families[family]
    if width is None or not all(max(1, round(base[group] * width)) >= size for group, size in sizes.items()):
        width = max(size / base[group] for group, size in sizes.items())
    arguments += f", width={width:g}" + (f", family={family!r}".replace("'", '"') if family != default else "")
    return (
        "```python\nimport gtl\n\n"
        f"network = gtl.models.{learngene.arch}({arguments})\n"
        'print(gtl.inherit(network, gtl.Learngene.load("learngene.safetensors")).share)\n```\n\n'
        'From a hub: `gtl.Learngene.from_pretrained("OWNER/NAME")`, or `gtl pull OWNER/NAME`.'
    )


def _figure(name: str) -> str:
    stem = Path(name).stem
    caption = next((text for key, text in CAPTIONS.items() if key in stem), plain(stem))
    return f"![{caption}]({re.sub(r'[^A-Za-z0-9._/-]', lambda m: f'%{ord(m[0]):02X}', name)})"


def _without_folders(word: str) -> str:
    """``--data=folder:/srv/x/flowers`` -> ``--data=folder:flowers``; relative paths and addresses stay."""
    return _FOLDERS.sub("", word.rstrip("/") or word)


def _fenced(text: str) -> str:
    return text.replace("```", "'''").replace("\n", " ")


def _article(arch: str) -> str:
    return "an" if arch[0] in "aeio" else "a"
