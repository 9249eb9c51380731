"""Inherited layers: their size, what they compute at the start, and what lets their experts become different."""

from __future__ import annotations

import copy
import math
from itertools import product
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gtl.transfer.activation_moments import output_moments
from gtl.transfer.low_rank import (
    Factors,
    InheritedConv2d,
    InheritedLinear,
    PrincipalAxes,
    as_matrix,
    inherited_like,
    inherited_parameters,
)

CONVOLUTIONS: list[dict[str, Any]] = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 3, "stride": 2, "padding": 2, "dilation": 2, "bias": False},
    {"kernel_size": (1, 3), "padding": "same"},
    {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
    {"kernel_size": 1, "stride": 2, "bias": False},
]


def drawn(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def convolution(seed: int = 1, **options: Any) -> nn.Conv2d:
    layer = nn.Conv2d(5, 7, **options)
    fill(layer, seed)
    return layer


def linear(inputs: int = 9, outputs: int = 6, seed: int = 1) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    fill(layer, seed)
    return layer


def fill(layer: nn.Module, seed: int) -> None:
    with torch.no_grad():
        for number, parameter in enumerate(layer.parameters()):
            parameter.copy_(drawn(tuple(parameter.shape), seed + 10 * number))


def inherited(
    layer: nn.Conv2d | nn.Linear, rank: int, experts: int = 3, scale: float = 1.0, axes: PrincipalAxes | None = None
) -> InheritedConv2d | InheritedLinear:
    axes = axes or PrincipalAxes.of(as_matrix(layer))
    found = inherited_like(layer, rank, experts)
    found.inherit(axes.factors(as_matrix(layer), rank), layer.bias, scale)
    return found


def weight_of(factors: Factors) -> torch.Tensor:
    return factors.up @ factors.down


# --- size ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rank", "experts"), list(product((1, 4), (1, 2, 3))))
def test_layers_have_the_parameters_of_the_formula(rank: int, experts: int) -> None:
    for layer in (convolution(kernel_size=3), convolution(kernel_size=(1, 3), bias=False), linear()):
        made = inherited(layer, rank, experts)
        outputs, inputs = as_matrix(layer).shape
        bias = layer.bias is not None
        by_hand = rank * inputs + experts * outputs * rank + outputs * bias + (experts > 1) * (rank * experts + experts)
        actual = sum(parameter.numel() for parameter in made.parameters())
        assert actual == by_hand == inherited_parameters(inputs, outputs, rank, experts, bias=bias)


# --- what they compute at the start ----------------------------------------------------------------------------------


@pytest.mark.parametrize("options", CONVOLUTIONS, ids=str)
@pytest.mark.parametrize("experts", [1, 3])
def test_the_full_rank_is_the_convolution(options: dict[str, Any], experts: int) -> None:
    layer, x = convolution(**options), drawn((4, 5, 9, 9))
    made = inherited(layer, min(as_matrix(layer).shape), experts)
    made.tell_apart(0.0, torch.Generator().manual_seed(1))
    torch.testing.assert_close(made(x), layer(x), rtol=1e-5, atol=1e-5)
    channels_last = made.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(channels_last, layer(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(9,), (4, 9), (2, 3, 9)])
def test_the_full_rank_is_the_linear_layer(shape: tuple[int, ...]) -> None:
    layer, x = linear(), drawn(shape)
    for experts in (1, 3):
        made = inherited(layer, 6, experts)
        made.tell_apart(0.0, torch.Generator().manual_seed(1))
        torch.testing.assert_close(made(x), layer(x), rtol=1e-5, atol=1e-5)


def test_the_exact_start_is_the_truncated_layer_and_the_released_one_a_third_of_it() -> None:
    layer, x, rank = convolution(kernel_size=3, padding=1), drawn((4, 5, 9, 9)), 3
    left, values, right = torch.linalg.svd(layer.weight.detach().flatten(1), full_matrices=False)
    truncated = (left[:, :rank] * values[:rank]) @ right[:rank]
    wanted = F.conv2d(x, truncated.view_as(layer.weight), layer.bias, padding=1)
    exact, released = inherited(layer, rank), inherited(layer, rank, scale=1 / 3)
    for made in (exact, released):
        made.tell_apart(0.0, torch.Generator().manual_seed(1))
    torch.testing.assert_close(exact(x), wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(released(x), wanted / 3, rtol=1e-4, atol=1e-5)
    down, up = exact.down.weight.flatten(1), exact.up[0]
    torch.testing.assert_close(torch.linalg.vector_norm(down, dim=1), values[:rank].sqrt(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.linalg.vector_norm(up, dim=0), values[:rank].sqrt(), rtol=1e-4, atol=1e-5)


def test_images_have_gates_of_their_own() -> None:
    """The weighted mean of experts is taken image by image, whatever else is in the batch."""
    made, x = inherited(convolution(kernel_size=3, padding=1), 3), drawn((4, 5, 9, 9))
    fill(made, 3)
    assert isinstance(made, InheritedConv2d) and made.bias is not None
    features = made.down(x)
    gates = made.weights(features.mean(dim=(2, 3)))
    assert not torch.allclose(gates[0], gates[1]) and torch.allclose(gates.sum(1), torch.ones(4))
    outputs = [F.conv2d(features, up[:, :, None, None]) for up in made.up]
    wanted = sum(gates[:, h, None, None, None] * y for h, y in enumerate(outputs)) + made.bias[:, None, None]
    torch.testing.assert_close(made(x), wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(made(x[2:3]), wanted[2:3], rtol=1e-4, atol=1e-4)


# --- which directions are kept ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [1, 3, 5])
def test_no_weight_of_the_rank_is_nearer(rank: int) -> None:
    """Eckart and Young: the error is what the singular values that were dropped say, and nothing found by descent is less."""
    layer = convolution(kernel_size=3)
    weight, axes = as_matrix(layer), PrincipalAxes.of(as_matrix(layer))
    values = torch.linalg.svdvals(weight)
    error = (weight - weight_of(axes.factors(weight, rank))).norm()
    assert float(error) == pytest.approx(float(values[rank:].square().sum().sqrt()), rel=1e-9)
    assert axes.kept()[rank - 1] == pytest.approx(float(values[:rank].square().sum() / values.square().sum()))
    for seed in range(3):
        up = drawn((7, rank), seed).double()
        for _ in range(200):  # alternating least squares
            down = torch.linalg.lstsq(up, weight).solution
            up = torch.linalg.lstsq(down.T, weight.T).solution.T
        assert (weight - up @ down).norm() >= error * (1 - 1e-9)


def test_weighted_axes_are_those_of_the_weight_times_the_root_of_the_moment() -> None:
    """As InherAct writes it: M = C C^T, the decomposition of W C cut off, and C^-1 from the right."""
    layer, rank, shrink = linear(9, 6), 3, 0.01
    x = drawn((40, 9), 5) * torch.logspace(-1, 1, 9) + 0.5
    moment = (x.double().T @ x.double()) / len(x)
    moment = (1 - shrink) * moment + shrink * moment.trace() / 9 * torch.eye(9, dtype=torch.float64)
    root = torch.linalg.cholesky(moment)
    left, values, right = torch.linalg.svd(as_matrix(layer) @ root, full_matrices=False)
    wanted = (left[:, :rank] * values[:rank]) @ right[:rank] @ torch.linalg.inv(root)
    network = nn.Sequential(layer)
    found = output_moments(network, {"0": layer}, x, shrink)["0"].second
    axes = PrincipalAxes.of(as_matrix(layer), found)
    torch.testing.assert_close(weight_of(axes.factors(as_matrix(layer), rank)), wanted, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(axes.energies, values.square(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("options", CONVOLUTIONS, ids=str)
def test_moments_are_those_of_the_patches(options: dict[str, Any]) -> None:
    layer, x = convolution(**options), drawn((6, 5, 9, 9), 4)
    patches = patches_of(layer, x).double()
    moment = patches.T @ patches / len(patches)
    weight = as_matrix(layer)
    for shrink in (0.0, 0.3):
        shrunk = (1 - shrink) * moment + shrink * moment.trace() / len(moment) * torch.eye(len(moment))
        found = output_moments(nn.Sequential(layer), {"0": layer}, x, shrink)["0"].second
        torch.testing.assert_close(found, weight @ shrunk @ weight.T, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rank", range(1, 7))
def test_weighted_axes_lose_no_more_of_the_outputs_than_plain_ones(rank: int) -> None:
    layer, x = convolution(kernel_size=3, padding=1), drawn((6, 5, 9, 9), 4)
    x = x * torch.logspace(-1, 1, 5)[:, None, None]
    moments = output_moments(nn.Sequential(layer), {"0": layer}, x, 0.0)
    weighted = PrincipalAxes.of(as_matrix(layer), moments["0"].second)
    lost = {name: lost_outputs(layer, inherited(layer, rank, axes=axes), x) for name, axes in
            (("plain", PrincipalAxes.of(as_matrix(layer))), ("weighted", weighted))}  # fmt: skip
    assert lost["weighted"] < lost["plain"] * 0.95
    assert lost["weighted"] == pytest.approx(1 - float(weighted.kept()[rank - 1]), abs=1e-5)


@pytest.mark.parametrize("rank", range(1, 7))
def test_centred_axes_lose_no_more_of_how_outputs_vary(rank: int) -> None:
    """And the mean, left to the bias, is the layer's own: together the best affine map of the rank."""
    layer, x = convolution(kernel_size=3), drawn((6, 5, 9, 9), 4) + 3.0
    rows, lost = layer(x).detach().movedim(1, -1).flatten(0, -2).double(), {}
    rows = rows - layer.bias.detach()
    for centred in (False, True):
        moment = output_moments(nn.Sequential(layer), {"0": layer}, x, 0.0, centred=centred)["0"]
        torch.testing.assert_close(moment.mean, rows.mean(0), rtol=1e-5, atol=1e-6)
        axes = PrincipalAxes.of(as_matrix(layer), moment.second)
        left = axes.left_out(moment.mean, rank)
        factors = axes.factors(as_matrix(layer), rank)
        given = rows @ torch.linalg.pinv(as_matrix(layer)).T @ weight_of(factors).T + left
        torch.testing.assert_close(given.mean(0), rows.mean(0), rtol=1e-4, atol=1e-4)
        lost[centred] = float((given - rows).square().sum() / (rows - rows.mean(0)).square().sum())
        if centred:
            torch.testing.assert_close(moment.second, torch.cov(rows.T, correction=0), rtol=1e-4, atol=1e-5)
            assert lost[centred] == pytest.approx(1 - axes.keeps(rank), abs=1e-5)
    assert lost[True] < 0.95 * lost[False]


def lost_outputs(layer: nn.Conv2d, made: nn.Module, x: torch.Tensor) -> float:
    """Share of the mean squared output, without bias, that is lost."""
    assert layer.bias is not None
    with torch.no_grad():
        outputs = layer(x)
        return float((made(x) - outputs).square().sum() / (outputs - layer.bias[:, None, None]).square().sum())


def patches_of(layer: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    """Everything that the kernel reads, ``(places, inputs)``: read out of the layer with one-hot kernels."""
    inputs = layer.weight[0].numel()
    reader = nn.Conv2d(
        layer.in_channels, inputs, layer.kernel_size, layer.stride, layer.padding, layer.dilation,
        bias=False, padding_mode=layer.padding_mode,
    )  # fmt: skip
    with torch.no_grad():
        reader.weight.copy_(torch.eye(inputs).view_as(reader.weight))
        return reader(x).movedim(1, -1).flatten(0, -2)


# --- what lets experts become different ------------------------------------------------------------------------------


def gate_gradient(made: InheritedConv2d | InheritedLinear, x: torch.Tensor) -> float:
    made.zero_grad()
    made(x).square().mean().backward()
    assert made.gate is not None and made.gate.weight.grad is not None
    return float(made.gate.weight.grad.abs().max())


@pytest.mark.parametrize("layer", [convolution(kernel_size=3, padding=1), linear()], ids=["convolution", "linear"])
def test_deviations_that_sum_to_zero_change_nothing_and_give_the_gate_a_gradient(layer: nn.Conv2d | nn.Linear) -> None:
    layer = copy.deepcopy(layer).double()
    x = drawn((4, 5, 9, 9) if isinstance(layer, nn.Conv2d) else (4, 9)).double()
    equal, apart = inherited(layer, 3), inherited(layer, 3)
    equal.tell_apart(0.0, torch.Generator().manual_seed(1))
    apart.tell_apart(0.005, torch.Generator().manual_seed(1))
    torch.testing.assert_close(apart(x), equal(x))
    mean, other = apart.up.detach().mean(dim=0), equal.up.detach()
    assert float((apart.up.detach() - mean).std()) == pytest.approx(0.005 * float(other.std()), rel=0.4)
    torch.testing.assert_close(mean, other[0])
    assert gate_gradient(equal, x) < 1e-9 * gate_gradient(apart, x)


def test_equal_experts_under_a_constant_gate_would_stay_equal() -> None:
    """Which is why they get a random gate: each then gets a gradient of its own."""
    layer, x = convolution(kernel_size=3, padding=1), drawn((4, 5, 9, 9))
    made = inherited(layer, 3)

    def spread() -> float:
        made.zero_grad()
        made(x).square().mean().backward()
        assert made.up.grad is not None
        return float((made.up.grad - made.up.grad.mean(dim=0)).abs().max() / made.up.grad.abs().max())

    assert spread() < 1e-6
    made.tell_apart(0.0, torch.Generator().manual_seed(1))
    assert spread() > 1e-2


def test_random_gates_are_drawn_as_torch_draws_them() -> None:
    made = inherited(linear(64, 64), 36, experts=40)
    made.tell_apart(0.0, torch.Generator().manual_seed(1))
    assert made.gate is not None
    weight = made.gate.weight.detach()
    assert 0.95 / 6 < float(weight.max()) < 1 / 6
    assert float(weight.std()) == pytest.approx(1 / 6 / math.sqrt(3), rel=0.1)


def test_a_layer_of_zeros_is_inherited_as_zeros() -> None:
    layer = linear()
    with torch.no_grad():
        layer.weight.zero_()
    axes = PrincipalAxes.of(as_matrix(layer))
    assert torch.equal(axes.kept(), torch.ones(6, dtype=torch.float64))
    torch.testing.assert_close(inherited(layer, 2)(drawn((4, 9))), layer(drawn((4, 9))))


def test_mixed_precision_gives_the_same_up_to_its_rounding() -> None:
    x = drawn((4, 5, 9, 9))
    made = inherited(convolution(kernel_size=3, padding=1), 5)
    made.tell_apart(0.005, torch.Generator().manual_seed(1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = made(x)
    assert low.shape == (4, 7, 9, 9)
    torch.testing.assert_close(low.float(), made(x), rtol=0.1, atol=0.3)
