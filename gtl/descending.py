"""`descend`: one descendant of a learngene, trained with a chosen start, teacher and rule; the door to `gtl descend`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from gtl.config import Config, DataSection
from gtl.config_file import changed_config
from gtl.data.images import ImageSet, Role
from gtl.data.sources import load, parse_source
from gtl.errors import ConfigError, EvolutionError, LearngeneError, RunError
from gtl.fewshot import Training, bring_up, training_of
from gtl.learngene.artifact import Learngene
from gtl.learngene.checkpoint import read_checkpoint
from gtl.learngene.evidence import config_of
from gtl.learngene.starts import Initialisation, gene_start, scratch_start, thin_start
from gtl.measurement import compute_changes, request_for
from gtl.models import ArchSpec, gene_layout, spec_of
from gtl.population.founding import RECORD
from gtl.population.run import read_config, read_record
from gtl.population.store import RUN, RunStore
from gtl.seeds import derive, rng
from gtl.surgery import GeneTensors
from gtl.training import resolve_compute
from gtl.transfer.fine_tuning import PLAIN
from gtl.transfer.fine_tuning import fine_tuning as fine_tuning_rule
from gtl.transfer.lessons import TRANSFERS, Parent
from gtl.transfer.rule import Rule
from gtl.versions import versions

NO_TRANSFER = "none"

# Start -> how its newborns are initialised. Compact ones are the thin network of the gene's widths.
STARTS: Mapping[str, Callable[[Learngene], Initialisation]] = {
    "learngene": lambda gene: gene_start(_host(gene), gene.genotype, gene.tensors),
    "scratch": lambda gene: scratch_start(_host(gene)),
    "compact": lambda gene: thin_start(_host(gene), gene.genotype, gene.tensors),
    "compact-scratch": lambda gene: thin_start(_host(gene), gene.genotype),
}


@dataclass(frozen=True, eq=False)
class DescendResult:
    """A trained descendant.

    Attributes:
        network: on the CPU, in evaluation mode.
        accuracy: share of the held-out images of its classes that it classifies rightly.
        report: how it was made and what it reaches, as JSON.
    """

    network: nn.Module
    accuracy: float
    report: dict[str, Any]


def descend(
    learngene: Learngene,
    data: str = "",
    *,
    role: Role = "novel",
    shots: int | None = None,
    steps: int | None = None,
    learning_rate: float | None = None,
    test_images: int | None = None,
    start: str = "learngene",
    transfer: str = NO_TRANSFER,
    options: Mapping[str, Any] | None = None,
    parent: Initialisation | Path | str | None = None,
    fine_tuning: str | None = None,
    data_root: Path | None = None,
    seed: int = 0,
    say: Callable[[str], None] = lambda text: None,
) -> DescendResult:
    """Train one descendant of a learngene on a few images of each class, and test it on others.

    What is left out is the gene's own configuration's, or gtl's default if it carries none.

    Args:
        learngene: the gene.
        data: ``NAME`` or ``NAME:PATH`` of the source of its classes; "" is the source that the gene was evolved on.
        role: which classes of the source.
        shots: training images a class.
        steps: optimiser steps; with a parent, as many again for the parent.
        learning_rate: of the descendant, and of the parent's fine-tuning.
        test_images: held-out images a class, at most.
        start: one of STARTS.
        transfer: ``none`` or one of `gtl.transfer.lessons.TRANSFERS`.
        options: keys of the configuration's transfer section: of `transfer` and of the rule.
        parent: who teaches: a state dict of a whole network like the gene's ancestor, the directory of a run (its ancestor),
            or a start that bears it.
        fine_tuning: one of `gtl.transfer.fine_tuning.RULES`, with its options in the configuration; other than ``plain``
            without `transfer` only.
        data_root: where the gene's own source lies, if it has a place.
        seed: of everything that is drawn.
        say: called with a line now and then.

    Raises:
        ConfigError: a name that there is not, a parent that is missing or does not fit, a value out of range.
        DataError: images that cannot be used, or too few.
        LearngeneError: the gene says nothing about data, and neither does `data`.
        EvolutionError: the training diverged.
    """
    given = {"shots": None if shots is None else (shots,), "steps": steps, "test_images": test_images}
    config = changed_config(
        _config(learngene, data),
        fewshot={name: value for name, value in given.items() if value is not None},
        transfer=options or {},
        data={} if data_root is None else {"root": str(data_root)},
    )
    config = changed_config(config, compute=compute_changes(config.compute, say))
    if learning_rate is not None:
        training = {**config.fewshot.training.model_dump(), "learning_rate": learning_rate}
        config = changed_config(config, fewshot={"training": training})
    if start not in STARTS:
        raise ConfigError(f"there is no start {start!r}; choose one of {', '.join(STARTS)}")
    rule = _rule(learngene, config, fine_tuning)
    chosen = _training(learngene, config, transfer, parent, rule)
    born = STARTS[start](learngene)
    section, compute = config.fewshot, resolve_compute(config.compute)
    images = _images(data, config, role)
    count, left = section.shots[0], min(images.class_counts.values()) - section.shots[0]
    fit, test = images.draw_per_class(rng(seed, "descend"), count, max(1, min(section.test_images, left)))
    network = born(fit.n_classes, derive(seed, "newborn"))
    say(f"{start}, {len(fit.labels)} images of {fit.n_classes} classes, {section.steps} steps")
    rate = section.training.learning_rate
    reached, result = bring_up(network, chosen or training_of(born), fit, test, section, rate, seed, compute)
    if not result.finite:
        raise EvolutionError(f"the training diverged (loss {result.loss}); lower the learning rate, now {rate:g}")
    spec = born.host
    report = {
        "learngene": learngene.digest,
        "start": start,
        "transfer": None if transfer == NO_TRANSFER else {"kind": transfer, **config.transfer.lessons},
        "fine_tuning": {"rule": PLAIN} if rule is None else {"rule": rule.name, **rule.options},
        "network": {
            "arch": spec.arch,
            "widths": dict(spec.widths),
            "classes": list(fit.class_names),
            "parameters": sum(parameter.numel() for parameter in network.parameters()),
        },
        "data": {"source": fit.source, "role": role, "image_size": fit.image_size, "images": fit.digest},
        "shots": count,
        "test_images": len(test.labels) // test.n_classes,
        "training": {**section.training.model_dump(mode="json"), "steps": section.steps, "images": result.images},
        "accuracy": reached.accuracy,
        "by_class": dict(zip(fit.class_names, reached.by_class, strict=True)),
        "curve": [list(point) for point in reached.curve],
        "seed": seed,
        "versions": versions(compute),
    }
    return DescendResult(network.to("cpu").eval(), reached.accuracy, report)


def parent_of(source: Path, host: ArchSpec) -> Parent:
    """The parent in a file or in a run's directory.

    Args:
        source: a state dict of a network like `host`, or the directory of a run, whose ancestor it is then.

    Raises:
        ConfigError: not a state dict of that network.
        RunError: a run without an ancestor.
    """
    if not (source / RUN).exists():
        return Parent(gene_start(host, _full(host), read_checkpoint(source, host, "--parent").tensors))
    config, record = read_config(source), read_record(source / RECORD)
    if "gene" not in record:
        raise RunError(
            f"{source} has no ancestor: its founders are {config.founders.kind}, or it was stopped before it had one. Give "
            "a checkpoint as the parent"
        )
    model = config.model
    host = spec_of(model.arch, num_classes=1, width=model.width, family=model.family)
    tensors: GeneTensors = RunStore.open(source).blobs.get(record["gene"])
    return Parent(gene_start(host, _full(host), tensors), image_size=config.data.image_size)


def _rule(learngene: Learngene, config: Config, name: str | None) -> Rule | None:
    """The rule of fine-tuning of that name, or else the configuration's; None for the plain one, which any start has."""
    name = config.transfer.fine_tuning if name is None else name
    if name == PLAIN:
        return None
    return fine_tuning_rule(name, config.transfer.options_of(name), genotype=learngene.genotype)


