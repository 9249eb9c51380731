"""Child-Tuning: who is masked does not move, whatever momentum and weight decay say, and the rest follows the paper."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from pico import ARCHS, CPU, equal, gratings, spec, within_binomial
from torch import nn
from torch.nn import functional as F

from gtl.config import TrainingSection
from gtl.data.augment import to_input
from gtl.data.images import ImageSet
from gtl.descent import schedule
from gtl.models import build
from gtl.training import Progress
from gtl.transfer.child_tuning import ChildTuningDriven, ChildTuningFree, child_network, fisher_information
from gtl.transfer.rule import generator_of

# all images in every batch, so that every step ends an epoch and can be watched
RECIPE = TrainingSection(batch_size=33, crop_padding=0, weight_decay=0.1)


@pytest.fixture(scope="module")
def images() -> ImageSet:
    return gratings(3, 11)


# --- task-free -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_who_sits_a_step_out_keeps_weight_and_momentum(images: ImageSet, momentum: float) -> None:
    network, probability = build(spec(width=8), 1), 0.3
    states: list[tuple[torch.Tensor, torch.Tensor]] = []

    def flat(tensors: list[torch.Tensor]) -> torch.Tensor:
        return torch.cat([tensor.detach().flatten() for tensor in tensors])

    def watch(progress: Progress) -> None:
        states.append((flat(list(network.parameters())), flat(list(progress.momentum))))

    states.append((flat(list(network.parameters())), torch.zeros(0)))
    recipe = RECIPE.model_copy(update={"momentum": momentum})
    ChildTuningFree(probability).train(network, images, recipe, steps=8, seed=5, compute=CPU, on_epoch=watch)
    assert len(states) == 8
    states[0] = (states[0][0], torch.zeros_like(states[1][1]))
    stayed, count = 0, 0
    for (weights, buffers), (later, later_buffers) in pairwise(states):
        still = weights == later
        if momentum:
            assert torch.equal(still, buffers == later_buffers), "momentum moves with the weight or not at all"
        else:
            assert not later_buffers.any()
        stayed, count = stayed + int(still.sum()), count + len(still)
    assert within_binomial(stayed, count, 1 - probability)
    assert (states[0][0] != states[-1][0]).double().mean() > 0.8, "another draw at every step"


def test_for_who_takes_part_it_is_sgd_with_steps_of_one_over_p(images: ImageSet) -> None:
    """By hand: gradient and decay over p, and a clock of its own for every parameter."""
    network, plain, probability, steps = build(spec(), 1), build(spec(), 1).train(), 0.4, 5
    ChildTuningFree(probability).train(network, images, RECIPE, steps=steps, seed=5, compute=CPU)
    momentum = [torch.zeros_like(p) for p in plain.parameters()]
    for step in range(steps):
        loss = F.cross_entropy(plain(to_input(images.images)), images.labels)
        gradients = torch.autograd.grad(loss, list(plain.parameters()))
        draws = generator_of(5, step, torch.device("cpu"))
        rate = RECIPE.learning_rate * schedule(step, steps, RECIPE)
        with torch.no_grad():
            for parameter, gradient, buffer in zip(plain.parameters(), gradients, momentum, strict=True):
                mask = torch.rand(parameter.shape, generator=draws) < probability
                scaled = (gradient + 0.1 * parameter) / probability
                buffer.copy_(torch.where(mask, 0.9 * buffer + scaled, buffer))
                parameter.sub_(mask * rate * (scaled + 0.9 * buffer))
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(network.get_parameter(name), parameter, rtol=1e-3, atol=1e-5)


# --- task-driven ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ARCHS)
def test_outside_the_child_network_nothing_ever_moves(images: ImageSet, arch: str) -> None:
    network, share = build(spec(arch), 1), 0.2
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    information = fisher_information(network, images.images, images.labels, CPU)
    recipe = RECIPE.model_copy(update={"learning_rate": 0.5, "batch_size": 8})
    ChildTuningDriven(share).train(network, images, recipe, steps=12, seed=5, compute=CPU)
    moved = {name: network.get_parameter(name).detach() != old for name, old in before.items()}
    assert moved["head.weight"].all() and moved["head.bias"].all()
    flat = torch.cat([moved[name].flatten() for name in information])
    of = torch.cat([each.flatten() for each in information.values()])
    assert int(flat.sum()) == round(share * len(flat))
    assert of[flat].min() >= of[~flat].max() * (1 - 1e-4), "those with the most information"


def test_the_norms_statistics_follow_all_the_same(images: ImageSet) -> None:
    network = build(spec(), 1)
    before = network.state_dict()["conv1.norm.running_mean"].clone()
    ChildTuningDriven(0.01).train(network, images, RECIPE, steps=2, seed=5, compute=CPU)
    assert not torch.equal(network.state_dict()["conv1.norm.running_mean"], before)


def test_information_of_a_linear_model_is_known() -> None:
    """For logits W x it is the mean of (p - y)_i^2 x_j^2; a head that passes them on has none that counts."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 3, bias=False), nn.Linear(3, 3, bias=False))
    with torch.no_grad():
        network[1].weight.copy_(torch.randn(3, 12, generator=torch.Generator().manual_seed(0)))
        network[2].weight.copy_(torch.eye(3))
    pixels = torch.randint(0, 256, (20, 2, 2, 3), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    labels = torch.arange(20) % 3
    found = fisher_information(network, pixels, labels, CPU)
    x = to_input(pixels).flatten(1)
    missed = (x @ network[1].weight.T).softmax(1).detach() - F.one_hot(labels, 3)
    assert list(found) == ["1.weight"]
    torch.testing.assert_close(found["1.weight"], (missed[:, :, None] ** 2 * x[:, None] ** 2).mean(0))


def test_the_information_is_only_looked_at(images: ImageSet) -> None:
    network = build(spec(), 1)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    found = fisher_information(network, images.images, images.labels, CPU)
    assert equal(network.state_dict(), before) and network.training
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(found[name].shape == before[name].shape for name in found) and "head.weight" not in found
    assert sum(float(each.sum()) for each in found.values()) > 0


def test_it_is_estimated_on_no_more_images_than_asked_for(images: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def counted(network: nn.Module, pixels: torch.Tensor, *others: object) -> dict[str, torch.Tensor]:
        seen.append(len(pixels))
        return fisher_information(network, pixels, *others)  # type: ignore[arg-type]

    monkeypatch.setattr("gtl.transfer.child_tuning.fisher_information", counted)
    for count in (5, 512):
        ChildTuningDriven(0.5, count).train(build(spec(), 1), images, RECIPE, steps=1, seed=5, compute=CPU)
    assert seen == [5, 33]


def test_all_tensors_compete_and_the_first_of_equals_wins() -> None:
    information = {"a": torch.tensor([[0.0, 3.0], [1.0, 1.0]]), "b": torch.tensor([1.0, 9.0])}
    for share, a, b in (
        (0.01, [[0, 0], [0, 0]], [0, 1]),
        (0.5, [[0, 1], [1, 0]], [0, 1]),
        (1.0, [[1, 1], [1, 1]], [1, 1]),
    ):
        found = child_network(information, share)
        assert found["a"].int().tolist() == a and found["b"].int().tolist() == b
    assert child_network({}, 0.5) == {}


def test_with_a_frozen_network_only_the_head_is_left(images: ImageSet) -> None:
    for rule in (ChildTuningDriven(), ChildTuningFree()):
        network = build(spec(), 1).requires_grad_(False)
        network.head.requires_grad_(True)
        rule.train(network, images, RECIPE, steps=3, seed=5, compute=CPU)
        before = build(spec(), 1)
        for name, parameter in network.named_parameters():
            assert torch.equal(parameter, before.get_parameter(name)) is not name.startswith("head."), name
