"""Condense a trained network into a learngene at once, without evolution: what `gtl condense` does."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from safetensors.torch import save

from gtl.config import Config
from gtl.config_file import changed_config, config_hash
from gtl.errors import ConfigError
from gtl.evolution.founding import ALLOCATIONS, allocation
from gtl.learngene.allocation_search import search_allocation
from gtl.learngene.artifact import Learngene
from gtl.learngene.checkpoint import fitting
from gtl.learngene.oneshot import METHODS, Jury, OneShot, one_shot, picker
from gtl.learngene.records import make_learngene, plain_config
from gtl.life import World
from gtl.models import build
from gtl.seeds import derive
from gtl.surgery import gather
from gtl.versions import versions

SEARCHED = "searched"
KINDS = (*ALLOCATIONS, SEARCHED)


def condense(
    world: World,
    state: Mapping[str, torch.Tensor],
    *,
    method: str = "l1",
    budget: float | None = None,
    allocation: str = "uniform",
    source: Mapping[str, str] | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Learngene:
    """The learngene that one method cuts out of a trained network. Nothing is trained; novel classes are not seen.

    The norms' statistics of the whole network and of the gene are estimated on train images: the checkpoint may have seen
    images that were normalised in another way, and a circuit's norms no longer see what the network's saw.

    Args:
        world: host, data, critic and seed. Its images need not be those that the network was trained on.
        state: state dict of a network of ``world.host``; a head, of any number of classes, is left out.
        method: which channels of a group: one of METHODS (docs/condense.md).
        budget: largest share of the convolution parameters, above 0, up to 1; None: ``gene.budget`` of the configuration.
        allocation: how many of each group: ``uniform`` (the same share), ``early`` (the first half of the groups whole, as
            far as the budget goes), ``level`` (the same number, or the whole group), ``searched`` (`search_allocation`: by
            the critic, on validation classes).
        source: ``name`` and ``sha256`` of the file that the state comes from, for the provenance.

    Raises:
        ConfigError: unknown method or allocation, a budget that cannot be kept, or a state dict of another network.
        DataError: a validation class has too few images for the critic.
    """
    world, kind = replace(world, config=_settled(world, method, budget, allocation, source)), allocation
    layout, full, jury = world.layout, world.layout.full(), Jury.for_one_shots(world)
    tensors = fitting(state, world.host)
    whole, whole_accuracy = jury.cut(tensors, full)
    random = gather(build(world.host, derive(world.config.seed, "scratch")).state_dict(), layout, full)
    reference = {"scratch": jury.cut(random, full)[1], "pretrained": whole_accuracy}
    pick = picker(whole, layout, method, world.config.seed, world)
    cut: dict[str, Any] = {"channels": method, "allocation": kind, "budget": world.config.gene.budget}
    if kind == SEARCHED:
        found = search_allocation(world, whole, pick, say=say)
        counts = found.counts
        cut |= {"evaluations": found.evaluations, "fitness": found.fitness, "rules": found.rules}
    else:
        counts = _by_rule(world, kind)
    gene = one_shot(world, whole, counts, method, allocation=kind, pick=pick)
    if source is None:
        source = {"name": "state dict", "sha256": hashlib.sha256(save(tensors)).hexdigest()}
    return make_learngene(world, gene.genotype, gene.tensors, _provenance(world, gene, cut, source, reference))


def _by_rule(world: World, kind: str) -> dict[str, int]:
    size = world.config.gene
    return allocation(world.layout, kind, size.budget, size.min_channels)


def check_choices(method: str, allocation: str) -> None:
    """Raise ConfigError unless there is such a method and such an allocation."""
    for what, given, known in (("method", method, METHODS), ("allocation", allocation, KINDS)):
        if given not in known:
            raise ConfigError(f"unknown {what} {given!r}; known are {', '.join(known)}")


def _settled(
    world: World, method: str, budget: float | None, allocation: str, source: Mapping[str, str] | None
) -> Config:
    """The configuration as the gene carries it: with the budget, and with the checkpoint as its ancestor."""
    check_choices(method, allocation)
    size = world.config.gene
    budget = size.budget if budget is None else budget
    name = "state dict" if source is None else source["name"]
    config = changed_config(
        world.config,
        gene={"budget": budget, "initial_share": (budget, budget)},
        founders={"kind": "ancestor", "checkpoint": name},
        compute=world.compute.words,
    )
    least = world.layout.circuit_share({g: min(size.min_channels, w) for g, w in world.layout.groups.items()})
    if budget < least:
        raise ConfigError(
            f"budget {budget:g}: {size.min_channels} channel(s) in every group of this {world.host.arch} already hold a "
            f"share of {least:.3g}; raise the budget"
        )
    return config


def _provenance(
    world: World, gene: OneShot, cut: Mapping[str, Any], source: Mapping[str, str], reference: Mapping[str, float]
) -> dict[str, Any]:
    """Where the gene comes from. What the checkpoint cost in training images is not known here."""
    return {
        "method": "one-shot cut of a checkpoint",
        "cut": dict(cut),
        "checkpoint": dict(source),
        "config": plain_config(world.config),
        "config_hash": config_hash(world.config),
        "data": {"source": world.train.source, "classes": world.class_digest, "lists": world.class_lists},
        "seed": world.config.seed,
        "versions": versions(world.compute),
        "winner": {"fitness": gene.fitness},
        "critic": {"kind": world.config.critic.kind, "reference": dict(reference)},
        "images": {"ancestor": None, "lives": 0, "total": None},
    }
