"""Compact opponents of a learngene: descendants that are the thin network of its widths, all with as many parameters.

They say what a gene is worth to a small network, beside and together with what a parent can teach it. The parent is the
reference, a whole network trained on as many images as the learngene cost. In every trial it first learns the descendant's
classes as the start ``pretrained`` does, with that start's learning rate (`gtl.transfer.lessons`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from gtl.learngene.setting import Entrant, Setting, cost
from gtl.learngene.starts import thin_start
from gtl.models import build
from gtl.transfer.lessons import Distillation, HereditaryTransfer, Lesson, Parent


def _parent(setting: Setting) -> Parent:
    rates = tuple((shots, rate) for (_, shots), rate in setting.rates_of_whole.items())
    return Parent(setting.whole, rates, setting.world.train.image_size)


def _entrant(setting: Setting, name: str, *, gene: bool, lesson: type[Lesson] | None = None) -> Entrant:
    own = setting.learngene
    start = thin_start(setting.world.host, own.genotype, own.tensors if gene else None)
    images = cost(own) if gene else 0
    counts, world = own.genotype.counts, setting.world
    about: dict[str, Any] = {
        "counts": list(counts.values()),
        "convolution_parameters": world.layout.circuit_parameters(counts),
    }
    if lesson is not None:
        lesson.check(
            start(2, 0), build(replace(world.host, num_classes=2)), world.train.image_size, world.config.transfer
        )
        images = (images or 0) + setting.images
        start = replace(start, training=lesson(_parent(setting), world.config.transfer))
        about["parent"] = {"images": setting.images, "fine_tuning_steps": world.config.fewshot.steps}
        about["transfer"] = world.config.transfer.lessons
    return Entrant(name, start, float(gene), images, about)


def scratch(setting: Setting) -> list[Entrant]:
    """Nothing inherited, nobody teaches."""
    return [_entrant(setting, "compact scratch", gene=False)]


def learngene(setting: Setting) -> list[Entrant]:
    """The gene alone, as a network of its own."""
    return [_entrant(setting, "compact learngene", gene=True)]


def distillation(setting: Setting) -> list[Entrant]:
    """A random network that is asked for its parent's answers."""
    return [_entrant(setting, "compact distillation", gene=False, lesson=Distillation)]


def hkt(setting: Setting) -> list[Entrant]:
    """A random network into which its parent's features are mixed while it learns."""
    return [_entrant(setting, "compact HKT", gene=False, lesson=HereditaryTransfer)]


def learngene_hkt(setting: Setting) -> list[Entrant]:
    """The gene alone, and its parent's features mixed in."""
    return [_entrant(setting, "compact learngene + HKT", gene=True, lesson=HereditaryTransfer)]


COMPACT: dict[str, Callable[[Setting], list[Entrant]]] = {
    "compact-scratch": scratch,
    "compact-learngene": learngene,
    "compact-distillation": distillation,
    "compact-hkt": hkt,
    "compact-learngene-hkt": learngene_hkt,
}
