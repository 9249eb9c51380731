"""Channel scores against computations by hand, and one-shot genes by every method."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from pico import ARCHS, stir, world
from torch.nn import functional as F

from gtl.critic import ridge_head
from gtl.data.augment import to_input
from gtl.evolution.founding import ALLOCATIONS, allocation, even_channels
from gtl.genotype import Genotype
from gtl.learngene import oneshot
from gtl.learngene.baselines import one_shots
from gtl.learngene.oneshot import BY_IMAGES, METHODS, Jury, channel_scores, one_shot, one_shot_genotype
from gtl.life import World
from gtl.models import ConvNet, build
from gtl.seeds import rng
from gtl.surgery import GeneTensors, gather

SLOPES = {"vgg11": 0.0, "resnet12": 0.1}


def trained(host: World, seed: int = 3) -> tuple[ConvNet, GeneTensors]:
    """A network that is nothing like a new one, and its tensors."""
    network = stir(build(host.host, seed), seed)
    return network, gather(network.state_dict(), host.layout, host.layout.full())


def looked_at(host: World, seed: int) -> torch.Tensor:
    """The train images that scores look at, in their order."""
    return torch.from_numpy(rng(seed, "score images").permutation(len(host.train.labels))[: oneshot.SCORE_IMAGES])


def normed(network: ConvNet, inputs: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The last features, and what every norm gives, by its name."""
    found: dict[str, torch.Tensor] = {}
    hooks = [
        module.register_forward_hook(lambda _, __, given, name=name: found.update({name: given.clone()}))
        for name, module in network.named_modules()
        if isinstance(module, torch.nn.BatchNorm2d)
    ]
    features = network.features(inputs)
    for hook in hooks:
        hook.remove()
    return features, found


