"""Mixture: how the features of a child and of its parent become one (Genetic Attention and its relatives).

With q the child's features, p the parent's in the same shape, s the agreement of the two and L the strength, all are

    fused = q + L * g * (v - q)

so that nothing changes where L is 0:

=================  =====  =========  =============================================================================
mixer              v      g          source
=================  =====  =========  =============================================================================
``static``         p      1          the fixed weights in HKT's code: 0.7 of the parent, 0.3 of the child
``genetic``        p      1 - s      HKT's Genetic Attention as released (arXiv 2508.09743), L = 0.6. There it reads
                                     q + L * (p - GA), GA = s * p + (1 - s) * q, which is the same
``genetic-agree``  p      s          the same with the sign that LePoKet has: more where the two agree
``learnable``      Wv p   (a + m)/2  LePoKet (arXiv 2609.16637, equations 4 to 8), L learned, too
=================  =====  =========  =============================================================================

Agreement is ``s = sigmoid(<q, p> / sqrt(C))`` with the inner product over channels: one number a sample for features
``(B, C)``, one a sample and place for maps ``(B, C, H, W)``. Maps are *not* weighted by a softmax over places, as an unused
variant in HKT's code has it: without a factor H * W that shrinks every activation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn
from torch.nn import functional as F

from gtl.errors import ConfigError


def agreement(q: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    """``sigmoid(<q, p> / sqrt(C))`` over the channels: ``(B, C, ...)`` twice -> float32 ``(B, 1, ...)``."""
    return torch.sigmoid((q.float() * p.float()).sum(1, keepdim=True) / q.shape[1] ** 0.5)


class ChannelMap(nn.Module):
    """A linear map of channels, the same at every place: ``(B, in)`` -> ``(B, out)``, or so with ``(H, W)`` behind.

    Args:
        inputs, outputs: channels.
        bias: whether it adds one, zero at first.
        weight: ``(outputs, inputs)`` to begin with.
    """

    def __init__(self, inputs: int, outputs: int, weight: torch.Tensor, *, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.reshape(outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map the channels of ``(B, in)`` or ``(B, in, H, W)``."""
        if x.ndim == 2:
            return F.linear(x, self.weight, self.bias)
        return F.conv2d(x, self.weight[:, :, None, None], self.bias)


class Mixer(nn.Module):
    """Fuses a child's and a parent's features of one shape.

    Args:
        strength: L of the module's formula.
        gate: g: ``(q, p)`` -> ``(B, 1, ...)``.
    """

    def __init__(self, strength: float, gate: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.strength: float | torch.Tensor = strength
        self._gate = gate

    def gate(self, q: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
        """g: how far the strength is used, ``(B, 1, ...)`` in 0..1."""
        return self._gate(q, p)

    def value(self, p: torch.Tensor) -> torch.Tensor:
        """v: what is inherited, shaped as `p`."""
        return p

    def forward(self, q: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
        """Child's and parent's features ``(B, C)`` or ``(B, C, H, W)`` -> the fused ones, of the same shape and type."""
        return (q + self.strength * self.gate(q, p) * (self.value(p) - q)).to(q.dtype)


class LearnableMixer(Mixer):
    """LePoKet's mixture: query, key and value are linear maps, and the gate is the mean of two.

    With Q = Wq q and K = Wk p the gates are ``sigmoid(<Q, K> / sqrt(C))`` and ``sigmoid(MLP(Q * K))``. As in the released
    code, maps have no bias and begin He-normal, and the strength is free to leave 0..1. The paper does not say how wide the
    MLP's hidden layer is: here as wide as the features.

    Args:
        strength: to begin with. The released code draws it from U(0, 1).
        channels: C.
        generator: draws the maps.
    """

    def __init__(self, strength: float, channels: int, generator: torch.Generator) -> None:
        super().__init__(strength, agreement)
        self.strength = nn.Parameter(torch.tensor(float(strength)))

        def drawn(outputs: int, *, bias: bool = False) -> ChannelMap:
            weight = nn.init.kaiming_normal_(torch.empty(outputs, channels), generator=generator)
            return ChannelMap(channels, outputs, weight, bias=bias)

        self.query, self.key, self.carried = drawn(channels), drawn(channels), drawn(channels)
        self.hidden, self.out = drawn(channels, bias=True), drawn(1, bias=True)

    def gate(self, q: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
        """Mean of the two gates."""
        query, key = self.query(q), self.key(p)
        learned = torch.sigmoid(self.out(F.relu(self.hidden(query * key))).float())
        return (agreement(query, key) + learned) / 2

    def value(self, p: torch.Tensor) -> torch.Tensor:
        """``Wv p``."""
        found: torch.Tensor = self.carried(p)
        return found


def _everywhere(q: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    return torch.ones_like(q[:, :1])


def _disagreement(q: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    return 1 - agreement(q, p)


# Mixer -> strength to begin with: those of the released code, and the mean of what it draws.
STRENGTHS: Mapping[str, float] = {"static": 0.7, "genetic": 0.6, "genetic-agree": 0.6, "learnable": 0.5}
_GATES = {"static": _everywhere, "genetic": _disagreement, "genetic-agree": agreement}


def make_mixer(name: str, strength: float | None, channels: int, generator: torch.Generator) -> Mixer:
    """A mixer by name.

    Args:
        name: one of STRENGTHS.
        strength: None: that of the released code.
        channels: of what it fuses.
        generator: draws what is learned.

    Raises:
        ConfigError: there is no such mixer.
    """
    if name not in STRENGTHS:
        raise ConfigError(f"there is no mixer {name!r}; choose one of {', '.join(STRENGTHS)}")
    strength = STRENGTHS[name] if strength is None else strength
    return LearnableMixer(strength, channels, generator) if name == "learnable" else Mixer(strength, _GATES[name])
