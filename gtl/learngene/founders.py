"""The ancestor: the trained network that the first genes are cut from, or a checkpoint of the user's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from gtl.config import Config, TrainingSection
from gtl.distillation import HEAD
from gtl.errors import EvolutionError
from gtl.learngene.checkpoint import read_checkpoint
from gtl.learngene.kept import find_tensors, keep_tensors
from gtl.learngene.starts import gene_start
from gtl.life import World
from gtl.models import ArchSpec, ConvNet, build
from gtl.resuming import Saved, resumed, saving, train_resumable
from gtl.seeds import derive
from gtl.surgery import GeneTensors
from gtl.training import TrainingResult, cpu_threads, train

SAVE_EVERY = 20.0  # seconds between saves of a training's progress
CHECKPOINT = "founders.checkpoint"
RATE, LIFE_RATE = "founders.training.learning_rate", "life.training.learning_rate"


def pretrain(
    world: World,
    steps: int,
    seed: int,
    *,
    saved: Saved | None = None,
    save: Callable[[Saved], None] | None = None,
    every: float = SAVE_EVERY,
) -> tuple[ConvNet, TrainingResult]:
    """Train a whole network on all train classes with the founders' recipe.

    Args:
        steps: optimiser steps.
        saved: go on from here; the result equals that of an uninterrupted training.
        save: called about every `every` seconds with what `saved` needs; None: killed, it goes on where it was by itself
            (`gtl.resuming`).
    """
    spec = ArchSpec(world.host.arch, world.host.widths, world.train.n_classes)
    network = build(spec, derive(seed, "weights"))
    recipe = world.config.founders.training
    images, seed = world.images_for(recipe), derive(seed, "training")
    if saved is None and save is None:
        result = train_resumable(
            network, images, recipe, key=world.pixels, steps=steps, seed=seed, compute=world.compute
        )
    else:
        result = train(
            network,
            images,
            recipe,
            steps=steps,
            seed=seed,
            compute=world.compute,
            resume=None if saved is None else resumed(network, saved),
            on_epoch=None if save is None else saving(network, save, every),
        )
    network.to("cpu").eval()
    return network, result


def training_steps(world: World, recipe: TrainingSection, images: int) -> int:
    """Steps of a recipe that consume `images` training images."""
    return max(1, images // min(recipe.batch_size, len(world.train.labels)))


def ancestor_images(config: Config, train_images: int) -> int:
    """Training images that the ancestor's training consumes."""
    return ancestor_steps(config, train_images) * min(config.founders.training.batch_size, train_images)


def ancestor_steps(config: Config, train_images: int) -> int:
    """Optimiser steps of the ancestor's training."""
    batch = min(config.founders.training.batch_size, train_images)
    return max(1, round(config.founders.epochs * (train_images // batch)))


class _PausedError(Exception):
    """Carries a training's progress out of it."""

    def __init__(self, saved: Saved) -> None:
        self.saved = saved


def ancestor_part(world: World, saved: Saved | None, seconds: float) -> Saved | tuple[GeneTensors, int]:
    """Train the ancestor for about so many seconds, up to the end of an epoch.

    Args:
        saved: where the part before has ended; None: from the beginning.

    Returns:
        The progress, or what `ancestor_tensors` gives if this was the last part.
    """

    def pause(progress: Saved) -> None:
        raise _PausedError(progress)

    try:
        return ancestor_tensors(world, saved=saved, save=pause, every=seconds)
    except _PausedError as paused:
        return paused.saved


def ancestor_tensors(
    world: World,
    *,
    saved: Saved | None = None,
    save: Callable[[Saved], None] | None = None,
    every: float = SAVE_EVERY,
) -> tuple[GeneTensors, int]:
    """The ancestor's tensors and the training images that it cost: its head included, if it was trained here.

    A checkpoint cost no images that we know of, and its head is left out: its classes need not be the train classes.

    Raises:
        EvolutionError: its training diverged.
        ConfigError: the checkpoint is not a state dict of this network.
    """
    config = world.config
    if config.founders.checkpoint is not None:
        return read_checkpoint(Path(config.founders.checkpoint), world.host, CHECKPOINT).tensors, 0
    steps = ancestor_steps(config, len(world.train.labels))
    with cpu_threads(config.founders.threads):
        network, result = pretrain(world, steps, derive(config.seed, "ancestor"), saved=saved, save=save, every=every)
    check_finite(result, "the ancestor's training", RATE, config.founders.training)
    state = network.state_dict()
    tensors = {name: state[name].detach().clone() for name in (*world.layout.inherited, *HEAD)}
    if config.founders.reuse:
        with cpu_threads(config.founders.threads):
            keep_tensors(world, _ancestor_key(config), tensors)
    return tensors, ancestor_images(config, len(world.train.labels))


def kept_ancestor(world: World) -> GeneTensors | None:
    """The ancestor that another run or comparison has trained here; None without one, or without ``founders.reuse``."""
    if not world.config.founders.reuse or world.config.founders.checkpoint is not None:
        return None
    with cpu_threads(world.config.founders.threads):
        return find_tensors(world, _ancestor_key(world.config))


def _ancestor_key(config: Config) -> dict[str, Any]:
    """What an ancestor depends on, besides its world."""
    founders = config.founders
    return {"kind": "ancestor", "epochs": founders.epochs, "training": founders.training.model_dump(mode="json")}


def fit_head(world: World, tensors: GeneTensors) -> tuple[GeneTensors, int]:
    """A head for the train classes on an ancestor that came without: trained on its frozen features for an epoch.

    Returns:
        The head's tensors, and the training images that they cost.
    """
    recipe = world.config.founders.training
    seed = derive(world.config.seed, "teacher")
    network = gene_start(world.host, world.layout.full(), tensors).probe(world.train.n_classes, derive(seed, "head"))
    steps = training_steps(world, recipe, len(world.train.labels))
    result = train(
        network, world.images_for(recipe), recipe, steps=steps, seed=derive(seed, "training"), compute=world.compute
    )
    check_finite(result, "the head of the checkpoint", RATE, recipe)
    return {name: network.state_dict()[name].detach().cpu().clone() for name in HEAD}, result.images


def check_finite(result: TrainingResult, what: str, key: str, recipe: TrainingSection) -> None:
    """Raise EvolutionError if a training diverged, naming the key of its learning rate."""
    if not result.finite:
        raise EvolutionError(f"{what} diverged (loss {result.loss}); lower {key} (now {recipe.learning_rate:g})")


def check_checkpoint(world: World) -> None:
    """Raise ConfigError if the configuration names a checkpoint that cannot be an ancestor."""
    if world.config.founders.checkpoint is not None:
        read_checkpoint(Path(world.config.founders.checkpoint), world.host, CHECKPOINT)
