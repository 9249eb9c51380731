"""InherNet of whole networks: sizes, starts, training, files, and what is refused."""

from __future__ import annotations

import json
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from pico import ARCHS, CPU, gratings, noise, spec, stir
from torch import nn

import gtl
from gtl.config import TrainingSection
from gtl.errors import ConfigError, DataError, StorageError
from gtl.models import build
from gtl.training import all_finite, train
from gtl.transfer import InherNetOptions, LoadBalance, inhernet, load_inhernet, merge, save_inhernet
from gtl.transfer.inhernet import InherNetReport
from gtl.transfer.inhernet_file import describe, rebuild
from gtl.transfer.low_rank import inherited_layers


def source(arch: str = "vgg11", width: int = 16, seed: int = 3) -> nn.Module:
    """A network whose norms are not those of a new one."""
    return stir(build(spec(arch, width), seed), seed)


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def options(**changes: Any) -> InherNetOptions:
    return InherNetOptions(**({} if {"energy", "budget", "rank"} & changes.keys() else {"rank": 4}), **changes)


class Mlp(nn.Module):
    """Linear layers alone; two of them may be one."""

    def __init__(self, *, tied: bool = False) -> None:
        super().__init__()
        self.enter, self.middle, self.again = nn.Linear(12, 20), nn.Linear(20, 20), nn.Linear(20, 20)
        self.leave = nn.Linear(20, 5)
        if tied:
            self.again.weight = self.middle.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in (self.enter, self.middle, self.again):
            x = torch.tanh(layer(x))
        return self.leave(x)


# --- what it computes ------------------------------------------------------------------------------------------------


def relative_error(network: nn.Module, other: nn.Module, x: torch.Tensor) -> float:
    with torch.no_grad():
        one, two = network.eval()(x), other.eval()(x)
    return float((one - two).norm() / two.norm())


@pytest.mark.parametrize("arch", ARCHS)
def test_the_full_rank_gives_the_parents_outputs(arch: str) -> None:
    parent, x = source(arch), noise(3, 32)
    full = options(energy=1.0, force=True, first="low-rank", classifier="low-rank")
    for deviation in (0.0, 0.005):
        network, report = inhernet(parent, InherNetOptions(**{**vars(full), "deviation": deviation}))
        assert relative_error(network, parent, x) < 1e-5
        assert all(layer.rank == layer.full_rank and layer.kept == pytest.approx(1.0) for layer in report.layers)
    third, _ = inhernet(parent, InherNetOptions(**{**vars(full), "released_scaling": True}))
    assert relative_error(third, parent, x) > 0.1


@pytest.mark.parametrize("kept", [("layer[34]*",), pytest.param((), marks=pytest.mark.slow)], ids=["half", "all"])
def test_the_full_rank_gives_torchvisions_outputs(kept: tuple[str, ...]) -> None:
    """Half of the layers in little time; all of them where slow tests run."""
    torch.manual_seed(0)
    parent = stir(torchvision.models.resnet18(num_classes=5), 1)  # type: ignore[arg-type]
    network, report = inhernet(parent, options(energy=1.0, force=True, first="low-rank", keep_dense=kept))
    assert relative_error(network, parent, noise(2, 32)) < 1e-4
    assert len(report.ranks) == (10 if kept else 20) and report.layers[-1].dense == "classifier"


@pytest.mark.parametrize("arch", ARCHS)
def test_more_rank_is_nearer_and_the_source_stays_as_it_was(arch: str) -> None:
    parent, x = source(arch), noise(3, 32)
    before = {name: tensor.clone() for name, tensor in parent.state_dict().items()}
    errors = [relative_error(inhernet(parent, options(energy=e, force=True))[0], parent, x) for e in (0.3, 0.8, 0.99)]
    assert errors[0] > errors[1] > errors[2] > 0
    assert all(torch.equal(before[name], tensor) for name, tensor in parent.state_dict().items())


