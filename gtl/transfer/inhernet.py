"""InherNet: a trained network's convolutions and linear layers as low-rank layers with experts, filled from its weights.

Zhou, Shi, Xu, Jiang and Chen 2026, "Beyond Student: An Asymmetric Network for Neural Network Inheritance" (arXiv
2602.09509), with what its successor InherAct adds as options. Where we depart from the published demo: docs/transfer.md.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from gtl.errors import ConfigError
from gtl.models import ArchSpec, ConvNet
from gtl.seeds import derive
from gtl.transfer.activation_moments import output_moments
from gtl.transfer.inhernet_options import InherNetOptions, InherNetReport, LayerReport
from gtl.transfer.low_rank import (
    InheritedConv2d,
    InheritedLinear,
    PrincipalAxes,
    as_matrix,
    inherited_layers,
    inherited_like,
)
from gtl.transfer.rank_choice import Candidate, Ranks, ranks_by_budget, ranks_by_energy, ranks_given

Layer = nn.Conv2d | nn.Linear


class BudgetError(ConfigError):
    """A budget that not even rank 1 in every layer keeps."""


def inhernet(
    network: nn.Module,
    options: InherNetOptions,
    *,
    images: torch.Tensor | None = None,
    classes: int | None = None,
    seed: int = 0,
) -> tuple[nn.Module, InherNetReport]:
    """The low-rank inheritor of a trained network; `network` is not changed.

    Every `nn.Conv2d` and `nn.Linear` becomes an `InheritedConv2d` or `InheritedLinear`, except those that the options keep
    dense, and those that would have no fewer parameters. All else, norms with their statistics too, is copied.

    Args:
        network: any; layers of classes derived from these two stay as they are, since their forward pass may be another.
        options: size, experts, start.
        images: weigh what each layer keeps by its activations on these: uint8 ``(N, H, W, 3)``, normalised as gtl does, or
            the network's inputs as they are. None: plain singular value decomposition.
        classes: give it a fresh classifier for so many classes; None: the source's is kept.
        seed: of gates or deviations, and of a fresh classifier.

    Raises:
        ConfigError: no layer that could become low-rank, a grouped convolution, weights shared between layers, a rank over a
            layer's maximum, or a budget that not even rank 1 keeps; names the layer and the remedy.
        DataError: images that lead to values that are not finite.
    """
    inheritor, report = equal_experts(network, options, images=images, classes=classes, seed=seed)
    tell_apart(inheritor, options.deviation, derive(seed, "experts"))
    return inheritor, report


def equal_experts(
    network: nn.Module,
    options: InherNetOptions,
    *,
    images: torch.Tensor | None = None,
    classes: int | None = None,
    seed: int = 0,
) -> tuple[nn.Module, InherNetReport]:
    """`inhernet` before its experts are told apart: they are equal, and gates are zero. Nothing in them is random."""
    layers = {name: module for name, module in network.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}
    dense = _dense_layers(network, layers, options, fresh=classes is not None)
    open_ = {name: layer for name, layer in layers.items() if name not in dense}
    if not open_:
        raise ConfigError(
            f"no layer of this network is left to become low-rank: {_listed(dense)}. Allow more with first, classifier "
            "(low-rank) or keep_dense"
        )
    _refuse_shared(network, open_)
    candidates = _candidates(network, open_, options, images)
    inheritor = copy.deepcopy(network)
    if classes is not None:
        _fresh_classifier(inheritor, _classifier_of(layers, options), classes, derive(seed, "classifier"))
    fixed = _parameters(inheritor) - sum(candidate.dense for candidate in candidates)
    ranks = _ranks(candidates, options, fixed, _parameters(network))
    for candidate in candidates:
        rank, layer = ranks[candidate.name], open_[candidate.name]
        if candidate.stays_dense(rank):
            full = rank >= candidate.full_rank
            why = f"not below its full rank {candidate.full_rank}" if full else "no smaller than the layer"
            dense[candidate.name] = f"rank {rank} is {why}"
            continue
        made = inherited_like(layer, rank, options.experts)
        bias = layer.bias
        if bias is not None and candidate.mean is not None:
            bias = bias + candidate.axes.left_out(candidate.mean, rank).to(bias)
        made.inherit(candidate.axes.factors(as_matrix(layer), rank), bias, options.scale)
        inheritor.set_submodule(candidate.name, made)
    kept = {c.name: c.axes.keeps(ranks[c.name]) for c in candidates if c.name not in dense}
    report = InherNetReport(
        tuple(_layer_report(name, layer, inheritor, dense, kept) for name, layer in layers.items()),
        options.experts,
        _parameters(network),
        _parameters(inheritor),
        images is not None,
    )
    return inheritor, report


def classifier_of(network: nn.Module, options: InherNetOptions) -> str:
    """Name of a network's classifier: its last linear layer, unless the options name another.

    Raises:
        ConfigError: there is none.
    """
    layers = {name: module for name, module in network.named_modules() if isinstance(module, nn.Linear)}
    return _classifier_of(layers, options)


def tell_apart(inheritor: nn.Module, deviation: float, seed: int) -> None:
    """Give equal experts what they need to become different, in place (`InherNetOptions.deviation`)."""
    for name, layer in inherited_layers(inheritor).items():
        layer.tell_apart(deviation, torch.Generator().manual_seed(derive(seed, name)))


def _dense_layers(
    network: nn.Module, layers: Mapping[str, Layer], options: InherNetOptions, *, fresh: bool
) -> dict[str, str]:
    """Layers that stay as they are, and why.

    Raises:
        ConfigError: no layers at all, names that no layer has, or a grouped convolution that nobody keeps dense.
    """
    if inherited_layers(network):
        raise ConfigError("this network is an InherNet already; merge its experts first (gtl.transfer.merge)")
    if not layers:
        raise ConfigError(
            f"{type(network).__name__} has no convolution (nn.Conv2d) and no linear layer to inherit from"
        )
    if "" in layers:
        raise ConfigError("a single layer is no network; put it into an nn.Sequential")
    unknown = [pattern for pattern in options.keep_dense if not any(fnmatchcase(name, pattern) for name in layers)]
    if unknown:
        raise ConfigError(f"keep_dense: no layer is called {', '.join(unknown)}; there are {_listed(layers)}")
    dense = {n: "in keep_dense" for n in layers if any(fnmatchcase(n, pattern) for pattern in options.keep_dense)}
    grouped = [n for n, x in layers.items() if isinstance(x, nn.Conv2d) and x.groups != 1 and n not in dense]
    if grouped:
        raise ConfigError(
            f"{_listed(grouped)}: a grouped convolution has no low-rank form here; keep it as it is with "
            f"keep_dense=[{', '.join(map(repr, grouped[:4]))}{', ...' if len(grouped) > 4 else ''}]"
        )
    first = next((name for name, layer in layers.items() if isinstance(layer, nn.Conv2d)), None)
    classifier = _classifier_of(layers, options, needed=fresh)
    if first is not None and options.first == "dense":
        dense.setdefault(first, "first convolution")
    if classifier and fresh:
        dense[classifier] = "classifier, fresh"
    elif classifier and options.classifier == "dense":
        dense.setdefault(classifier, "classifier")
    for name, layer in layers.items():
        if type(layer) not in (nn.Conv2d, nn.Linear):
            dense.setdefault(name, f"{type(layer).__name__}, whose forward pass may be its own")
    return dense


def _classifier_of(layers: Mapping[str, Layer], options: InherNetOptions, *, needed: bool = True) -> str:
    """Name of the classifier; empty if there is none and none is needed."""
    linear = [name for name, layer in layers.items() if isinstance(layer, nn.Linear)]
    if options.head and options.head not in linear:
        raise ConfigError(
            f"head {options.head!r} is no linear layer of this network; it has {_listed(linear) or 'none'}"
        )
    if needed and not linear:
        raise ConfigError("classes: the network has no linear layer that could be its classifier; leave classes out")
    return options.head or (linear[-1] if linear else "")


def _refuse_shared(network: nn.Module, layers: Mapping[str, Layer]) -> None:
    """Raise ConfigError if a weight that would be replaced is also somewhere else, which would keep the old one."""
    places: dict[int, list[str]] = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        places.setdefault(id(parameter), []).append(name)
    for name, layer in layers.items():
        found = places[id(layer.weight)]
        if len(found) > 1:
            raise ConfigError(
                f"{' and '.join(found)} are one shared weight; a low-rank {name} would no longer share it. Keep the layers "
                f"as they are with keep_dense=[{name!r}, ...]"
            )


def _candidates(
    network: nn.Module, layers: Mapping[str, Layer], options: InherNetOptions, images: torch.Tensor | None
) -> list[Candidate]:
    if options.centred and images is None:
        raise ConfigError("centred: there is no mean to take out without images to look at; give some")
    moments = {}
    if images is not None:
        moments = output_moments(network, layers, images, options.shrink, centred=options.centred)
    found = []
    for name, layer in layers.items():
        weight = as_matrix(layer)
        if not bool(torch.isfinite(weight).all()):
            raise ConfigError(
                f"{name}.weight has values that are not finite; its training diverged, give another network"
            )
        outputs, inputs = weight.shape
        moment, biased = moments.get(name), layer.bias is not None
        axes = PrincipalAxes.of(weight, None if moment is None else moment.second)
        mean = moment.mean if moment is not None and options.centred else None
        found.append(Candidate(name, inputs, outputs, biased, axes, options.experts, options.force, mean))
    return found


def _ranks(candidates: Sequence[Candidate], options: InherNetOptions, fixed: int, whole: int) -> Ranks:
    """Ranks as the options say.

    Args:
        fixed: parameters of the inheritor outside all candidates.
        whole: parameters of the source.
    """
    if options.rank is not None:
        return ranks_given(candidates, options.rank)
    if options.energy is not None:
        return ranks_by_energy(candidates, options.energy)
    assert options.budget is not None
    limit = int(options.budget * whole + 1e-6)  # a share that was computed from a count gives that count back
    least = fixed + sum(candidate.parameters(1) for candidate in candidates)
    if least > limit:
        raise BudgetError(
            f"budget {options.budget:g} allows {limit:,} of {whole:,} parameters, but rank 1 in every layer with "
            f"{options.experts} experts already makes {least:,}; the smallest possible budget is "
            f"{math.ceil(least / whole * 1e4) / 1e4:g}"
        )
    return ranks_by_budget(candidates, limit - fixed)


def _fresh_classifier(network: nn.Module, name: str, classes: int, seed: int) -> None:
    """Put a new classifier in the place of the old one, drawn as gtl's own heads are."""
    if classes < 1:
        raise ConfigError(f"classes {classes}: give 1 or more")
    old = network.get_submodule(name)
    assert isinstance(old, nn.Linear)
    with torch.random.fork_rng(devices=[]):  # torch's own constructor draws from the global generator
        head = nn.Linear(old.in_features, classes, bias=old.bias is not None)
    bound = old.in_features**-0.5
    with torch.no_grad():
        head.weight.uniform_(-bound, bound, generator=torch.Generator().manual_seed(seed))
        if head.bias is not None:
            head.bias.zero_()
    network.set_submodule(name, head.to(old.weight.device, old.weight.dtype).train(old.training))
    if isinstance(network, ConvNet):
        network.spec = ArchSpec(network.spec.arch, network.spec.widths, classes)


def _layer_report(
    name: str, layer: Layer, inheritor: nn.Module, dense: Mapping[str, str], kept: Mapping[str, float]
) -> LayerReport:
    full = min(layer.weight.shape[0], layer.weight[0].numel())
    now = inheritor.get_submodule(name)
    rank = now.rank if isinstance(now, InheritedConv2d | InheritedLinear) else None
    kind = "convolution" if isinstance(layer, nn.Conv2d) else "linear"
    return LayerReport(
        name, kind, rank, full, kept.get(name, 1.0), _parameters(layer), _parameters(now), dense.get(name, "")
    )


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _listed(names: Sequence[str] | Mapping[str, Any]) -> str:
    """The first few names."""
    found = list(names)
    return ", ".join(found[:4]) + (f" and {len(found) - 4} more" if len(found) > 4 else "")
