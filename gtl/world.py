"""From a configuration to the world that every evaluation shares: images, host network, compute. All checks first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from gtl.checks import check_feasible
from gtl.config import Config, DataSection
from gtl.data.augment import Augmenter
from gtl.data.images import Role, Splits
from gtl.data.request import DataRequest
from gtl.data.sources import load
from gtl.life import World
from gtl.models import spec_of
from gtl.training import Compute, resolve_compute


def data_request(section: DataSection) -> DataRequest:
    """The data source's view of the configuration's data section."""
    return DataRequest(**section.model_dump())


def load_splits(config: Config, roles: Sequence[Role]) -> Splits:
    """The asked roles' images of the configuration's source, thinned to ``data.images_per_class``."""
    return load(data_request(config.data), roles)


def make_world(config: Config, *, computes: bool = True) -> World:
    """Load train and validation images, and refuse what cannot work, before anything is trained.

    Novel classes are not even loaded: only their names are known here.

    Args:
        computes: False in a driver that leaves all computing to workers: it needs no GPU, and takes no threads.

    Raises:
        ConfigError, DataError: with the key, the value and the remedy.
    """
    splits = load_splits(config, ("train", "val"))
    class_counts: dict[str, int] = {role: len(names) for role, names in splits.class_lists.items()}
    smallest: dict[str, int] = {role: min(images.class_counts.values()) for role, images in splits.sets.items()}
    check_feasible(config, class_counts, smallest)
    model = config.model
    host = spec_of(model.arch, num_classes=config.life.n_way, width=model.width, family=model.family)
    crops = Augmenter(splits["train"], pad=config.life.training.crop_padding)
    return World(
        config,
        host,
        replace(splits["train"], images=crops.images),  # the padded images are all that is kept of them
        splits["val"],
        resolve_compute(config.compute) if computes else Compute(torch.device("cpu"), None),
        {role: names for role, names in splits.class_lists.items()},  # noqa: C416 - widens the key type
        splits.digest,
        crops,
    )
