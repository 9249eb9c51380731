"""Muon: what torch's own does, and nothing where there is nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from gtl.muon import Muon, orthogonal


@pytest.mark.parametrize("shape", [(12, 108), (24, 12), (5, 5), (1, 9)])
def test_muon_is_torchs_muon(shape: tuple[int, int]) -> None:
    """Several steps of both, which differ by what bfloat16 leaves out."""
    start = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    options: dict[str, Any] = {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.1, "nesterov": True}
    ours, theirs = start.clone(), start.clone()
    both = ((ours, Muon([ours], **options)), (theirs, torch.optim.Muon([theirs], **options)))
    for step in range(3):
        gradient = torch.randn(shape, generator=torch.Generator().manual_seed(step + 1))
        for matrix, optimiser in both:
            matrix.grad = gradient.clone()
            optimiser.step()
    moved = (ours - start).abs().max()
    assert moved > 0.01 and (ours - theirs).abs().max() < 0.03 * moved


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_kernel_moves_as_its_matrix_and_lies_as_it_lay(memory_format: torch.memory_format) -> None:
    start, gradient = torch.randn(2, 6, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    options: dict[str, Any] = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1, "nesterov": True}
    kernel, matrix = start.clone().contiguous(memory_format=memory_format), start.flatten(1).clone()
    kernel.grad, matrix.grad = gradient.clone(), gradient.flatten(1).clone()  # the gradient may lie otherwise
    for moved in (kernel, matrix):
        Muon([moved], **options).step()
    assert kernel.is_contiguous(memory_format=memory_format)
    torch.testing.assert_close(kernel.flatten(1), matrix)
    assert (matrix - start.flatten(1)).abs().max() > 0.01


def test_a_matrix_that_is_nothing_stays_so() -> None:
    """A circuit's dead channels give rows of zeros, or a kernel without any gradient."""
    assert torch.equal(orthogonal(torch.zeros(3, 9)), torch.zeros(3, 9))
    tall = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    tall[2] = 0
    assert torch.equal(orthogonal(tall)[2], torch.zeros(3))
    assert torch.linalg.svdvals(orthogonal(tall)).min() > 0.5 and torch.linalg.svdvals(orthogonal(tall)).max() < 1.3
