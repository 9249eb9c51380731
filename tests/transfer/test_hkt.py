"""HKT: what is mixed where, what runs how often, who learns and who does not, and what is left in the end."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from pico import ARCHS, CPU, equal, gratings, noise, spec, stir
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from gtl.config import TrainingSection
from gtl.errors import ConfigError
from gtl.models import ConvNet, build
from gtl.training import train
from gtl.transfer.hkt import CHILD, HKT, MIXED, PARENT, Alignment
from gtl.transfer.mixers import STRENGTHS

RECIPE = TrainingSection(batch_size=12, crop_padding=1)
LABELS = torch.tensor([0, 1, 2])


def child(arch: str = "vgg11", width: int = 3, classes: int = 3) -> ConvNet:
    return build(spec(arch, width, classes), 1)


def parent(arch: str = "vgg11", width: int = 5, classes: int = 3) -> ConvNet:
    return stir(build(spec(arch, width, classes), 2), 2)


def hkt(young: nn.Module | None = None, old: nn.Module | None = None, **options: Any) -> HKT:
    return HKT(young or child(), old or parent(), **{"image_size": 16, **options})


def learned(network: HKT, steps: int = 3) -> HKT:
    train(network, gratings(3, 8), RECIPE, steps=steps, seed=4, compute=CPU, loss=network.loss)
    return network


# --- what is mixed -------------------------------------------------------------------------------------------------


def test_pooled_features_meet_before_both_heads() -> None:
    """Written out, with equal widths: both heads answer from the same fused features."""
    young, old = child(width=5), parent()
    network = hkt(young, old).train()
    twin = copy.deepcopy(young).train()
    logits = network(noise())
    q, p = twin.features(noise()), old.features(noise())
    s = torch.sigmoid((q * p).sum(1, keepdim=True) / 5**0.5)
    fused = q + 0.6 * (1 - s) * (p - q)
    for found, expected in zip(logits, (twin.head(q), twin.head(fused), old.head(fused)), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    losses = [F.cross_entropy(each, LABELS) for each in logits]
    torch.testing.assert_close(network.loss(logits, LABELS, noise()), sum(losses))
    assert sum(p.numel() for p in network.parameters()) == sum(p.numel() for p in young.parameters()), "nothing more"


def test_maps_meet_behind_a_stage_and_the_rest_runs_on() -> None:
    young, old = child(width=5), parent()
    network = hkt(young, old, taps=("conv4", "pooled"), mixer="static").train()
    twin = copy.deepcopy(young).train()
    logits = network(noise())

    def through(net: ConvNet, x: torch.Tensor, names: list[str]) -> torch.Tensor:
        for name in names:
            x = net.stages()[name](x)
        return x

    names = list(twin.stages())
    first, rest = names[: names.index("conv4") + 1], names[names.index("conv4") + 1 :]
    q, p = through(twin, noise(), first), through(old, noise(), first)
    q_end, p_end = through(twin, q, rest), through(old, p, rest)
    mixed = 0.3 * through(twin, 0.3 * q + 0.7 * p, rest) + 0.7 * p_end
    taught = 0.3 * q_end + 0.7 * through(old, 0.3 * q + 0.7 * p, rest)
    for found, expected in zip(logits, (twin.head(q_end), twin.head(mixed), old.head(taught)), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("mixer", STRENGTHS)
def test_without_strength_the_mixed_child_is_the_child(mixer: str) -> None:
    network = hkt(mixer=mixer, strength=0.0, taps=("conv3", "pooled")).train()
    plain, mixed, _ = network(noise())
    assert torch.equal(plain, mixed)


@pytest.mark.parametrize("taps", [("conv2=stage1", "conv6=stage3", "pooled"), ("conv8=stage1",), ("conv1=stage4",)])
def test_families_widths_and_resolutions_may_differ(taps: tuple[str, ...]) -> None:
    network = hkt(old=parent("resnet12"), taps=taps, mixer="learnable", image_size=32).train()
    logits = network(noise(size=32))
    assert logits.shape == (3, 3, 3) and bool(torch.isfinite(logits).all())
    network.loss(logits, LABELS, noise()).backward()  # type: ignore[no-untyped-call]
    transfer = {n: p for n, p in network.named_parameters() if not n.startswith("child.")}
    assert transfer and all(p.grad is not None and bool(p.grad.any()) for p in transfer.values()), transfer.keys()


def test_alignment_is_the_identity_where_it_can_be() -> None:
    draw, x = torch.Generator(), torch.randn(2, 4, 6, 6)
    same = Alignment((4, 6, 6), (4, 6, 6), draw)
    assert same(x) is x and list(same.parameters()) == []
    smaller = Alignment((4, 6, 6), (4, 3, 3), draw)
    torch.testing.assert_close(smaller(x), F.avg_pool2d(x, 2))
    assert list(smaller.parameters()) == [] and Alignment((4, 3, 3), (4, 6, 6), draw)(x[..., :3, :3]).shape == x.shape
    wider = Alignment((4,), (9,), draw)
    vector = torch.randn(2, 4)
    torch.testing.assert_close(wider(vector).norm(dim=1), vector.norm(dim=1), msg="begins as an isometry")


def test_taps_are_sorted_as_the_child_runs() -> None:
    found = hkt(old=parent("resnet12"), taps=("pooled", "conv4=stage2"), image_size=32).taps
    assert [(tap.child, tap.parent) for tap in found] == [("conv4", "stage2"), ("pooled", "pooled")]


def test_paths_are_switched_one_by_one() -> None:
    whole = hkt(mixer="learnable").train()(noise())
    for path, logits in zip((CHILD, MIXED, PARENT), whole, strict=True):
        paths = {path, CHILD} if path == PARENT else {path}
        some = hkt(mixer="learnable", paths=tuple(paths)).train()(noise())
        assert len(some) == len(paths) and torch.equal(some[-1], logits), path
    bare = hkt(paths=(CHILD,)).train()
    logits = bare(noise())
    torch.testing.assert_close(bare.loss(logits, LABELS, noise()), F.cross_entropy(logits[0], LABELS))


# --- what runs how often -------------------------------------------------------------------------------------------


@contextmanager
def counted(**networks: nn.Module) -> Iterator[Counter[str]]:
    """How often each stage's convolution, and each head, is run."""
    calls: Counter[str] = Counter()
    hooks = []
    for whose, network in networks.items():
        for name, module in network.named_modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                key = f"{whose} {name}"
                hooks.append(module.register_forward_hook(lambda *_, key=key: calls.update([key])))
    yield calls
    for hook in hooks:
        hook.remove()


