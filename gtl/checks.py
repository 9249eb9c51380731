"""Checks that need the data or the network: what a Config alone cannot know, asked before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from gtl.config import Config
from gtl.errors import ConfigError
from gtl.models import FAMILIES, gene_layout, spec_of


def check_feasible(
    config: Config, class_counts: Mapping[str, int], images_per_class_min: Mapping[str, int], *, name: str = ""
) -> None:
    """Refuse combinations that cannot be run on these data and this network.

    Args:
        config: the configuration.
        class_counts: role (``train``, ``val``, ``novel``) -> number of classes, for the roles that are known.
        images_per_class_min: role -> images of its smallest class.
        name: the file, for messages; the configuration's own name if left out.

    Raises:
        ConfigError: every problem at once, each with key, value and remedy.
    """
    network = list(_network_problems(config))
    problems = [
        *network,
        *([] if network else _budget_problems(config)),
        *_class_problems(config, class_counts),
        *_image_problems(config, images_per_class_min),
        *_batch_problems(config, class_counts, images_per_class_min),
    ]
    if not problems:
        return
    name = name or config.name
    if len(problems) == 1:
        raise ConfigError(f"{name}: {problems[0]}")
    raise ConfigError("\n  ".join([f"{name}: {len(problems)} problems", *problems]))


def _network_problems(config: Config) -> Iterator[str]:
    families = FAMILIES[config.model.arch].base_widths
    if config.model.family not in families:
        yield (
            f"model.family = {config.model.family!r}: {config.model.arch} has no such width family; "
            f"it has {', '.join(families)}"
        )
        return
    widths = _widths(config)
    smallest = min(widths, key=lambda group: widths[group])
    if config.gene.min_channels > widths[smallest]:
        yield (
            f"gene.min_channels = {config.gene.min_channels}: group {smallest} of {config.model.arch} at model.width = "
            f"{config.model.width:g} has {widths[smallest]} channels; lower gene.min_channels or raise model.width"
        )


def _widths(config: Config) -> dict[str, int]:
    model = config.model
    return dict(spec_of(model.arch, num_classes=1, width=model.width, family=model.family).widths)


def _budget_problems(config: Config) -> Iterator[str]:
    gene = config.gene
    layout = gene_layout(config.model.arch, _widths(config))
    least = layout.circuit_share(dict.fromkeys(layout.groups, gene.min_channels))
    for key, share in (("gene.budget", gene.budget), ("gene.initial_share", gene.initial_share[1])):
        if share < least:
            lower = ", or lower gene.min_channels" if gene.min_channels > 1 else ""
            yield (
                f"{key} = {share:g}: {gene.min_channels} channel(s) in every group of {config.model.arch} at "
                f"model.width = {config.model.width:g} already hold a share of {least:.3g}; "
                f"raise {key} or model.width{lower}"
            )


def _class_problems(config: Config, counts: Mapping[str, int]) -> Iterator[str]:
    wanted = (("life.n_way", config.life.n_way, "train"), ("critic.n_way", config.critic.n_way or 2, "val"))
    for key, n_way, role in wanted:
        if role in counts and n_way > counts[role]:
            value = "all" if key == "critic.n_way" and config.critic.n_way is None else n_way
            remedy = f"lower {key} to at most {counts[role]} or " if counts[role] >= 2 else ""
            yield (
                f"{key} = {value}: {config.data.source} has {counts[role]} {role} class(es), {n_way} are needed; "
                f"{remedy}use more classes (data.{role}_classes, where the source has no published split)"
            )


def _image_problems(config: Config, images: Mapping[str, int]) -> Iterator[str]:
    critic, fewshot = config.critic, config.fewshot
    shots = max(fewshot.shots)
    wanted = (
        ("critic.fit_images", critic.fit_images, "critic.score_images", critic.score_images, "val"),
        ("fewshot.shots (largest)", shots, "fewshot.test_images", fewshot.test_images, "novel"),
    )
    for first, a, second, b, role in wanted:
        if role in images and a + b > images[role]:
            more = " or raise data.images_per_class" if config.data.images_per_class is not None else ""
            yield (
                f"{first} = {a} and {second} = {b} need {a + b} images a class; the smallest {role} class of "
                f"{config.data.source} has {images[role]}; lower one of them{more}"
            )
    if "val" in images and len(fewshot.learning_rates) > 1 and shots >= images["val"]:
        yield (
            f"fewshot.shots (largest) = {shots}: learning rates are chosen on validation classes, the smallest of "
            f"{config.data.source} has {images['val']} images; lower it or give one value in fewshot.learning_rates"
        )


def _batch_problems(config: Config, counts: Mapping[str, int], images: Mapping[str, int]) -> Iterator[str]:
    """Batches that are larger than the smallest set they could be drawn from."""
    if "train" not in counts or "train" not in images:
        return
    sets = []
    if config.life.steps:
        sets.append(("life.training.batch_size", config.life.training.batch_size, config.life.n_way))
    if config.founders.kind == "ancestor" and config.founders.checkpoint is None:
        sets.append(("founders.training.batch_size", config.founders.training.batch_size, counts["train"]))
    for key, batch, n_way in sets:
        n_images = min(n_way, counts["train"]) * images["train"]
        if batch > n_images:
            yield (
                f"{key} = {batch}: {min(n_way, counts['train'])} classes with {images['train']} images give only "
                f"{n_images}; lower {key} to at most {n_images}"
            )