def test_activations_choose_what_matters_on_these_images() -> None:
    """Of images that differ in few ways, as many dimensions keep more; and layer by layer no output is lost more."""
    parent = source()
    base = noise(1, 32, seed=5)
    images = base + 0.3 * noise(24, 32, seed=6)
    plain, _ = inhernet(parent, options(rank=4))
    seen, report = inhernet(parent, options(rank=4, shrink=0.0), images=images)
    assert report.weighted
    assert relative_error(seen, parent, images) < 0.9 * relative_error(plain, parent, images)
    bytes_ = gratings(3, 4, size=32).images
    by_bytes, _ = inhernet(parent, options(rank=4), images=bytes_)
    as_inputs = (bytes_.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25
    by_inputs, _ = inhernet(parent, options(rank=4), images=as_inputs)
    assert relative_error(by_bytes, by_inputs, noise(2, 32)) < 1e-3
    assert not parent.training


def test_centred_layers_with_biases_keep_their_mean_output() -> None:
    torch.manual_seed(1)
    parent, x = Mlp(), torch.rand(200, 12) + 2.0
    network, report = inhernet(parent, options(rank=2, centred=True, first="low-rank"), images=x)
    assert {layer.layer for layer in report.layers if layer.rank == 2} == {"enter", "middle", "again"}
    torch.testing.assert_close(network.enter(x).mean(0), parent.enter(x).mean(0), rtol=1e-4, atol=1e-5)
    plain, _ = inhernet(parent, options(rank=2, first="low-rank"), images=x)
    assert relative_error(network, parent, x) < relative_error(plain, parent, x)
    full, _ = inhernet(parent, options(energy=1.0, force=True, centred=True, first="low-rank"), images=x)
    assert relative_error(full, parent, x) < 1e-5
    with pytest.raises(ConfigError, match="centred: there is no mean to take out without images"):
        inhernet(parent, options(rank=2, centred=True))


def test_a_gtl_network_still_gives_features_and_activations() -> None:
    parent = build(spec("vgg11", 16), 3).eval()
    network, _ = inhernet(parent, options())
    assert network.features(noise(2, 32)).shape == (2, 16)  # type: ignore[operator]
    assert list(network.activations(noise(2, 32))) == list(parent.widths)  # type: ignore[operator]


def test_a_fresh_classifier_for_other_classes() -> None:
    parent, x = source(), noise(2, 32)
    network, report = inhernet(parent, options(), classes=7, seed=1)
    assert network(x).shape == (2, 7) and network.spec.num_classes == 7  # type: ignore[union-attr]
    last = report.layers[-1]
    assert (last.layer, last.dense, last.before, last.after) == ("head", "classifier, fresh", 17 * 3, 17 * 7)
    again, _ = inhernet(parent, options(), classes=7, seed=1)
    other, _ = inhernet(parent, options(), classes=7, seed=2)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))
    assert not torch.equal(network.head.weight, other.head.weight)  # type: ignore[union-attr]
    kept, _ = inhernet(parent, options())
    assert torch.equal(kept.head.weight, parent.head.weight)  # type: ignore[union-attr]


# --- how large it is -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("experts", [1, 2])
def test_the_report_counts_what_is_there(arch: str, experts: int) -> None:
    parent = source(arch)
    network, report = inhernet(parent, options(rank=3, experts=experts))
    assert (report.before, report.after) == (parameters(parent), parameters(network))
    assert report.share == report.after / report.before < 1
    for layer in report.layers:
        assert layer.before == parameters(parent.get_submodule(layer.layer))
        assert layer.after == parameters(network.get_submodule(layer.layer))
        assert (layer.rank is None) == bool(layer.dense) and (layer.rank is None or layer.after < layer.before)
    dense = {layer.layer: layer.dense for layer in report.layers if layer.dense}
    first = report.layers[0].layer
    assert dense[first] == "first convolution" and dense["head"] == "classifier"
    assert set(report.ranks.values()) == {3} and len(report.ranks) + len(dense) == len(report.layers)
    json.dumps(report.to_json(), allow_nan=False)


def test_the_published_sizes_are_ours_but_for_their_biases() -> None:
    """The demo's ResNet18 for 10 classes at rank 32 with 3 heads: 1,487,846, of which each head has a bias of its own."""
    network = torchvision.models.resnet18(num_classes=10)
    assert parameters(network) == 11_181_642
    convolutions = {n: x.out_channels for n, x in network.named_modules() if isinstance(x, nn.Conv2d)}
    rebuild(network, {"format": 1, "layers": {name: [32, 3] for name in convolutions}})
    assert parameters(network) == 1_487_846 - 3 * sum(convolutions.values())


def test_layers_stay_dense_where_a_rank_saves_nothing() -> None:
    parent = source("resnet12")
    _, report = inhernet(parent, options(rank=15))
    reasons = {layer.layer: layer.dense for layer in report.layers}
    assert reasons["stage2.a.conv"] == "rank 15 is no smaller than the layer"
    _, report = inhernet(parent, options(rank=16))
    reasons = {layer.layer: layer.dense for layer in report.layers}
    assert reasons["stage2.a.conv"] == "rank 16 is not below its full rank 16" and report.after == report.before
    assert (
        inhernet(parent, options(rank=15, force=True, first="low-rank", keep_dense=("stage1.out.shortcut",)))[1].share
        > 1
    )


