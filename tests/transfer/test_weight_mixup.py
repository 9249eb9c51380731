"""Weight mixup: exact at both ends, convex between them, and its shares learn from images that the weights do not see."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch
from pico import ARCHS, CPU, equal, gratings, spec
from torch.nn import functional as F

from gtl.config import TrainingSection
from gtl.data.augment import to_input
from gtl.data.batches import Batches, Environment
from gtl.data.images import ImageSet
from gtl.errors import DataError
from gtl.models import build
from gtl.training import Progress, train
from gtl.transfer.weight_mixup import Mixture, WeightMixup, mixed, split

RECIPE = TrainingSection(batch_size=8, crop_padding=2)


@pytest.fixture(scope="module")
def images() -> ImageSet:
    return gratings(3, 11)


@pytest.fixture(scope="module")
def easy() -> ImageSet:
    return gratings(3, 20, noisy=0.3)


# --- the ends ------------------------------------------------------------------------------------------------------


def test_zero_and_one_are_the_ends_exactly() -> None:
    draw = torch.Generator().manual_seed(0)
    one, other = ({name: torch.randn(5, 4, generator=draw) for name in "ab"} for _ in range(2))
    for share, wanted in ((0.0, one), (1.0, other)):
        assert equal(mixed(one, other, dict.fromkeys("ab", torch.tensor(share))), wanted)
    between = mixed(one, other, {"a": torch.tensor(0.25), "b": torch.tensor(1.0)})
    torch.testing.assert_close(between["a"], 0.75 * one["a"] + 0.25 * other["a"])
    assert torch.equal(between["b"], other["b"])


@pytest.mark.parametrize("arch", ARCHS)
def test_a_share_of_zero_hands_back_what_was_inherited(images: ImageSet, arch: str) -> None:
    """But for the head, which inherits nothing, and the norms' statistics."""
    network, before = build(spec(arch), 1), build(spec(arch), 1)
    WeightMixup(initial=0.0, search=0.0).train(network, images, RECIPE, steps=6, seed=5, compute=CPU)
    for name, parameter in network.named_parameters():
        assert torch.equal(parameter, before.get_parameter(name)) is not name.startswith("head."), name


def test_between_the_ends_the_mean_is_what_learns(images: ImageSet) -> None:
    """A step of the mean: the weights' gradient is the share times the mean's."""
    network, plain, share = build(spec(), 1), build(spec(), 1).train(), 0.5
    recipe = RECIPE.model_copy(update={"batch_size": 33, "crop_padding": 0, "momentum": 0.0, "weight_decay": 0.0})
    WeightMixup(initial=share, search=0.0).train(network, images, recipe, steps=1, seed=5, compute=CPU)
    rate = recipe.learning_rate / 1.1  # the first step of a warm-up over a tenth of one step
    loss = F.cross_entropy(plain(to_input(images.images)), images.labels)
    gradients = dict(
        zip(dict(plain.named_parameters()), torch.autograd.grad(loss, list(plain.parameters())), strict=True)
    )
    for name, parameter in plain.named_parameters():
        factor = 1.0 if name.startswith("head.") else share**2
        moved = network.get_parameter(name) - parameter
        torch.testing.assert_close(moved, -factor * rate * gradients[name], rtol=1e-2, atol=1e-6)


# --- the shares ----------------------------------------------------------------------------------------------------


def taught(images: ImageSet, *, born_good: bool, rate: float = 0.1) -> tuple[torch.Tensor, list[float]]:
    """Shares, and the losses on their way, between a trained network and one of random weights."""
    good, poor = build(spec(), 0), build(spec(), 3)
    recipe = TrainingSection(batch_size=20, crop_padding=1)
    train(good, images, recipe, steps=60, seed=1, compute=CPU)
    poor.head.load_state_dict(good.head.state_dict())
    network, other = (good, poor) if born_good else (poor, good)
    mixture = Mixture(network.train(), 0.5, rate)
    network.load_state_dict(other.state_dict())
    batches = Batches(Environment.of(images, 0, torch.device("cpu")), 60, 2)
    losses = [float(mixture.learn_shares(*batch, 0.0, CPU)) for batch in islice(batches, 15)]
    return mixture.shares.detach(), losses


