"""Episodes: a pure function of labels and seed, refused at construction, never looking at an image."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from gtl.data import Episode, ImageSet, Splits, episodes_digest, sample_episodes
from gtl.errors import DataError


class NoImages(ImageSet):
    """An image set whose images must not be opened."""

    def __init__(self, counts: list[int]) -> None:
        object.__setattr__(self, "labels", torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts)))
        object.__setattr__(self, "class_names", tuple(f"class {i}" for i in range(len(counts))))
        object.__setattr__(self, "role", "novel")
        object.__setattr__(self, "source", "double")

    @property
    def images(self) -> torch.Tensor:  # type: ignore[override]
        raise AssertionError("sampling must not open images")


COUNTS = [20, 9, 30, 12, 25, 10]


@pytest.fixture
def episodes() -> list[Episode]:
    return sample_episodes(NoImages(COUNTS), 5, 2, 6, 40, seed=3)


def test_shapes_classes_and_no_overlap(episodes: list[Episode]) -> None:
    labels = NoImages(COUNTS).labels.numpy()
    for episode in episodes:
        assert episode.support.shape == (5, 2) and episode.query.shape == (5, 6)
        assert episode.support.dtype == episode.query.dtype == episode.class_labels.dtype == np.int64
        rows = np.concatenate([episode.support, episode.query], 1)
        assert len(set(rows.ravel().tolist())) == rows.size
        assert (labels[rows] == episode.class_labels[:, None]).all()
        assert len(set(episode.class_labels.tolist())) == 5


def test_every_class_and_row_is_drawn() -> None:
    many = sample_episodes(NoImages(COUNTS), 5, 2, 6, 300, seed=0)
    drawn = np.concatenate([np.concatenate([e.support, e.query], 1).ravel() for e in many])
    assert set(drawn.tolist()) == set(range(sum(COUNTS)))


def test_the_same_seed_gives_the_same_list_and_more_keep_the_first(episodes: list[Episode]) -> None:
    again = sample_episodes(NoImages(COUNTS), 5, 2, 6, 40, seed=3)
    assert episodes_digest(again) == episodes_digest(episodes)
    longer = sample_episodes(NoImages(COUNTS), 5, 2, 6, 50, seed=3)
    assert episodes_digest(longer[:40]) == episodes_digest(episodes) != episodes_digest(longer)
    assert episodes_digest(sample_episodes(NoImages(COUNTS), 5, 2, 6, 40, seed=4)) != episodes_digest(episodes)


def test_json_round_trip(episodes: list[Episode]) -> None:
    text = json.dumps([episode.to_json() for episode in episodes])
    back = [Episode.from_json(document) for document in json.loads(text)]
    assert episodes_digest(back) == episodes_digest(episodes)
    assert len(episodes_digest(back)) == 64


def test_real_images(glyphs: Splits) -> None:
    (episode,) = sample_episodes(glyphs["novel"], 4, 1, 5, 1, seed=0)
    assert glyphs["novel"].images[torch.from_numpy(episode.query)].shape == (4, 5, 32, 32, 3)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((7, 1, 1, 1), "double: 7-way episodes need 7 classes, the novel classes are 6; lower n_way"),
        ((5, 5, 5, 1), "class 'class 1' has 9 images, 5 shots and 5 queries need 10; lower them"),
        ((0, 1, 1, 1), "n_way is 0, it must be at least 1"),
        ((5, 0, 1, 1), "n_shot is 0"),
        ((5, 1, 0, 1), "n_query is 0"),
        ((5, 1, 1, 0), "n_episodes is 0"),
    ],
)
def test_refused(numbers: tuple[int, int, int, int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        sample_episodes(NoImages(COUNTS), *numbers, seed=0)