def test_energy_is_kept_by_no_more_than_it_needs() -> None:
    parent = source()
    for energy in (0.5, 0.9):
        _, report = inhernet(parent, options(energy=energy, experts=1))
        assert report.ranks
        for name, rank in report.ranks.items():
            values = torch.linalg.svdvals(parent.get_parameter(f"{name}.weight").detach().flatten(1).double()).square()
            shares = values.cumsum(0) / values.sum()
            assert shares[rank - 1] >= energy - 1e-9 and (rank == 1 or shares[rank - 2] < energy)
            assert next(x.kept for x in report.layers if x.layer == name) == pytest.approx(float(shares[rank - 1]))


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("budget", [0.25, 0.5, 0.9])
def test_a_budget_is_met_from_below_as_near_as_one_dimension(arch: str, budget: float) -> None:
    parent = source(arch)
    network, report = inhernet(parent, options(budget=budget))
    limit = budget * parameters(parent)
    assert parameters(network) <= limit
    for name, rank in report.ranks.items():
        more, _ = inhernet(parent, options(rank=ranks_of(report) | {name: rank + 1}))
        assert parameters(more) > limit, f"one more dimension of {name} would have fitted"


def ranks_of(report: InherNetReport) -> dict[str, int]:
    """A rank for every layer that could have one: what a budget left dense stays so at its full rank."""
    return {x.layer: x.rank or x.full_rank for x in report.layers if x.rank or x.dense.startswith("rank")}


def test_the_smallest_budget_is_possible_and_nothing_below_it() -> None:
    parent = source()
    with pytest.raises(ConfigError, match=r"budget 0\.01 allows .* smallest possible budget is 0\.\d+") as refused:
        inhernet(parent, options(budget=0.01))
    least = float(str(refused.value).rsplit(" ", 1)[1])
    _, report = inhernet(parent, options(budget=least))
    assert set(report.ranks.values()) == {1}
    with pytest.raises(ConfigError, match="smallest possible"):
        inhernet(parent, options(budget=least - 0.001))


def test_a_whole_budget_changes_nothing() -> None:
    parent = source()
    network, report = inhernet(parent, options(budget=1.0))
    assert report.ranks == {} and report.share == 1.0 and relative_error(network, parent, noise(2, 32)) == 0.0


# --- experts ---------------------------------------------------------------------------------------------------------


def trained(network: nn.Module, loss: LoadBalance | None = None, steps: int = 30) -> nn.Module:
    recipe = TrainingSection(learning_rate=0.05, batch_size=12, crop_padding=1)
    images = gratings(3, 12, noisy=0.3, size=28)
    result = train(network, images, recipe, steps=steps, seed=1, compute=CPU, loss=loss)
    assert result.finite
    return network


@pytest.mark.parametrize("deviation", [0.0, 0.005])
def test_it_learns_and_its_experts_become_different(deviation: float) -> None:
    images = gratings(3, 12, noisy=0.3, size=28)
    network, _ = inhernet(build(spec("vgg11", 8), 3), options(rank=2, deviation=deviation))
    before = {name: layer.up.detach().clone() for name, layer in inherited_layers(network).items()}
    recipe = TrainingSection(learning_rate=0.05, batch_size=12, crop_padding=1)
    losses = [train(network, images, recipe, steps=n, seed=1, compute=CPU).loss for n in (1, 30)]
    assert losses[1] < 0.8 * losses[0]
    for name, layer in inherited_layers(network).items():
        assert layer.gate is not None and layer.gate.weight.any() and not torch.equal(layer.up, before[name])
        apart, born_apart = (up - up.mean(dim=0) for up in (layer.up.detach(), before[name]))
        assert (apart - born_apart).abs().max() > 1e-5 and all_finite(layer.state_dict().values())


def test_norms_learn_in_every_epoch() -> None:
    """The published loop trains in eval mode from the second epoch on; ours does not, though it is evaluated between."""
    network, _ = inhernet(source("vgg11", 8), options(rank=2))
    seen = []
    recipe = TrainingSection(learning_rate=0.01, batch_size=12, crop_padding=1)
    images = gratings(3, 12, noisy=0.3, size=28)

    def between(progress: object) -> None:
        network.eval()
        seen.append(network.get_buffer("conv4.norm.running_mean").clone())

    train(network, images, recipe, steps=9, seed=1, compute=CPU, on_epoch=between)
    assert len(seen) == 2 and not torch.equal(seen[0], seen[1])