def test_shares_go_to_where_the_loss_is_lower(easy: ImageSet) -> None:
    for born_good in (True, False):
        shares, losses = taught(easy, born_good=born_good)
        assert losses[-1] < losses[0]
        assert shares.mean() < 0.45 if born_good else shares.mean() > 0.55


def test_shares_stay_between_the_ends(easy: ImageSet) -> None:
    shares, _ = taught(easy, born_good=True, rate=1.0)
    assert ((shares >= 0.0) & (shares <= 1.0)).all() and (shares == 0.0).any()


def test_every_layer_but_the_head_has_a_share() -> None:
    mixture = Mixture(build(spec(), 1), 0.5, 0.1)
    assert mixture.layers[:3] == ("conv1.conv", "conv1.norm", "conv2.conv") and len(mixture.layers) == 16
    assert set(mixture.weights()) == {n for n, _ in mixture.network.named_parameters() if not n.startswith("head.")}


def test_a_search_learns_shares(images: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[torch.Tensor] = []
    real = Mixture.learn_shares

    def spy(self: Mixture, *arguments: object) -> torch.Tensor:
        assert len(arguments[0]) == 6  # type: ignore[arg-type]
        loss = real(self, *arguments)  # type: ignore[arg-type]
        found.append(self.shares.detach().clone())
        return loss

    monkeypatch.setattr(Mixture, "learn_shares", spy)
    result = WeightMixup().train(build(spec(), 1), images, RECIPE, steps=20, seed=5, compute=CPU)
    assert len(found) == 2 and not torch.equal(found[0], found[1]), "two of the ten steps of the search"
    assert ((found[-1] >= 0) & (found[-1] <= 1)).all() and (found[-1] < 1).any()
    assert result.images == 8 * 8 + 2 * 6 + 10 * 8, "weights on 27 images, shares on 6, weights on all"


def test_what_the_caller_sees_is_the_mean(images: ImageSet) -> None:
    network, born, seen = build(spec(), 1), build(spec(), 1), []

    def watch(progress: Progress) -> None:
        name = "conv3.conv.weight"
        seen.append((progress.step, torch.equal(network.get_parameter(name), born.get_parameter(name))))

    rule = WeightMixup(initial=0.0, search=0.0)
    rule.train(network, images, RECIPE, steps=12, seed=5, compute=CPU, on_epoch=watch)
    assert seen == [(4, True), (8, True)]
    seen.clear()
    WeightMixup().train(network, images, RECIPE, steps=24, seed=5, compute=CPU, on_epoch=watch)
    assert [step for step, _ in seen] == [3, 6, 9, 16, 20], "steps are counted on over both phases"


# --- the splits ----------------------------------------------------------------------------------------------------


def test_splits_are_disjoint_and_have_every_class(images: ImageSet) -> None:
    for share, held in ((0.2, 2), (0.001, 1), (0.999, 10)):
        fit, other = split(images, share, np.random.default_rng(0))
        assert set(other.class_counts.values()) == {held} and set(fit.class_counts.values()) == {11 - held}
        rows = [image.numpy().tobytes() for part in (fit, other) for image in part.images]
        assert sorted(rows) == sorted(image.numpy().tobytes() for image in images.images)


def test_a_class_of_one_image_cannot_be_split() -> None:
    single = gratings(3, 1)
    with pytest.raises(DataError, match=r"class 'train-0' has one image, .* give it two, or search=0"):
        WeightMixup().train(build(spec(), 1), single, RECIPE, steps=4, seed=5, compute=CPU)
    WeightMixup(search=0.0).train(build(spec(), 1), single, RECIPE, steps=1, seed=5, compute=CPU)


def test_with_a_frozen_network_only_the_head_learns(images: ImageSet) -> None:
    network = build(spec(), 1).requires_grad_(False)
    network.head.requires_grad_(True)
    WeightMixup().train(network, images, RECIPE, steps=8, seed=5, compute=CPU)
    before = build(spec(), 1)
    for name, parameter in network.named_parameters():
        assert torch.equal(parameter, before.get_parameter(name)) is not name.startswith("head."), name