def close(scores: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> None:
    assert list(scores) == list(expected)
    for group, worth in scores.items():
        np.testing.assert_allclose(worth, expected[group], rtol=2e-4, atol=1e-7, err_msg=group)
        assert np.ptp(worth) > 0, "channels differ"


@pytest.mark.parametrize("arch", ARCHS)
def test_activation_is_the_mean_of_what_a_hook_sees(arch: str) -> None:
    host = world(arch)
    network, tensors = trained(host)
    inputs = to_input(host.train.images[looked_at(host, 5)])
    with torch.no_grad():
        _, given = normed(network, inputs)
    expected = {}
    for group, norms in network.layout.norms.items():
        joined = sum(given[norm] for norm in norms)
        assert isinstance(joined, torch.Tensor)
        expected[group] = F.leaky_relu(joined, SLOPES[arch]).abs().mean(dim=(0, 2, 3)).numpy()
    close(channel_scores(tensors, host.layout, "activation", 5, host), expected)


@pytest.mark.parametrize("arch", ARCHS)
def test_taylor_is_scale_and_shift_times_their_gradients_image_by_image(arch: str) -> None:
    host = world(arch, each=5)
    network, tensors = trained(host)
    rows = looked_at(host, 5)
    known, asked = rows[::2], rows[1::2]
    with torch.no_grad():
        features = network.features(to_input(host.train.images[known]))
    head = ridge_head(features, host.train.labels[known], host.config.critic.ridge, host.train.n_classes)
    expected = {group: np.zeros(width) for group, width in network.widths.items()}
    for row in asked.tolist():
        target = F.one_hot(host.train.labels[row], host.train.n_classes)
        network.zero_grad()
        torch.autograd.backward(
            (head(network.features(to_input(host.train.images[row : row + 1])))[0] - target).square().sum()
        )
        for group, norms in network.layout.norms.items():
            slope = torch.zeros(network.widths[group])
            for norm in map(network.get_submodule, norms):
                assert (
                    isinstance(norm, torch.nn.BatchNorm2d)
                    and norm.weight.grad is not None
                    and norm.bias.grad is not None
                )
                slope += norm.weight.detach() * norm.weight.grad + norm.bias.detach() * norm.bias.grad
            expected[group] += slope.abs().double().numpy() / len(asked)
    close(channel_scores(tensors, host.layout, "taylor", 5, host), expected)


class Order:
    """A generator that gives one order, whatever it is asked for."""

    def __init__(self, *rows: int) -> None:
        self.rows = np.array(rows)

    def permutation(self, count: int) -> np.ndarray:
        return self.rows


def test_taylor_predicts_what_the_loss_loses_with_a_little_of_a_channel(monkeypatch: pytest.MonkeyPatch) -> None:
    host = world(each=4)
    network, tensors = trained(host)
    norm = network.get_submodule("conv8.norm")
    with torch.no_grad():
        features = network.features(to_input(host.train.images))
    head = ridge_head(features, host.train.labels, 0.1)

    @torch.no_grad()
    def loss() -> float:
        scores = head(network.features(to_input(host.train.images[6:7])))
        return float((scores - F.one_hot(host.train.labels[6], 4)).square().sum())

    step, before, expected = 1e-3, loss(), []
    for channel in range(4):
        kept = [norm.get_parameter(kind).detach().clone() for kind in ("weight", "bias")]
        for kind in ("weight", "bias"):
            norm.get_parameter(kind).data[channel] *= 1 - step
        expected.append(abs(before - loss()) / step)
        norm.get_parameter("weight").data, norm.get_parameter("bias").data = kept
    monkeypatch.setattr(
        oneshot, "rng", lambda *words: Order(0, 6)
    )  # a head from image 0, of no use; asked about image 6
    monkeypatch.setattr(oneshot, "ridge_head", lambda *given: head)
    found = channel_scores(tensors, host.layout, "taylor", 0, host)["conv8"]
    np.testing.assert_allclose(found, expected, rtol=0.02, atol=1e-3)
    assert max(expected) > 0.05


def test_uniform_takes_every_nth_channel() -> None:
    counts = {"a": 4, "b": 3, "c": 1, "d": 5, "e": 7}
    genotype = even_channels(counts, {"a": 16, "b": 10, "c": 9, "d": 5, "e": 8})
    kept = {group: mask.kept.tolist() for group, mask in genotype.items()}
    assert kept == {"a": [0, 4, 8, 12], "b": [0, 3, 6], "c": [0], "d": [0, 1, 2, 3, 4], "e": [0, 1, 2, 3, 4, 5, 6]}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_chooses_the_same_for_a_seed_and_as_many_as_asked(method: str) -> None:
    host = world("resnet12")
    _, tensors = trained(host)
    counts = {group: 1 + number % 4 for number, group in enumerate(host.layout.groups)}
    one, two = (one_shot_genotype(tensors, host.layout, counts, method, 7, host) for _ in range(2))
    assert one == two and one.counts == counts
    if method in BY_IMAGES:
        with pytest.raises(ValueError, match=f"{method!r} looks at train images; give a world"):
            one_shot_genotype(tensors, host.layout, counts, method, 7)
    else:
        assert one_shot_genotype(tensors, host.layout, counts, method, 7) == one, "needs no images"


def test_there_is_no_other_method() -> None:
    host = world()
    with pytest.raises(ValueError, match="unknown channel score 'l3'; known are l1, bn, random, taylor, activation"):
        one_shot_genotype(trained(host)[1], host.layout, host.layout.groups, "l3")


def test_the_best_one_shot_gene_is_the_best_of_all_methods_and_allocations() -> None:
    host = world(width=6)
    _, tensors = trained(host)
    own = Genotype.full(dict(host.layout.groups)).replace(
        conv1=one_shot_genotype(tensors, host.layout, {"conv1": 2}, "l1")["conv1"]
    )
    share = host.layout.circuit_share(own.counts)
    allocations = {kind: allocation(host.layout, kind, share) for kind in ALLOCATIONS} | {"gene": own.counts}
    found = one_shots(host, tensors, own)
    assert {(each.method, each.allocation) for each in found} == {(m, a) for m in METHODS for a in allocations}
    best = found[0]
    assert best.fitness == max(each.fitness for each in found)
    again = one_shot(host, tensors, allocations[best.allocation], best.method, allocation=best.allocation)
    assert (again.genotype, again.fitness) == (best.genotype, best.fitness)
    assert all(torch.equal(tensor, best.tensors[name]) for name, tensor in again.tensors.items())
    cut, accuracy = Jury.for_one_shots(host).cut(tensors, best.genotype)
    assert accuracy == best.fitness and list(cut) == list(best.tensors)
