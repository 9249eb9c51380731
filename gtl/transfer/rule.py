"""What the rules of fine-tuning share: options that are checked, a digest, and draws that hang on seed and step alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, ClassVar

import torch

from gtl.config import TrainingSection
from gtl.data.images import ImageSet
from gtl.errors import ConfigError
from gtl.genotype import Genotype
from gtl.seeds import derive
from gtl.training import Compute, Progress, TrainingResult, train
from gtl.versions import source_digest

OnEpoch = Callable[[Progress], None] | None


@dataclass(frozen=True)
class Rule:
    """A way to fine-tune a descendant (`gtl.fewshot.Training`): a value whose fields are its options."""

    name: ClassVar[str]

    def train(
        self,
        network: torch.nn.Module,
        images: ImageSet,
        recipe: TrainingSection,
        *,
        steps: int,
        seed: int,
        compute: Compute,
        on_epoch: OnEpoch = None,
    ) -> TrainingResult:
        """Train `network` in place by `gtl.training.train`, and as the rule says where it says otherwise.

        Args:
            on_epoch: is shown the network as the rule would hand it back if it ended then.
        """
        return train(network, images, recipe, steps=steps, seed=seed, compute=compute, on_epoch=on_epoch)

    @property
    def options(self) -> dict[str, Any]:
        """The fields by name, but for the gene's channels, which are the start's and no choice."""
        return {name: value for name, value in self._fields.items() if not isinstance(value, Genotype)}

    @cached_property
    def digest(self) -> str:
        """sha256 of the rule's name, its options, and the source of the modules that train by it."""
        plain = {n: value.to_json() if isinstance(value, Genotype) else value for n, value in self._fields.items()}
        own = [kind.__module__ for kind in type(self).__mro__ if kind.__module__.startswith("gtl.")]
        code = source_digest(*(f"{module.removeprefix('gtl.').replace('.', '/')}.py" for module in own))
        return hashlib.sha256(json.dumps([self.name, plain, code], sort_keys=True).encode()).hexdigest()

    @property
    def _fields(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def _check(self, option: str, low: float, high: float, ends: str = "[]", *, whole: bool = False) -> None:
        """Refuse an option outside an interval, whose `ends` are written as in mathematics: ``(]`` leaves `low` out."""
        value = getattr(self, option)
        fits = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
        above = fits and (value >= low if ends[0] == "[" else value > low)
        if not (above and (value <= high if ends[1] == "]" else value < high)):
            least, most = ("at least" if ends[0] == "[" else "above"), ("at most" if ends[1] == "]" else "below")
            kind = "whole number" if whole else "number"
            raise ConfigError(f"{self.name}: {option} is {value!r}; give a {kind} {least} {low:g} and {most} {high:g}")


def generator_of(seed: int, step: int, device: torch.device) -> torch.Generator:
    """What a rule draws from at one step, so that nothing hangs on the steps before."""
    return torch.Generator(device).manual_seed(derive(seed, "mask", step))


def head_names(network: torch.nn.Module) -> frozenset[str]:
    """Parameters of the classifier, which no gene carries: the last linear layer's."""
    linear = [name for name, module in network.named_modules() if isinstance(module, torch.nn.Linear)]
    return frozenset(f"{linear[-1]}.{name}" for name in ("weight", "bias")) if linear else frozenset()


@torch.no_grad()
def write(network: torch.nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Set the named parameters of a network."""
    for name, weight in weights.items():
        network.get_parameter(name).copy_(weight)


def shown(
    network: torch.nn.Module, weights: Callable[[], Mapping[str, torch.Tensor]], on_epoch: OnEpoch, first: int = 0
) -> OnEpoch:
    """`on_epoch` that sees these weights in the network, which gets its own back afterwards.

    Args:
        weights: what the rule would hand back now, by name.
        first: steps that were taken before this training.
    """
    if on_epoch is None:
        return None

    def show(progress: Progress) -> None:
        seen = weights()
        own = {name: network.get_parameter(name).detach().clone() for name in seen}
        write(network, seen)
        on_epoch(Progress(progress.step + first, progress.momentum))
        write(network, own)

    return show
