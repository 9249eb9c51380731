"""Seeded few-shot episodes that can be listed: a pure function of labels and a seed, which never looks at an image."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gtl.data.images import ImageSet
from gtl.errors import DataError
from gtl.seeds import rng


@dataclass(frozen=True, eq=False)
class Episode:
    """One N-way K-shot task, as positions in an ImageSet.

    Attributes:
        class_labels: int64 ``(n_way,)``, the labels of the episode's classes; row i of the others is class i.
        support: int64 ``(n_way, n_shot)``, rows to learn from.
        query: int64 ``(n_way, n_query)``, rows to be judged on; none of them in support.
    """

    class_labels: np.ndarray
    support: np.ndarray
    query: np.ndarray

    def to_json(self) -> dict[str, Any]:
        """The same in plain lists."""
        return {
            "class_labels": self.class_labels.tolist(),
            "support": self.support.tolist(),
            "query": self.query.tolist(),
        }

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Episode:
        """The inverse of `to_json`."""
        return cls(*(np.array(document[name], np.int64) for name in ("class_labels", "support", "query")))


def sample_episodes(
    images: ImageSet, n_way: int, n_shot: int, n_query: int, n_episodes: int, seed: int
) -> list[Episode]:
    """Episodes with classes and images drawn without replacement.

    Episode i depends on the labels, the numbers per episode, the seed and i: asking for more episodes keeps the first.

    Raises:
        DataError: fewer than n_way classes, a class with fewer than n_shot + n_query images (names it), or a number
            below one.
    """
    for name, value in (("n_way", n_way), ("n_shot", n_shot), ("n_query", n_query), ("n_episodes", n_episodes)):
        if value < 1:
            raise DataError(f"{images.source}: {name} is {value}, it must be at least 1")
    if images.n_classes < n_way:
        raise DataError(
            f"{images.source}: {n_way}-way episodes need {n_way} classes, the {images.role} classes are "
            f"{images.n_classes}; lower n_way"
        )
    # Labels are sorted (ImageSet checks), so a class is a range.
    labels = images.labels.cpu().numpy()
    bounds = np.searchsorted(labels, np.arange(images.n_classes + 1))
    need = n_shot + n_query
    for name, count in zip(images.class_names, np.diff(bounds).tolist(), strict=True):
        if count < need:
            raise DataError(
                f"{images.source}: class {name!r} has {count} images, {n_shot} shots and {n_query} queries need "
                f"{need}; lower them or add images"
            )
    return [_sample(bounds, n_way, n_shot, need, rng(seed, "episode", index)) for index in range(n_episodes)]


def episodes_digest(episodes: Sequence[Episode]) -> str:
    """sha256 of a list of episodes: equal digests are equal tasks, in the same order."""
    document = json.dumps([episode.to_json() for episode in episodes], separators=(",", ":"), sort_keys=True)
    return hashlib.sha256(document.encode()).hexdigest()


def _sample(bounds: np.ndarray, n_way: int, n_shot: int, need: int, generator: np.random.Generator) -> Episode:
    chosen = generator.choice(len(bounds) - 1, n_way, replace=False)
    rows = np.stack(
        [bounds[label] + generator.choice(bounds[label + 1] - bounds[label], need, replace=False) for label in chosen]
    )
    return Episode(chosen.astype(np.int64), rows[:, :n_shot], rows[:, n_shot:])
