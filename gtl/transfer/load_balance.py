"""A loss that asks an InherNet's gates to use all experts alike."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from gtl.errors import ConfigError
from gtl.transfer.low_rank import inherited_layers


class LoadBalance:
    """Cross-entropy plus ``weight * (H * sum_h m_h^2 - 1)``, m the mean of a gate's H weights over the batch (InherAct).

    The term is 0 where all experts get the same weight on average, and H - 1 where one gets all; it is averaged over the
    layers. A `Loss` for `gtl.training.train`, inside its own ``with`` block, in which it listens to the gates:

    >>> with LoadBalance(network) as loss:                # doctest: +SKIP
    ...     train(network, images, recipe, loss=loss, ...)

    Args:
        network: an InherNet with two experts or more.
        weight: of the term.
        label_smoothing: of the cross-entropy.

    Raises:
        ConfigError: the network has no gates.
    """

    def __init__(self, network: nn.Module, weight: float = 0.01, label_smoothing: float = 0.0) -> None:
        self._gates = [layer.gate for layer in inherited_layers(network).values() if layer.gate is not None]
        if not self._gates:
            raise ConfigError("the network has no gates to balance; give an InherNet with two experts or more")
        self._weight, self._smoothing = weight, label_smoothing
        self._logits: dict[nn.Module, torch.Tensor] = {}
        self._hooks: list[Any] = []

    def __enter__(self) -> LoadBalance:
        self._hooks = [gate.register_forward_hook(self._hear) for gate in self._gates]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self._logits.clear()

    def _hear(self, gate: nn.Module, inputs: tuple[torch.Tensor, ...], logits: torch.Tensor) -> None:
        self._logits[gate] = logits

    def imbalance(self) -> torch.Tensor:
        """Mean over the layers of ``H * sum_h m_h^2 - 1``, of the batch that the network saw last; 0 before any."""
        found = []
        for logits in self._logits.values():
            mean = logits.float().softmax(dim=-1).flatten(0, -2).mean(dim=0)
            found.append(len(mean) * mean.square().sum() - 1)
        return torch.stack(found).mean() if found else torch.zeros(())

    def __call__(self, logits: torch.Tensor, labels: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
        """The loss of the batch that the network saw last."""
        hard = F.cross_entropy(logits, labels, label_smoothing=self._smoothing)
        return hard + self._weight * self.imbalance()