def test_each_backbone_runs_once_a_step() -> None:
    network = hkt().train()
    with counted(child=network.child, parent=network.parent) as calls:
        network(noise())
    heads = {"child head", "parent head"}
    assert len(calls) == 18 and {calls[name] for name in calls if name not in heads} == {1}
    assert all(calls[head] == 2 for head in heads)


def test_only_what_follows_the_first_tap_runs_again() -> None:
    network = hkt(taps=("conv5", "conv7")).train()
    with counted(child=network.child, parent=network.parent) as calls:
        network(noise())
    for whose in ("child", "parent"):
        times = [calls[f"{whose} conv{number}.conv"] for number in range(1, 9)]
        assert times == [1, 1, 1, 1, 1, 2, 2, 2], whose


def test_released_runs_each_twice() -> None:
    network = hkt(released=True).train()
    with counted(child=network.child, parent=network.parent) as calls:
        network(noise())
    assert set(calls.values()) == {2} and len(calls) == 18


def test_in_evaluation_the_child_runs_alone() -> None:
    network = hkt().eval()
    with counted(child=network.child, parent=network.parent) as calls:
        found = network(noise())
    assert set(calls.values()) == {1} and not any(name.startswith("parent") for name in calls)
    assert torch.equal(found, network.child(noise()))


# --- who learns ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("taps", [("pooled",), ("conv4", "pooled")])
def test_the_parent_never_learns(taps: tuple[str, ...]) -> None:
    old = parent()
    given = copy.deepcopy(old.state_dict())
    network = hkt(old=old, taps=taps)
    before = copy.deepcopy(network.parent.state_dict())
    learned(network)
    assert equal(before, network.parent.state_dict()) and equal(given, old.state_dict())
    assert all(p.grad is None for p in network.parent.parameters())
    assert not any(module.training for module in network.parent.modules())
    parts = {"child", "to_child", "child_mixers", "to_parent", "parent_mixers"}
    assert {name.split(".")[0] for name in network.state_dict()} <= parts, "it is no part of what is trained"


def test_no_gradient_is_kept_for_the_parents_first_pass() -> None:
    network = hkt().train()
    seen = []
    hook = network.parent.get_submodule("conv8").register_forward_hook(lambda m, i, out: seen.append(out.requires_grad))
    network.loss(network(noise()), LABELS, noise()).backward()  # type: ignore[no-untyped-call]
    hook.remove()
    assert seen == [False]


def test_the_released_parent_drifts() -> None:
    old = parent()
    given = copy.deepcopy(old.state_dict())
    after = learned(hkt(old=old, released=True)).parent.state_dict()
    moved = {name for name in given if not torch.equal(given[name], after[name])}
    assert moved == {name for name in given if name.endswith(("running_mean", "running_var", "num_batches_tracked"))}
    assert equal(given, old.state_dict()), "the copy drifts, not what was given"


