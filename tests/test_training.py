"""The training loop: plain SGD, resumable at every epoch, exact where it must hold still, honest when it diverges."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from pico import ARCHS, CPU, equal, gratings, noise, spec, stir
from torch.nn import functional as F

from gtl.config import ComputeSection, TrainingSection
from gtl.data.augment import to_input
from gtl.data.images import ImageSet
from gtl.descent import MUON_RATE, schedule
from gtl.models import ConvNet, build
from gtl.seeds import derive
from gtl.training import (
    NORM_BATCH,
    Progress,
    TrainingResult,
    accuracy,
    reestimate_norms,
    resolve_compute,
    train,
)

RECIPE = TrainingSection(batch_size=8, crop_padding=2)
STEPS = 16  # four epochs of four batches


@pytest.fixture(scope="module")
def images() -> ImageSet:
    """Three classes of eleven images: 33, so that an epoch leaves one out."""
    return gratings(3, 11)


def trained(images: ImageSet, arch: str = "vgg11", **options: Any) -> tuple[ConvNet, TrainingResult]:
    network = build(spec(arch), options.pop("weights", 1))
    settings: dict[str, Any] = {"steps": STEPS, "seed": 5, "compute": CPU, **options}
    result = train(network, images, settings.pop("recipe", RECIPE), **settings)
    return network, result


class Keeper:
    """Copies of a training's state at every epoch boundary, laid out anew in memory as a file would."""

    def __init__(self, network: ConvNet) -> None:
        self.network = network
        self.kept: list[tuple[Progress, dict[str, torch.Tensor]]] = []

    def __call__(self, progress: Progress) -> None:
        plain = torch.contiguous_format
        momentum = tuple(t.clone(memory_format=plain) for t in progress.momentum)
        state = {name: t.clone(memory_format=plain) for name, t in self.network.state_dict().items()}
        self.kept.append((Progress(progress.step, momentum), state))


# --- resuming ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("optimiser", ["sgd", "muon"])
@pytest.mark.parametrize("momentum", [0.9, 0.0])
@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_training_goes_on_bit_identically_from_every_epoch(
    images: ImageSet, arch: str, momentum: float, optimiser: str, memory_format: torch.memory_format
) -> None:
    recipe = RECIPE.model_copy(update={"momentum": momentum, "optimiser": optimiser})
    compute = replace(CPU, memory_format=memory_format)
    network = build(spec(arch), 1)
    keeper = Keeper(network)
    result = train(network, images, recipe, steps=STEPS, seed=5, compute=compute, on_epoch=keeper)
    assert [progress.step for progress, _ in keeper.kept] == [4, 8, 12], "after every epoch but the last"
    for progress, state in keeper.kept:
        again = build(spec(arch), 99)
        again.load_state_dict(state)
        rest = train(again, images, recipe, steps=STEPS, seed=5, compute=compute, resume=progress)
        assert equal(again.state_dict(), network.state_dict())
        assert rest.loss == result.loss and rest.images == (STEPS - progress.step) * 8


