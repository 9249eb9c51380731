"""Images, class splits, episodes and augmentation. `load` is the door; `gtl.data.sources` holds the registry."""

from gtl.data.augment import Augmenter, to_input
from gtl.data.episodes import Episode, episodes_digest, sample_episodes
from gtl.data.images import ROLES, ImageSet, Role, Splits, refuse_novel
from gtl.data.request import DataRequest
from gtl.data.sources import describe, load, parse_source

__all__ = [
    "ROLES",
    "Augmenter",
    "DataRequest",
    "Episode",
    "ImageSet",
    "Role",
    "Splits",
    "describe",
    "episodes_digest",
    "load",
    "parse_source",
    "refuse_novel",
    "sample_episodes",
    "to_input",
]
