"""Several networks of one shape trained at once on one device, as one network: their members do not meet.

`train_pack` is `train` for many. ``loop`` trains one after the other and is the reference; ``grouped`` lays the members'
channels side by side and computes grouped convolutions; ``vmap`` lets torch.func map over stacked weights. What is
fastest depends on shapes and on the device, and is measured (`gtl bench`). The members' numbers agree with the loop's to
rounding, not to the bit: sums run in another order.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Literal

import torch
from torch import nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional as F

from gtl.config import TrainingSection
from gtl.data.batches import Batches, Environment
from gtl.descent import Descent
from gtl.models import ConvNet
from gtl.training import Compute, Loss, Tail, TrainingResult, all_finite, place, train

Packing = Literal["loop", "grouped", "vmap"]
Scales = Sequence[Mapping[str, torch.Tensor] | None]


def train_pack(
    networks: Sequence[ConvNet],
    environments: Sequence[Environment],
    recipe: TrainingSection,
    *,
    steps: int,
    seeds: Sequence[int],
    compute: Compute,
    update_scales: Scales | None = None,
    losses: Sequence[Loss | None] | None = None,
    how: Packing = "grouped",
) -> list[TrainingResult]:
    """Train several networks in place, each on its own environment and with its own seed, by one recipe.

    Args:
        networks: of one shape; they are moved to `compute.device`.
        environments: one each; all must fill batches of one size.
        recipe, steps, compute: of all.
        seeds: one each; a member reads the batches that `train` would read with it.
        update_scales: one each, as `train` has it; None: no update is scaled.
        losses: one each, as `train` has it; only the loop knows other losses than the recipe's.
        how: by which means.

    Returns:
        One result each, in their order. A member that diverges does not touch the others. `seconds` is the pack's time
        shared out evenly.

    Raises:
        ValueError: the networks differ in shape, or their batches in size, or a loss that only the loop knows.
    """
    began = time.perf_counter()
    scales, asked = update_scales or [None] * len(networks), losses or [None] * len(networks)
    if how == "loop":
        return [
            train(network, environment, recipe, steps=steps, seed=seed, compute=compute, update_scale=scale, loss=loss)
            for network, environment, seed, scale, loss in zip(
                networks, environments, seeds, scales, asked, strict=True
            )
        ]
    if any(loss is not None for loss in asked):
        raise ValueError("networks with a loss of their own cannot be packed; train them with how='loop'")
    if len({network.spec for network in networks}) != 1:
        raise ValueError("networks of different shapes cannot be packed; train them with how='loop'")
    layout = compute.memory_format
    batches = [Batches(e, recipe.batch_size, seed, layout) for e, seed in zip(environments, seeds, strict=True)]
    if len({each.size for each in batches}) != 1:
        raise ValueError(f"the members' batches have {[each.size for each in batches]} images; one size is needed")
    for network in networks:
        place(network, compute)
        network.train()
    pack = PACKS[how](networks, layout)
    descent = Descent(pack.parameters, recipe, steps, pack.stacked_scales(scales))
    tail = Tail(steps)
    for step, members in enumerate(islice(zip(*batches, strict=False), steps)):
        labels = torch.stack([labels for _, labels in members])
        with compute.context():
            logits = pack.logits([inputs for inputs, _ in members])
        each = F.cross_entropy(
            logits.float().flatten(0, 1), labels.flatten(), label_smoothing=recipe.label_smoothing, reduction="none"
        )
        each = each.view(len(networks), -1).mean(1)
        descent.step(each.sum(), step)  # no member's gradient hangs on another's loss
        tail.add(step, each)
    pack.unpack()
    found = tail.mean().expand(len(networks)).tolist()
    seconds = (time.perf_counter() - began) / len(networks)
    return [
        TrainingResult(
            math.isfinite(loss) and all_finite(network.state_dict().values()), loss, steps * batches[0].size, seconds
        )
        for network, loss in zip(networks, found, strict=True)
    ]


class _Stacked:
    """Members' weights with a leading axis, and torch.func's map over it; each lies in memory as it came."""

    def __init__(self, networks: Sequence[ConvNet], _: torch.memory_format) -> None:
        self._networks = networks
        parameters, self._buffers = stack_module_state(list(networks))
        self.parameters = {name: nn.Parameter(tensor.detach()) for name, tensor in parameters.items()}
        self._shape = copy.deepcopy(networks[0]).to("meta").train()

    def logits(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """``(M, B, classes)`` for M batches ``(B, 3, S, S)``."""

        def one(state: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = functional_call(self._shape, state, (x,))
            return result

        result: torch.Tensor = vmap(one)({**self.parameters, **self._buffers}, torch.stack(list(inputs)))
        return result

    def stacked_scales(self, scales: Scales) -> dict[str, torch.Tensor] | None:
        """The members' factors, stacked as their weights are."""
        return _scales(scales, self.parameters, lambda name, parts: torch.stack(list(parts)))

    @torch.no_grad()
    def unpack(self) -> None:
        """Write the weights back into the members."""
        state = {**self.parameters, **self._buffers}
        for member, network in enumerate(self._networks):
            network.load_state_dict({name: tensor[member] for name, tensor in state.items()})


