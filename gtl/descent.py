"""How weights move in one step of a training: by a recipe's optimiser and its schedule of learning rates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from gtl.config import TrainingSection
from gtl.muon import Muon

MUON_RATE = 0.2  # of the learning rate: what an orthogonal update is moved by. Kernels 0.02 where the rest has 0.1


class Descent:
    """Descent by a recipe and its schedule, of one network's parameters or of several networks' in stacks.

    With ``optimiser: sgd`` everything moves by SGD with Nesterov momentum. With ``muon`` the convolutions' kernels, as matrices
    of a row for each output channel, move by Muon: the momentum's nearest orthogonal matrix, so that every direction that a
    kernel could take is moved alike (`gtl.muon`). Norms, biases and the head move by SGD as before.

    Args:
        parameters: by name.
        recipe: optimiser, learning rate, momentum, weight decay, schedule.
        steps: in all.
        update_scale: factors on updates, as `gtl.training.train` has them.
    """

    def __init__(
        self,
        parameters: Mapping[str, torch.nn.Parameter],
        recipe: TrainingSection,
        steps: int,
        update_scale: Mapping[str, torch.Tensor] | None,
    ) -> None:
        self._parameters, self.recipe, self._steps = list(parameters.values()), recipe, steps
        kernels = [p for p in self._parameters if recipe.optimiser == "muon" and p.ndim == 4]
        others = [p for p in self._parameters if all(p is not kernel for kernel in kernels)]
        common: dict[str, Any] = {
            "lr": 0.0,  # of every step its own
            "momentum": recipe.momentum,
            "weight_decay": recipe.weight_decay,
            "nesterov": recipe.momentum > 0,
        }
        self._optimisers: list[tuple[torch.optim.Optimizer, float]] = []  # each with its part of the learning rate
        if others:
            self._optimisers.append((torch.optim.SGD(others, fused=True, **common), 1.0))
        if kernels:
            self._optimisers.append((Muon(kernels, **common), MUON_RATE))
        self._states = {p: o.state[p] for o, _ in self._optimisers for p in o.param_groups[0]["params"]}
        scale = update_scale or {}
        self._scaled = [(parameters[n], factor.to(parameters[n])) for n, factor in scale.items() if n in parameters]

    def step(self, loss: torch.Tensor, step: int) -> None:
        """One update down the gradient of `loss`, with the learning rate of step number `step`."""
        rate = self.recipe.learning_rate * schedule(step, self._steps, self.recipe)
        for parameter in self._parameters:
            parameter.grad = None
        torch.autograd.backward(loss)
        before = [parameter.detach().clone() for parameter, _ in self._scaled]
        for optimiser, part in self._optimisers:
            optimiser.param_groups[0]["lr"] = part * rate
            optimiser.step()
        with torch.no_grad():
            for (parameter, factor), old in zip(self._scaled, before, strict=True):
                parameter.copy_(torch.where(factor == 0, old, old + factor * (parameter - old)))

    def momentum(self) -> tuple[torch.Tensor, ...]:
        """Momentum of every parameter; zero where the recipe has none, and the optimiser keeps no buffer."""
        buffers = [(parameter, self._states[parameter].get("momentum_buffer")) for parameter in self._parameters]
        return tuple(torch.zeros_like(p).detach() if buffer is None else buffer for p, buffer in buffers)

    def restore(self, momentum: Sequence[torch.Tensor]) -> None:
        """Go on with what `momentum` gave."""
        for parameter, buffer in zip(self._parameters, momentum, strict=True):
            # in the parameter's own memory layout: the fused optimiser walks through both as they lie in memory
            self._states[parameter]["momentum_buffer"] = torch.empty_like(parameter).copy_(buffer).detach()


def schedule(step: int, steps: int, recipe: TrainingSection) -> float:
    """Factor on the learning rate at `step` of `steps`: linear warm-up, then cosine to zero or constant."""
    warm = recipe.warmup * steps
    if step < warm:
        return (step + 1) / (warm + 1)
    if recipe.schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1.0, steps - warm)))