@pytest.mark.parametrize("arch", ARCHS)
def test_either_memory_format_trains_the_same_network(images: ImageSet, arch: str) -> None:
    """Resumed in its own format to the same bits, and after an epoch to rounding the same as in the other."""
    firsts = []
    for memory_format in (torch.channels_last, torch.contiguous_format):
        compute = replace(CPU, memory_format=memory_format)
        network = build(spec(arch), 1)
        seen = []
        network.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0]))  # type: ignore[misc]
        keeper = Keeper(network)
        train(network, images, RECIPE, steps=STEPS, seed=5, compute=compute, on_epoch=keeper)
        kernels = [p for p in network.parameters() if p.dim() == 4]
        assert all(tensor.is_contiguous(memory_format=memory_format) for tensor in [*seen, *kernels])
        assert len(seen) == STEPS and kernels
        progress, state = keeper.kept[1]
        again = build(spec(arch), 99)
        again.load_state_dict(state)
        train(again, images, RECIPE, steps=STEPS, seed=5, compute=compute, resume=progress)
        assert equal(again.state_dict(), network.state_dict())
        firsts.append(keeper.kept[0][1])
        accuracy(network, images, compute)
        assert seen[-1].is_contiguous(memory_format=memory_format) and len(seen) > STEPS
    for one, other in zip(*(state.values() for state in firsts), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_without_its_momentum_it_would_end_elsewhere(images: ImageSet) -> None:
    """The test above can fail."""
    network = build(spec(), 1)
    keeper = Keeper(network)
    train(network, images, RECIPE, steps=STEPS, seed=5, compute=CPU, on_epoch=keeper)
    progress, state = keeper.kept[1]
    again = build(spec(), 99)
    again.load_state_dict(state)
    still = tuple(torch.zeros_like(buffer) for buffer in progress.momentum)
    train(again, images, RECIPE, steps=STEPS, seed=5, compute=CPU, resume=Progress(progress.step, still))
    assert not equal(again.state_dict(), network.state_dict())


def test_a_watched_training_is_the_same_training(images: ImageSet) -> None:
    """Whoever is called between epochs may evaluate the network."""
    network = build(spec(), 1)
    measured = []
    train(
        network, images, RECIPE, steps=STEPS, seed=5, compute=CPU,
        on_epoch=lambda progress: measured.append(accuracy(network, images, CPU)),
    )  # fmt: skip
    assert len(measured) == 3
    assert equal(network.state_dict(), trained(images)[0].state_dict())


def test_a_training_is_a_function_of_its_seed(images: ImageSet) -> None:
    before = torch.get_rng_state()
    (one, _), (same, _), (other, _) = trained(images), trained(images), trained(images, seed=6)
    assert torch.equal(torch.get_rng_state(), before)
    assert equal(one.state_dict(), same.state_dict())
    assert not equal(one.state_dict(), other.state_dict())


# --- the update ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_training_is_plain_sgd(images: ImageSet, smoothing: float) -> None:
    recipe = TrainingSection(batch_size=8, crop_padding=0, label_smoothing=smoothing, weight_decay=0.01)
    network, result = trained(images, recipe=recipe, steps=6)
    plain = build(spec(), 1).train()
    momentum = {name: torch.zeros_like(p) for name, p in plain.named_parameters()}
    losses = []
    for step in range(6):
        generator = torch.Generator().manual_seed(derive(5, "epoch", step // 4))
        index = torch.randperm(33, generator=generator)[8 * (step % 4) : 8 * (step % 4) + 8]
        logits = plain(to_input(images.images[index]))
        losses.append(F.cross_entropy(logits, images.labels[index], label_smoothing=smoothing))
        gradients = torch.autograd.grad(losses[-1], list(plain.parameters()))
        rate = recipe.learning_rate * schedule(step, 6, recipe)
        with torch.no_grad():
            for (name, parameter), gradient in zip(plain.named_parameters(), gradients, strict=True):
                decayed = gradient + 0.01 * parameter
                momentum[name] = decayed if step == 0 else 0.9 * momentum[name] + decayed
                parameter.sub_(rate * (decayed + 0.9 * momentum[name]))
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(network.state_dict()[name], tensor, rtol=1e-3, atol=1e-5)
    assert result.loss == pytest.approx(losses[-1].item(), rel=1e-3) and result.finite
    assert result.images == 48 and result.seconds > 0


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_muon_moves_kernels_alike_in_every_direction(images: ImageSet, memory_format: torch.memory_format) -> None:
    """The first step of either optimiser, by hand: kernels by U V^T of the gradient, everything else as by SGD."""
    recipe = TrainingSection(batch_size=8, crop_padding=0, weight_decay=0.0)
    compute = replace(CPU, memory_format=memory_format)
    before = dict(build(spec(), 1).named_parameters())
    sgd, muon = (
        dict(trained(images, recipe=recipe.model_copy(update={"optimiser": o}), steps=1, compute=compute)[0].named_parameters())
        for o in ("sgd", "muon")
    )  # fmt: skip
    rate, several = recipe.learning_rate * schedule(0, 1, recipe), 0
    for name, start in before.items():
        if start.dim() != 4:
            assert torch.equal(muon[name], sgd[name]), name
            continue
        gradient = (start - sgd[name]).flatten(1)  # of a first step: its direction
        u, _, v = torch.linalg.svd(gradient, full_matrices=False)
        longer = max(1.0, gradient.shape[0] / gradient.shape[1]) ** 0.5
        moved = (start - muon[name]).flatten(1) / (MUON_RATE * rate * longer)
        aligned, spread = torch.diagonal(u.T @ moved @ v.T), torch.linalg.svdvals(gradient)
        torch.testing.assert_close(moved, u @ torch.diag(aligned) @ v, rtol=0.1, atol=0.03)
        # the iteration stops at about one, and far below for what was next to nothing
        alike = aligned[spread > 0.15 * spread[0]]
        assert alike.min() > 0.5 and alike.max() < 1.3, name
        several += len(alike) > 1
    assert several >= 4, "kernels whose gradient has more than one direction that counts"


@pytest.mark.parametrize("optimiser", ["sgd", "muon"])
def test_training_learns(images: ImageSet, optimiser: str) -> None:
    easy = gratings(3, 40, noisy=0.3)
    recipe = TrainingSection.model_validate({"optimiser": optimiser, "batch_size": 20, "crop_padding": 1})
    network, result = trained(easy, steps=60, recipe=recipe)
    assert result.finite and result.loss < 0.8 < math.log(3)
    assert accuracy(network, easy, CPU) > 0.6


@pytest.mark.parametrize("optimiser", ["sgd", "muon"])
def test_an_update_scale_of_zero_holds_weights_exactly(images: ImageSet, optimiser: str) -> None:
    """Against momentum, weight decay and a large learning rate."""
    recipe = RECIPE.model_copy(update={"weight_decay": 0.1, "learning_rate": 0.5, "optimiser": optimiser})
    before = {name: t.clone() for name, t in build(spec(), 1).state_dict().items()}
    half = torch.ones(4, 4, 3, 3)
    half[:2] = 0.0
    scale = {
        "conv3.conv.weight": half,
        "conv4.conv.weight": torch.zeros(1),
        "conv2.norm.bias": torch.zeros(4),
        "head.weight": torch.zeros(3, 1),
        "conv1.norm.running_mean": torch.zeros(4),  # no parameter: nothing to scale
    }
    network, _ = trained(images, recipe=recipe, update_scale=scale)
    after = network.state_dict()
    for name in ("conv4.conv.weight", "conv2.norm.bias", "head.weight"):
        assert torch.equal(after[name], before[name])
    assert torch.equal(after["conv3.conv.weight"][:2], before["conv3.conv.weight"][:2])
    assert (after["conv3.conv.weight"][2:] != before["conv3.conv.weight"][2:]).all()
    assert not torch.equal(after["conv1.conv.weight"], before["conv1.conv.weight"])
    assert not torch.equal(after["conv1.norm.running_mean"], before["conv1.norm.running_mean"])


def test_what_is_held_stays_even_where_the_rest_diverges(images: ImageSet) -> None:
    name = "conv2.conv.weight"
    before = build(spec(), 1).state_dict()[name].clone()
    wild = RECIPE.model_copy(update={"learning_rate": 1e9})
    network, result = trained(images, recipe=wild, update_scale={name: torch.zeros(1)})
    assert not result.finite and torch.equal(network.state_dict()[name], before)


def test_an_update_scale_scales_the_update(images: ImageSet) -> None:
    before = {name: t.clone() for name, t in build(spec(), 1).state_dict().items()}
    name = "conv5.conv.weight"
    moved = {}
    for factor in (0.25, 1.0, None):
        scale = None if factor is None else {name: torch.full((1,), factor)}
        network, _ = trained(images, steps=1, update_scale=scale)
        moved[factor] = network.state_dict()[name] - before[name]
    torch.testing.assert_close(moved[0.25], 0.25 * moved[None], rtol=1e-3, atol=1e-7)
    torch.testing.assert_close(moved[1.0], moved[None], rtol=1e-3, atol=1e-7)
    assert moved[None].abs().max() > 1e-4


# --- what can go wrong ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ARCHS)
def test_divergence_is_reported_and_not_raised(images: ImageSet, arch: str) -> None:
    wild = RECIPE.model_copy(update={"learning_rate": 1e9})  # refused in a configuration
    _, result = trained(images, arch, recipe=wild)
    assert not result.finite
    _, fine = trained(images, arch)
    assert fine.finite


def test_a_weight_that_is_not_finite_is_divergence_though_the_loss_is_fine(images: ImageSet) -> None:
    network = build(spec(), 1)
    with torch.no_grad():
        network.get_parameter("conv1.norm.bias")[0] = -math.inf  # the rectifier makes it zero
    result = train(network, images, RECIPE, steps=1, seed=1, compute=CPU)
    assert math.isfinite(result.loss) and not result.finite


def test_a_batch_larger_than_the_data_is_all_data(images: ImageSet) -> None:
    recipe = RECIPE.model_copy(update={"batch_size": 512})
    steps: list[int] = []
    network, result = trained(images, recipe=recipe, steps=3, on_epoch=lambda progress: steps.append(progress.step))
    assert result.images == 3 * 33 and steps == [1, 2] and result.finite
    exact = RECIPE.model_copy(update={"batch_size": 33})
    assert equal(network.state_dict(), trained(images, recipe=exact, steps=3)[0].state_dict())


def test_no_steps_change_nothing(images: ImageSet) -> None:
    network, result = trained(images, steps=0)
    assert equal(network.state_dict(), build(spec(), 1).state_dict())
    assert result.finite and result.images == 0


# --- schedule ------------------------------------------------------------------------------------------------------


def test_the_schedule_warms_up_and_cools_down() -> None:
    recipe = TrainingSection(warmup=0.1)
    factors = [schedule(step, 100, recipe) for step in range(100)]
    assert factors[:10] == pytest.approx([n / 11 for n in range(1, 11)])
    assert factors[10] == 1.0 == max(factors)
    assert all(a > b for a, b in pairwise(factors[10:]))
    assert factors[55] == pytest.approx(0.5) and 0 < factors[-1] < 1e-3


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("kind", ["cosine", "constant"])
def test_every_schedule_stays_between_zero_and_one(steps: int, warmup: float, kind: str) -> None:
    recipe = TrainingSection.model_validate({"warmup": warmup, "schedule": kind})
    factors = [schedule(step, steps, recipe) for step in range(steps)]
    assert all(0 < factor <= 1 for factor in factors)
    if kind == "constant":
        assert all(f == 1.0 for step, f in enumerate(factors) if step >= warmup * steps)
        assert list(factors) == sorted(factors)


# --- norms and accuracy --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [40, 2 * NORM_BATCH + 60])
def test_reestimated_norms_are_the_plain_statistics(count: int) -> None:
    """Layer by layer, by hand; several batches are averaged."""
    network = stir(build(spec()), 3)
    before = {name: t.clone() for name, t in network.state_dict().items()}
    pixels = torch.randint(0, 256, (count, 16, 16, 3), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    reestimate_norms(network, pixels, CPU)
    after = network.state_dict()
    chunks = pixels.chunk(max(1, count // NORM_BATCH))
    assert len(chunks) == (1 if count == 40 else 2)
    expected: dict[str, torch.Tensor] = {}
    for chunk in chunks:
        x = to_input(chunk)
        for group in network.widths:
            x = F.conv2d(x, before[f"{group}.conv.weight"], padding=1)
            mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
            samples = x.numel() / x.shape[1]
            for kind, value in (("mean", mean), ("var", var * samples / (samples - 1))):
                name = f"{group}.norm.running_{kind}"
                expected[name] = expected.get(name, torch.zeros(())) + value / len(chunks)
            scale, shift = before[f"{group}.norm.weight"], before[f"{group}.norm.bias"]
            x = (x - mean[:, None, None]) / (var + 1e-5).sqrt()[:, None, None]
            x = torch.relu(x * scale[:, None, None] + shift[:, None, None])
            x = F.max_pool2d(x, 2) if group in ("conv1", "conv2", "conv4", "conv6") else x
    for name, tensor in expected.items():
        torch.testing.assert_close(after[name], tensor, rtol=1e-3, atol=1e-4)
    for name, tensor in before.items():
        if "running" not in name and "tracked" not in name:
            assert torch.equal(after[name], tensor), f"{name} is no statistic"


@pytest.mark.parametrize("arch", ARCHS)
def test_reestimating_leaves_the_network_as_it_found_it_otherwise(arch: str) -> None:
    network = stir(build(spec(arch)), 3)
    pixels = gratings(3, 8).images
    reestimate_norms(network, pixels, CPU)
    once = {name: t.clone() for name, t in network.state_dict().items()}
    norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert {norm.momentum for norm in norms} == {0.1} and not network.training
    assert all(int(norm.num_batches_tracked) == 0 for norm in norms if norm.num_batches_tracked is not None)
    reestimate_norms(network, pixels, CPU)
    assert equal(network.state_dict(), once), "what the norms held before does not matter"
    assert all(p.grad is None for p in network.parameters())


def test_accuracy_by_hand() -> None:
    images = gratings(3, CPU.eval_batch // 2)  # more than one batch, and labels in order
    network = stir(build(spec()), 4).train()
    before = {name: t.clone() for name, t in network.state_dict().items()}
    found = accuracy(network, images, CPU)
    assert equal(network.state_dict(), before), "in eval mode: no statistic moves"
    network.eval()
    with torch.no_grad():
        right = (network(to_input(images.images)).argmax(1) == images.labels).double().mean()
    assert found == pytest.approx(float(right)) and 0 < found < 1
    with torch.no_grad():
        network.head.weight.zero_()
        network.head.bias.copy_(torch.tensor([0.0, 1.0, 0.0]))
    assert accuracy(network, images, CPU) == pytest.approx(1 / 3)
    ones = replace(images.take_classes([1]), class_names=("only",))
    network.head.bias.data = torch.tensor([1.0, 0.0, 0.0])
    assert accuracy(network, ones, CPU) == 1.0


# --- compute -------------------------------------------------------------------------------------------------------


def test_compute_is_resolved() -> None:
    cpu = resolve_compute(ComputeSection(device="cpu", precision="float32"))
    assert cpu == CPU and cpu.autocast is None
    half = resolve_compute(ComputeSection(device="cpu", precision="bfloat16"))
    assert half.autocast is torch.bfloat16
    assert cpu.memory_format is torch.channels_last
    assert (
        resolve_compute(ComputeSection(device="cpu", memory_format="channels_last")).memory_format
        is torch.channels_last
    )
    plain = resolve_compute(ComputeSection(device="cpu", memory_format="contiguous"))
    assert plain.memory_format is torch.contiguous_format
    for compute, dtype in ((cpu, torch.float32), (half, torch.bfloat16)):
        with compute.context(), torch.no_grad():
            assert build(spec()).eval()(noise(2)).dtype is dtype
    before = torch.get_num_threads()
    try:
        resolve_compute(ComputeSection(device="cpu", threads=2))
        assert torch.get_num_threads() == 2
        resolve_compute(ComputeSection(device="cpu", threads=0))
        assert torch.get_num_threads() == 2, "0: as it is"
    finally:
        torch.set_num_threads(before)


def test_training_in_bfloat16_learns_too() -> None:
    half = resolve_compute(ComputeSection(device="cpu", precision="bfloat16"))
    easy = gratings(3, 20, noisy=0.3)
    network, result = trained(easy, compute=half, steps=20)
    assert result.finite and {p.dtype for p in network.parameters()} == {torch.float32}
