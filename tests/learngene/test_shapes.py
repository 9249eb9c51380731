"""Descendants of other shapes: the circuit stays one circuit, and every parameter is accounted for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from gene_files import make_gene
from pico import ARCHS, GROUPS, noise
from torch import nn
from torchvision.models import ResNet, resnet18, resnet50, vgg16_bn
from torchvision.models.resnet import BasicBlock, Bottleneck

import gtl
from gtl.errors import ConfigError, GeneMismatchError
from gtl.learngene.artifact import Learngene
from gtl.learngene.placing import Placement, Role
from gtl.models import ArchSpec, Backbone, Block, Unit, backbone_of, build, register
from gtl.phenotype import thin_network


class Chain(nn.Module):
    """A user's network: convolutions of these widths, level by level, pooled in between."""

    def __init__(self, levels: Sequence[Sequence[int]], classes: int = 5, bias: bool = False, kernel: int = 3) -> None:
        super().__init__()
        self.levels = [list(level) for level in levels]
        layers: list[nn.Module] = []
        inputs = 3
        for number, level in enumerate(levels):
            layers += [nn.MaxPool2d(2)] if number else []
            for width in level:
                layers += [
                    nn.Conv2d(inputs, width, kernel, padding=kernel // 2, bias=bias),
                    nn.BatchNorm2d(width),
                    nn.ReLU(),
                ]
                inputs = width
        self.body = nn.Sequential(*layers)
        self.classify = nn.Linear(inputs, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classify(self.body(x).mean((2, 3)))  # type: ignore[no-any-return]


def chain_backbone(network: Chain) -> Backbone:
    """As its constructor lays it out."""
    levels: list[list[Block]] = [[]]
    for name, module in network.body.named_children():
        if isinstance(module, nn.MaxPool2d):
            levels.append([])
        elif isinstance(module, nn.Conv2d):
            levels[-1].append(Block((Unit(f"body.{name}", f"body.{int(name) + 1}"),)))
    return Backbone(tuple(map(tuple, levels)))


register(Chain, chain_backbone)
VGG_LEVELS = ((9,), (9,), (9, 9), (9, 9), (9, 9))


def lively(network: nn.Module, seed: int = 1) -> nn.Module:
    """With norms that are none the identity."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.uniform_(-0.5, 0.5, generator=generator)
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.uniform_(-0.5, 0.5, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    return network.eval()


def at_norms(network: nn.Module, placement: Placement, images: torch.Tensor) -> list[torch.Tensor]:
    """What the norm of every unit gives in the circuit's channels."""
    found: list[torch.Tensor] = []
    hooks = [
        network.get_submodule(place.unit.norm).register_forward_hook(
            lambda module, _, out, rows=place.rows: found.append(out[:, rows])  # type: ignore[misc]
        )
        for place in placement.places
    ]
    with torch.no_grad():
        network(images)
    for hook in hooks:
        hook.remove()
    return found


def families() -> list[nn.Module]:
    """Descendants of all kinds."""
    small = ResNet(BasicBlock, [2, 1, 1, 1], num_classes=5)
    own = [
        build(ArchSpec(arch, tuple((group, width) for group in GROUPS[arch]), 5), 1)
        for arch in ARCHS
        for width in (3, 12)
    ]
    deeper = Chain(((9, 9), (9, 9), (9, 9, 9), (9, 9, 9), (9, 9, 9), (7,)), bias=True)
    shallower = Chain(((9,), (9,), (9,)))
    return [
        *own,
        small,
        ResNet(Bottleneck, [1, 1, 1, 1], num_classes=5),
        deeper,
        shallower,
        Chain(VGG_LEVELS, kernel=5),
    ]


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("number", range(len(families())))
def test_whatever_the_shape_the_circuit_hears_only_itself(arch: str, number: int) -> None:
    gene, network = make_gene(arch, seed=3), lively(families()[number])
    placement = Placement(network, backbone_of(network), gene)
    report = gtl.inherit(network, gene)
    assert report.inherited + report.zero_filled + report.identity + report.fresh == sum(
        p.numel() for p in network.parameters()
    )
    assert report.inherited > 0 and report.notes == tuple(placement.notes)
    images = noise(2, 32)
    before = at_norms(network, placement, images)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter[placement.roles[name] == Role.FRESH] += 0.7
    for first, second in zip(before, at_norms(network, placement, images), strict=True):
        torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-4)
    assert all(torch.isfinite(each).all() for each in before)


def test_a_deeper_chain_ends_in_what_the_gene_computes_alone() -> None:
    gene = make_gene("vgg11", seed=5)
    thin = thin_network("vgg11", gene.genotype, gene.tensors)
    lively(thin)
    tensors = {name: tensor for name, tensor in thin.state_dict().items() if not name.startswith("head.")}
    gene = Learngene(gene.arch, gene.genotype, {n: tensors[n] for n in gene.tensors}, gene.shares, gene.provenance)
    network = lively(Chain(((9, 9), (9, 9, 9), (9, 9, 9), (9, 9), (9, 9, 9)), bias=True), 2)
    report = gtl.inherit(network, gene)
    images = noise(3, 32)
    with torch.no_grad():
        alone = thin.features(images)
        whole = network.body(images).mean((2, 3))  # type: ignore[operator]
    placement = Placement(network, backbone_of(network), gene)
    torch.testing.assert_close(whole[:, placement.places[-1].rows], alone, rtol=1e-3, atol=1e-3)
    taken = [group.of for group in report.groups]
    assert [of for of in taken if of] == list(GROUPS["vgg11"]) and taken.count("") == len(taken) - 8
    assert report.notes == () and report.identity > 0


def test_what_is_narrower_takes_the_most_important_channels_and_says_so() -> None:
    gene = make_gene("vgg11", seed=8)
    counts = gene.genotype.counts
    network = build(ArchSpec("vgg11", tuple((group, max(1, count - 1)) for group, count in counts.items()), 4), 1)
    report = gtl.inherit(network, gene)
    narrowed = [group for group in report.groups if counts[group.group] > 1]
    assert all(group.kept == group.channels for group in report.groups)
    assert len(report.notes) == len(narrowed) > 0 and f"{narrowed[0].group} has room for" in report.notes[0]


def test_a_shallower_network_leaves_the_end_out_and_says_so() -> None:
    gene = make_gene("vgg11", seed=3)
    report = gtl.inherit(Chain(((9,), (9,), (9,))), gene)
    assert [group.of for group in report.groups] == ["conv1", "conv2", "conv3"]
    (note,) = report.notes
    assert note.startswith("the gene's conv4, conv5, conv6, conv7, conv8 found no place")


def test_a_residual_gene_without_its_shortcuts_says_so() -> None:
    report = gtl.inherit(Chain(VGG_LEVELS), make_gene("resnet12", seed=3))
    assert any("without its shortcut" in note for note in report.notes)


@pytest.mark.parametrize(("make", "units", "levels"), [(vgg16_bn, 13, 5), (resnet18, 17, 5), (resnet50, 49, 5)])
def test_torchvisions_networks_are_known(make: object, units: int, levels: int) -> None:
    with torch.device("meta"):
        network = make(weights=None)  # type: ignore[operator]
    found = backbone_of(network)
    assert len(found.levels) == levels and sum(len(block.units) for _, block in found.blocks) == units


def test_a_stem_for_small_images_is_one_level_with_the_first_layer() -> None:
    network = ResNet(BasicBlock, [1, 1, 1, 1])
    network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    network.maxpool = nn.Identity()  # type: ignore[assignment]
    assert [len(level) for level in backbone_of(network).levels] == [2, 1, 1, 1]


def test_wrong_declarations_name_what_is_wrong() -> None:
    network = Chain(((4, 5),))
    first, second = Unit("body.0", "body.1"), Unit("body.3", "body.4")
    for units, message in (
        ((Unit("body.9", "body.1"),), "body.9 is not there"),
        ((Unit("body.1", "body.1"),), "body.1 is a BatchNorm2d"),
        ((Unit("body.0", "body.2"),), "body.2 is a ReLU"),
        ((Unit("body.0", "body.4"),), "body.4 has 5 channels, body.0 gives 4"),
        ((second,), "body.3 reads 4 channels, but 3 come before"),
    ):
        with pytest.raises(ConfigError, match=message):
            gtl.inherit(network, make_gene(), Backbone(((Block(units),),)))
    with pytest.raises(ConfigError, match="adds 3 channels to 5; declare its shortcut"):
        Backbone(((Block((first, second), residual=True),),)).check(network)
    with pytest.raises(ConfigError, match="residual=True"):
        Block((first,), shortcut=second)
    with pytest.raises(ConfigError, match=r"how Linear is built; declare it with gtl\.models\.register"):
        gtl.inherit(nn.Linear(2, 2), make_gene())


def test_a_first_kernel_that_is_too_small_is_refused() -> None:
    with pytest.raises(GeneMismatchError, match=r"body\.0, the first convolution .* cannot hold conv1"):
        gtl.inherit(Chain(((9,), (9,)), kernel=1), make_gene())


def test_the_examples_of_the_documentation_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parents[2] / "docs/inheritance.md").read_text("utf-8")
    examples = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    make_gene("vgg11", seed=3).save("gene.safetensors")
    names: dict[str, object] = {}
    for example in examples:
        exec(example, names)
    assert len(examples) == 2 and isinstance(names["report"], gtl.InheritReport) and names["report"].inherited > 0
    network = names["small_resnet18"](4)  # type: ignore[operator]
    assert gtl.inherit(network, make_gene("vgg11", seed=3)).groups[0].of == "conv1"