@pytest.mark.parametrize("released", [False, True])
def test_running_statistics_are_of_the_child_alone(released: bool) -> None:
    """What runs again with the parent's features leaves them alone; the released code moves them twice."""
    young = child()
    twin = copy.deepcopy(young).train()
    network = hkt(young, taps=("conv3", "pooled"), released=released).train()
    network(noise())
    twin(noise())
    same = equal(dict(twin.named_buffers()), dict(young.named_buffers()))
    assert same is not released
    assert all(m.track_running_stats for m in young.modules() if isinstance(m, nn.BatchNorm2d)), "as it was"


def test_the_child_learns_from_every_path() -> None:
    for paths in ((CHILD,), (MIXED,), (CHILD, PARENT)):
        network = hkt(paths=paths, mixer="genetic-agree").train()
        network.loss(network(noise()), LABELS, noise()).backward()  # type: ignore[no-untyped-call]
        assert all(p.grad is not None and bool(p.grad.any()) for p in network.child.head.parameters()), paths
    network = hkt(paths=(CHILD, PARENT), mixer="static").train()
    network(noise())[1].square().sum().backward()  # type: ignore[no-untyped-call]
    first = network.child.get_submodule("conv1.conv").weight.grad  # type: ignore[union-attr]
    assert first is not None and bool(first.any()), "through the parent's head"


def test_what_is_learnable_learns() -> None:
    network = hkt(mixer="learnable", taps=("conv6", "pooled"))
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    learned(network)
    still = [name for name, p in network.named_parameters() if torch.equal(before[name], p.detach().to("cpu"))]
    assert still == [] and any("strength" in name for name in before) and any(n.startswith("to_child") for n in before)


def test_transfer_helps_a_child_to_learn() -> None:
    """A parent that knows the classes pulls the mixed path's loss down from the first step on."""
    images = gratings(3, 30, noisy=0.5)
    wise = build(spec("vgg11", 5, 3), 0)
    train(wise, images, RECIPE, steps=80, seed=1, compute=CPU)
    wise.to("cpu").eval()
    losses = {}
    for name, old in (("wise", wise), ("random", build(spec("vgg11", 5, 3), 9))):
        network = hkt(child(width=5), old, mixer="static", paths=(MIXED,))
        losses[name] = train(network, images, RECIPE, steps=10, seed=2, compute=CPU, loss=network.loss).loss
    assert losses["wise"] < losses["random"]


# --- what is left --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ARCHS)
def test_what_is_left_is_exactly_the_child(arch: str) -> None:
    """Names, parameters, operations and answers of a plain network that was given the child's weights."""
    young = child(arch)
    stage = "conv5" if arch == "vgg11" else "stage3"
    network = learned(hkt(young, parent(arch), taps=(stage, "pooled"), mixer="learnable"))
    plain = child(arch)
    names = list(plain.state_dict())
    assert list(network.child.state_dict()) == names and network.child is young
    plain.load_state_dict(young.state_dict())
    counts = []
    for each in (young.to("cpu").eval(), plain.eval()):
        with FlopCounterMode(display=False) as flops, torch.no_grad():
            answers = each(noise(size=28))
        counts.append((flops.get_total_flops(), sum(p.numel() for p in each.parameters()), answers))
    (flops_child, size_child, answers_child), (flops_plain, size_plain, answers_plain) = counts
    assert flops_child == flops_plain > 0 and size_child == size_plain and torch.equal(answers_child, answers_plain)


# --- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"taps": ("conv9",)}, r"tap 'conv9': the child has no such stage; it has conv1, .*, conv8, pooled"),
        ({"taps": ("conv4=stage9",)}, r"tap 'stage9': the parent has no such stage"),
        ({"taps": ()}, "give at least one"),
        ({"taps": ("conv4", "conv4")}, "each stage once"),
        ({"taps": ("conv2=conv5", "conv5=conv2")}, "in the order of the child's"),
        ({"taps": ("conv8=pooled",)}, "tap maps with maps"),
        ({"mixer": "blender"}, "there is no mixer 'blender'"),
        ({"paths": ("child", "both")}, "there is no path 'both'; choose of child, mixed, parent"),
        ({"paths": ("parent",)}, "never ask the child's head"),
        ({"old": parent(classes=7)}, "the parent's head has 7 classes, the child's 3: fine-tune the parent"),
        ({"image_size": 8}, r"the child, a VGG11, cannot take images of 3 x 8 x 8"),
        ({"old": nn.Linear(3, 3)}, "Linear does not say where it can be tapped"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        hkt(**options)


class Grey(nn.Module):
    """A parent for images of one channel."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 4, 3), nn.Linear(4, 3)

    def stages(self) -> dict[str, Any]:
        return {"conv": self.conv, "pooled": lambda x: x.mean((2, 3))}


def test_other_channels_of_images_are_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"the parent, a Grey, cannot take images of 3 x 16 x 16 .* give a network for"
    ):
        hkt(old=Grey())


def test_a_parent_of_other_classes_may_give_features_alone() -> None:
    logits = hkt(old=parent(classes=7), paths=(CHILD, MIXED)).train()(noise())
    assert logits.shape == (2, 3, 3)