def test_merging_under_a_constant_gate_is_exact() -> None:
    parent, x = source(), noise(3, 32)
    network, report = inhernet(parent, options(rank=3, deviation=0.2))
    for number, layer in enumerate(inherited_layers(network).values()):
        assert layer.gate is not None
        layer.gate.bias.data = torch.tensor([0.3, -0.2, 0.5]) * number  # not equal weights: of experts that differ
    for dense in (False, True):
        merged, said = merge(network, dense=dense)
        assert relative_error(merged, network, x) < 1e-5
        assert said.averaged == () and set(said.constant) == set(report.ranks) and said.error is None
        assert said.after == parameters(merged) and not inherited_layers(merged)
        assert merged.training == network.training
    assert {type(module) for module in merged.modules()} == {type(module) for module in parent.modules()}
    parent.load_state_dict(merged.state_dict())  # one convolution for each: the source's own shapes
    pairs, said = merge(network)
    conv = pairs.get_submodule("conv2.conv")
    assert isinstance(conv, nn.Sequential) and [x.kernel_size for x in conv] == [(3, 3), (1, 1)]  # type: ignore[union-attr]
    assert said.after < said.before < parameters(parent)


def test_merging_a_gate_that_learned_says_what_it_costs() -> None:
    network, report = inhernet(build(spec("vgg11", 8), 3), options(rank=2, deviation=0.005))
    trained(network)
    images = gratings(3, 4, size=28).images
    with pytest.raises(ConfigError, match=r"the gate of conv2\.conv and of \d more is not constant; give images"):
        merge(network)
    merged, said = merge(network, images)
    inputs = (images.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25
    assert said.error is not None and said.error == pytest.approx(relative_error(merged, network, inputs), rel=1e-2)
    assert set(said.averaged) == set(report.ranks) and 0 < said.error < 0.5
    layer, logits = inherited_layers(network)["conv2.conv"], []
    assert layer.gate is not None
    hook = layer.gate.register_forward_hook(lambda gate, given, found: logits.append(found))
    with torch.no_grad():
        network(inputs)
    hook.remove()
    mean = torch.einsum("h,hor->or", logits[0].softmax(dim=1).mean(dim=0), layer.up)
    torch.testing.assert_close(merged.get_parameter("conv2.conv.1.weight")[:, :, 0, 0], mean, rtol=1e-4, atol=1e-6)


def test_merging_refuses_what_has_no_experts() -> None:
    with pytest.raises(ConfigError, match="no inherited layer to merge"):
        merge(source())


def test_balance_is_what_the_formula_says() -> None:
    network, _ = inhernet(source("vgg11", 8), options(rank=2))
    layers = list(inherited_layers(network).values())
    with LoadBalance(network, weight=0.5) as loss:
        for layer in layers:
            assert layer.gate is not None
            layer.gate.weight.data.zero_()
            layer.gate.bias.data.zero_()
        logits, labels = network(noise(4, 32)), torch.tensor([0, 1, 2, 0])
        assert loss.imbalance().item() == pytest.approx(0.0, abs=1e-5)
        for layer in layers:
            layer.gate.bias.data = torch.tensor([50.0, 0.0, 0.0])  # type: ignore[union-attr]
        logits = network(noise(4, 32))
        assert loss.imbalance().item() == pytest.approx(2.0, abs=1e-5), "one of three experts gets all: H - 1"
        plain = nn.functional.cross_entropy(logits, labels)
        assert loss(logits, labels, noise(4, 32)).item() == pytest.approx(plain.item() + 0.5 * 2.0, rel=1e-5)
    assert loss.imbalance().item() == 0.0
    with pytest.raises(ConfigError, match="no gates to balance"):
        LoadBalance(inhernet(source(), options(experts=1))[0])


def test_balance_holds_gates_back() -> None:
    found = []
    for weight in (0.0, 3.0):
        network, _ = inhernet(source("vgg11", 8), options(rank=2))
        for layer in inherited_layers(network).values():
            layer.gate.bias.data = torch.tensor([2.0, 0.0, 0.0])  # type: ignore[union-attr]
        with LoadBalance(network, weight) as loss:
            trained(network, loss)
            network(noise(6, 28))
            found.append(loss.imbalance().item())
    assert found[1] < 0.5 * found[0]


# --- files -----------------------------------------------------------------------------------------------------------


def test_a_file_is_rebuilt_without_its_source(tmp_path: Path) -> None:
    parent = gtl.models.resnet12(4, 0.125)
    network, _ = inhernet(parent, options(rank=3, deviation=0.005), classes=4)
    path = tmp_path / "child.safetensors"
    save_inhernet(network, path, {"name": "resnet12", "classes": 4, "width": 0.125, "family": "64-128-256-512"})
    again = load_inhernet(path)
    x = noise(2, 32)
    assert torch.equal(again(x), network.eval()(x)) and describe(again) == describe(network)
    with pytest.raises(StorageError, match="exists already"):
        save_inhernet(network, path)
    other = gtl.models.resnet12(5, 0.125)
    with pytest.raises(ConfigError, match="does not fit this network"):
        load_inhernet(path, other)
    with pytest.raises(ConfigError, match=r"'stage1\.b\.conv', which this network has not"):
        load_inhernet(path, gtl.models.vgg11(4, 0.125))


def test_a_users_network_is_brought_by_the_user(tmp_path: Path) -> None:
    network, _ = inhernet(Mlp(), options(rank=3))
    path = tmp_path / "mlp.safetensors"
    save_inhernet(network, path, {"name": "mine:mlp", "classes": 5})
    with pytest.raises(ConfigError, match="of your own 'mine:mlp'; build it and give it"):
        load_inhernet(path)
    x = torch.randn(3, 12, generator=torch.Generator().manual_seed(1))
    assert torch.equal(load_inhernet(path, Mlp())(x), network.eval()(x))


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ({"format": 2, "layers": {}}, "not a record of an InherNet of format 1"),
        ({"format": 1, "layers": {"middle": [3]}}, "not a rank and a number of experts"),
        ({"format": 1, "layers": {"middle": [True, 3]}}, "not a rank and a number of experts"),
        ({"format": 1, "layers": {"middle": [0, 3]}}, "rank 0 and 3 experts"),
        ({"format": 1, "layers": {"middle": [3, 10**9]}}, "experts, which cannot be"),
        ({"format": 1, "layers": {"middle": [21, 3]}}, "rank 21 for 'middle', here the largest is 20"),
        ({"format": 1, "layers": {"other": [3, 3]}}, "'other', which this network has not"),
        ({"format": 1, "layers": {"": [3, 3]}}, "here it is a Mlp"),
    ],
)
def test_records_that_cannot_be_are_refused(record: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        rebuild(Mlp(), record)


def test_files_that_are_something_else_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    plain, broken = tmp_path / "plain.safetensors", tmp_path / "broken.safetensors"
    save_file({"x": torch.zeros(2)}, plain)
    broken.write_bytes(b"no file of tensors")
    with pytest.raises(ConfigError, match="its metadata has no 'inhernet'"):
        load_inhernet(plain)
    for path in (broken, tmp_path / "absent.safetensors"):
        with pytest.raises(ConfigError, match="cannot be read as a safetensors file"):
            load_inhernet(path)
    for text, says in (
        ("{", "not acceptable JSON"),
        ("[]", "does not say which network it is"),
        ('{"network": {"name": "vgg11", "classes": 99999999999}}', "99999999999 classes"),
        ('{"network": {"name": "vgg12", "classes": 3}}', "unknown network 'vgg12'"),
    ):
        save_file({"x": torch.zeros(2)}, plain, {"inhernet": text})
        with pytest.raises(ConfigError, match=says):
            load_inhernet(plain)


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, "exactly one of rank, energy and budget, not none"),
        ({"rank": 3, "budget": 0.2}, "exactly one of rank, energy and budget, not rank and budget"),
        ({"rank": 0}, "rank 0: a rank is at least 1"),
        ({"energy": 0.0}, r"energy 0\.0: a share lies above 0"),
        ({"energy": 1.01}, r"energy 1\.01"),
        ({"budget": float("nan")}, "budget nan"),
        ({"rank": 3, "experts": 0}, "experts 0: give 1 to 64"),
        ({"rank": 3, "experts": 1, "deviation": 0.1}, "one expert has nobody to deviate from"),
        ({"rank": 3, "deviation": -1.0}, r"deviation -1\.0"),
        ({"rank": 3, "shrink": 2.0}, r"shrink 2\.0"),
        ({"rank": 3, "first": "thin"}, "first 'thin': give dense or low-rank"),
    ],
)
def test_options_that_cannot_be_are_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        InherNetOptions(**changes)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (options(rank=21), "rank 21 is over the maximum of every layer; the largest is 20, of middle"),
        (options(rank=13, force=True), "rank 13 is over the maximum of enter, which is 12; give at most that"),
        (options(rank={"enter": 13, "middle": 3, "again": 3}), "rank 13 is over the maximum of enter"),
        (options(rank={"enter": 3, "middle": 0, "again": 3}), "rank 0 of middle"),
        (options(rank={"enter": 3, "center": 3}), "give one for each of enter, middle, again; wrong or missing: again"),
        (options(keep_dense=("center",)), "no layer is called center; there are enter, middle, again, leave"),
        (options(keep_dense=("*",)), "no layer of this network is left to become low-rank"),
        (options(head="enter2"), "head 'enter2' is no linear layer"),
    ],
)
def test_sizes_and_names_that_do_not_fit_are_refused(given: InherNetOptions, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        inhernet(Mlp(), given)


def test_networks_that_have_no_low_rank_form_are_refused() -> None:
    depthwise = nn.Sequential(
        OrderedDict(
            first=nn.Conv2d(3, 8, 3),
            each=nn.Conv2d(8, 8, 3, groups=8),
            mix=nn.Conv2d(8, 16, 1),
            norm=nn.BatchNorm2d(16),
        )
    )
    with pytest.raises(
        ConfigError, match=r"each: a grouped convolution has no low-rank form here; .*keep_dense=\['each'\]"
    ):
        inhernet(depthwise, options(rank=2))
    network, report = inhernet(depthwise, options(rank=2, experts=1, keep_dense=("each",)))
    assert report.ranks == {"mix": 2} and network(noise(2)).shape == (2, 16, 12, 12)
    with pytest.raises(ConfigError, match="classes: the network has no linear layer"):
        inhernet(depthwise, options(rank=2, keep_dense=("each",)), classes=3)
    with pytest.raises(ConfigError, match="BatchNorm2d has no convolution"):
        inhernet(nn.BatchNorm2d(3), options())
    with pytest.raises(ConfigError, match=r"put it into an nn\.Sequential"):
        inhernet(nn.Linear(8, 8), options())
    with pytest.raises(ConfigError, match=r"an InherNet already; merge its experts first"):
        inhernet(network, options())
    with pytest.raises(
        ConfigError, match=r"middle\.weight and again\.weight are one shared weight; .*keep_dense=\['middle'"
    ):
        inhernet(Mlp(tied=True), options(rank=3))
    kept, report = inhernet(Mlp(tied=True), options(rank=3, keep_dense=("middle", "again")))
    assert list(report.ranks) == ["enter"] and kept.again.weight is kept.middle.weight  # type: ignore[union-attr]
    lost = Mlp()
    with torch.no_grad():
        lost.middle.weight[0, 0] = float("inf")
    with pytest.raises(ConfigError, match=r"middle\.weight has values that are not finite"):
        inhernet(lost, options(rank=3))


def test_layers_of_a_users_own_kind_stay_as_they_are() -> None:
    class Doubled(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    parent = Mlp()
    parent.middle = Doubled(20, 20)
    network, report = inhernet(parent, options(rank=3))
    assert type(network.middle) is Doubled  # type: ignore[union-attr]
    assert {x.layer: x.dense for x in report.layers}["middle"] == "Doubled, whose forward pass may be its own"


def test_images_that_cannot_be_read_are_refused() -> None:
    parent = source()
    with pytest.raises(ConfigError, match=r"cannot read images of shape \(5, 32, 32\)"):
        inhernet(parent, options(), images=torch.zeros(2, 5, 32, 32))
    with pytest.raises(DataError, match="no images were given"):
        inhernet(parent, options(), images=torch.zeros(0, 3, 32, 32))
    with pytest.raises(DataError, match=r"conv2\.conv gives values that are not finite"):
        inhernet(parent, options(), images=torch.full((2, 3, 32, 32), float("inf")))


def test_the_python_name_is_the_function_whatever_was_imported_before() -> None:
    import gtl.transfer.inhernet_start

    assert gtl.transfer.inhernet is inhernet


def test_options_travel() -> None:
    given = options(rank={"a": 3}, keep_dense=("b",))
    assert pickle.loads(pickle.dumps(given)) == given