def _training(
    learngene: Learngene,
    config: Config,
    transfer: str,
    parent: Initialisation | Path | str | None,
    rule: Rule | None,
) -> Training | None:
    if transfer == NO_TRANSFER:
        if parent is not None:
            raise ConfigError(
                "a parent teaches nothing without a transfer; choose hkt or distillation, or leave it out"
            )
        return rule
    if transfer not in TRANSFERS:
        raise ConfigError(f"there is no transfer {transfer!r}; choose one of {', '.join((NO_TRANSFER, *TRANSFERS))}")
    if rule is not None:
        raise ConfigError(
            f"the rule {rule.name} and the transfer {transfer} both say how to train; take one of them, with --fine-tuning "
            f"plain or --transfer {NO_TRANSFER}"
        )
    if parent is None:
        raise ConfigError(
            f"the transfer {transfer} needs a parent: the state dict of a trained whole network, or a run, with --parent"
        )
    teacher = Parent(parent) if isinstance(parent, Initialisation) else parent_of(Path(parent), _host(learngene))
    return TRANSFERS[transfer](teacher, config.transfer)


def _images(data: str, config: Config, role: Role) -> ImageSet:
    request = parse_source(data) if data else None
    if request is not None and request.source == config.data.source and request.root is not None:
        config = changed_config(config, data={"root": request.root})
    return load(request_for(request, config, config.data.image_size, role), (role,))[role]


def _config(learngene: Learngene, data: str) -> Config:
    """The gene's own; without one the defaults, which say nothing about data.

    Raises:
        LearngeneError: there is none, and no other data are given.
    """
    try:
        return config_of(learngene)
    except LearngeneError as error:
        if not data:
            raise LearngeneError(f"{error}; say which data the descendant is to learn (--data SOURCE)") from None
        return Config(name="descendant", data=DataSection(source="glyphs"))


def _host(learngene: Learngene) -> ArchSpec:
    """The network that the gene was evolved in."""
    return ArchSpec(learngene.arch, tuple(learngene.genotype.sizes.items()), 1)


def _full(host: ArchSpec) -> Any:
    return gene_layout(host.arch, dict(host.widths)).full()
