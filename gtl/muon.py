"""Muon, an optimiser of matrices (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/), quick without bfloat16.

Does what `torch.optim.Muon` does. That one computes in bfloat16, which CPUs without units for it take many times as long
for, and multiplies wide matrices where square ones of their rows will do.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

COEFFICIENTS = (
    3.4445,
    -4.7750,
    2.0315,
)  # of the quintic: steepest at zero, and within 0.7 to 1.2 of one after five turns
TURNS = 5


class Muon(torch.optim.Optimizer):
    """Moves every matrix along the nearest orthogonal matrix to its momentum.

    Args:
        matrices: each with at least one row and column. Kernels of convolutions are matrices of a row for each output channel.
        lr: length of an update in every direction of a matrix that is wider than tall; of a taller one it is longer by the
            root of height over width.
        momentum: share of the past in the running mean of gradients.
        weight_decay: decoupled; shrinks by ``lr * weight_decay`` in a step.
        nesterov: look ahead by one step.
    """

    def __init__(
        self, matrices: Iterable[torch.Tensor], *, lr: float, momentum: float, weight_decay: float, nesterov: bool
    ) -> None:
        super().__init__(matrices, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "nesterov": nesterov})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # without closures
        """One update of all matrices that have a gradient."""
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                state = self.state[matrix]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(matrix)
                mean = state["momentum_buffer"].lerp_(matrix.grad, 1 - group["momentum"])
                update = matrix.grad.lerp(mean, group["momentum"]) if group["nesterov"] else mean
                length = group["lr"] * max(1.0, matrix.shape[0] / matrix[0].numel()) ** 0.5
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                matrix.add_(_orthogonal_rows(update), alpha=-length)


def _orthogonal_rows(tensor: torch.Tensor) -> torch.Tensor:
    """`orthogonal` of a row for each of the first dimension, in the shape and the memory layout of the tensor."""
    if tensor.ndim == 4 and not tensor.is_contiguous():
        return _orthogonal_rows(tensor.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    return orthogonal(tensor.flatten(1)).view(tensor.shape)


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """About the nearest matrix whose singular values are one, by Newton-Schulz iterations; those that are zero stay so.

    Every turn multiplies by a polynomial of the matrix times its transpose. Such polynomials commute, so turns are taken on
    square matrices of the shorter side, and the matrix itself is multiplied once. In float32: what rounding does to the
    smallest singular values grows from turn to turn, and fewer bits would not bear it.
    """
    a, b, c = COEFFICIENTS
    short = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    short = short.float()
    short = short / short.norm().clamp(min=1e-7)  # no singular value above one
    gram = short @ short.T
    factor = unit = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    for turn in range(TURNS):
        polynomial = torch.addmm(a * unit + b * gram, gram, gram, alpha=c)
        factor = polynomial @ factor
        if turn + 1 < TURNS:
            gram = polynomial @ gram @ polynomial
    found: torch.Tensor = (factor @ short).to(matrix.dtype)
    return found if matrix.shape[0] <= matrix.shape[1] else found.T