class _PackedLinear(nn.Module):
    """One linear layer for each member, on features that lie side by side: ``(B, M * in)`` -> ``(M, B, out)``."""

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.stack([layer.weight.detach() for layer in layers]))
        self.bias = nn.Parameter(torch.stack([layer.bias.detach() for layer in layers]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        members, _, inputs = self.weight.shape
        by_member = x.view(len(x), members, inputs).transpose(0, 1)
        return torch.baddbmm(self.bias[:, None], by_member, self.weight.transpose(1, 2))


class _Grouped:
    """Members' channels side by side in one network of the same class: convolutions become grouped, norms wide.

    It rests on what every ConvNet here is: between its convolutions, norms and head, all is done channel by channel.
    """

    def __init__(self, networks: Sequence[ConvNet], memory_format: torch.memory_format) -> None:
        self._networks, self._format = networks, memory_format
        self._packed = copy.deepcopy(networks[0]).train()
        for name, module in list(self._packed.named_modules()):
            members = [network.get_submodule(name) for network in networks]
            packed: nn.Module | None = None
            if isinstance(module, nn.Conv2d):
                packed = _grouped_convolution(members)
            elif isinstance(module, nn.BatchNorm2d):
                packed = _wide_norm(members)
            elif isinstance(module, nn.Linear):
                packed = _PackedLinear([member for member in members if isinstance(member, nn.Linear)])
            if packed is not None:
                parent, _, leaf = name.rpartition(".")
                setattr(self._packed.get_submodule(parent), leaf, packed)
        self._packed.to(memory_format=memory_format)
        self.parameters = dict(self._packed.named_parameters())

    def logits(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """``(M, B, classes)`` for M batches ``(B, 3, S, S)``."""
        side_by_side = torch.cat(list(inputs), dim=1).contiguous(memory_format=self._format)
        result: torch.Tensor = self._packed(side_by_side)
        return result

    def stacked_scales(self, scales: Scales) -> dict[str, torch.Tensor] | None:
        """The members' factors, laid out as their weights are."""

        def lay(name: str, parts: Iterable[torch.Tensor]) -> torch.Tensor:
            return torch.stack(list(parts)) if name.startswith("head.") else torch.cat(list(parts))

        return _scales(scales, dict(self._networks[0].named_parameters()), lay)

    @torch.no_grad()
    def unpack(self) -> None:
        """Write the weights back into the members."""
        count = len(self._networks)
        for name, tensor in self._packed.state_dict().items():
            if tensor.ndim == 0 or name.startswith("head."):  # counters, and what is stacked already
                parts: Iterable[torch.Tensor] = tensor.expand(count) if tensor.ndim == 0 else tensor
            else:
                parts = tensor.chunk(count)
            for network, part in zip(self._networks, parts, strict=True):
                network.state_dict()[name].copy_(part)


def _grouped_convolution(members: Sequence[nn.Module]) -> nn.Conv2d:
    layers = [member for member in members if isinstance(member, nn.Conv2d)]
    first, count = layers[0], len(layers)
    packed = nn.Conv2d(
        count * first.in_channels, count * first.out_channels, first.kernel_size, first.stride, first.padding,  # type: ignore[arg-type]
        groups=count * first.groups, bias=False, device=first.weight.device,
    )  # fmt: skip
    packed.weight = nn.Parameter(torch.cat([layer.weight.detach() for layer in layers]))
    return packed


def _wide_norm(members: Sequence[nn.Module]) -> nn.BatchNorm2d:
    layers = [member for member in members if isinstance(member, nn.BatchNorm2d)]
    first = layers[0]
    packed = nn.BatchNorm2d(len(layers) * first.num_features, first.eps, first.momentum, device=first.weight.device)
    states = [layer.state_dict() for layer in layers]
    packed.load_state_dict({
        name: tensor if tensor.ndim == 0 else torch.cat([state[name] for state in states])
        for name, tensor in states[0].items()
    })  # fmt: skip
    return packed


def _scales(
    scales: Scales,
    parameters: Mapping[str, torch.Tensor],
    lay: Callable[[str, Iterable[torch.Tensor]], torch.Tensor],
) -> dict[str, torch.Tensor] | None:
    """Factors of the members that have some, and ones for the others."""
    names = sorted({name for scale in scales for name in scale or ()} & parameters.keys())
    if not names:
        return None
    shapes = {name: next(scale[name].shape for scale in scales if scale and name in scale) for name in names}
    return {name: lay(name, [(scale or {}).get(name, torch.ones(shapes[name])) for scale in scales]) for name in names}


PACKS: Mapping[str, type[_Stacked] | type[_Grouped]] = {"grouped": _Grouped, "vmap": _Stacked}
