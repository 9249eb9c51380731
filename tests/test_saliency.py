"""Saliency of newborns: maps are where a network answers, the gene's part of them is the gene's, and the number is honest."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from pico import ARCHS, CPU, equal, gratings, random_genotype, spec, stir
from scipy.stats import spearmanr

from gtl.data.images import ImageSet
from gtl.fewshot import SCRATCH, Start
from gtl.learngene.starts import gene_start, scratch_start
from gtl.models import ArchSpec, ConvNet, build
from gtl.phenotype import newborn, thin_network
from gtl.saliency import (
    NEWBORNS,
    PICTURED,
    attention,
    compare_maps,
    deepest_group,
    grad_cam,
    rank_agreement,
    upsampled,
)
from gtl.surgery import gather

ORDER = (SCRATCH, "learngene", "pretrained")


def pictures(count: int, size: int = 16, seed: int = 0) -> torch.Tensor:
    """uint8 noise."""
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8))


def set_kernel(network: ConvNet, group: str, kernel: torch.Tensor) -> None:
    weight = network.get_submodule(group).get_submodule("conv").weight
    assert isinstance(weight, torch.nn.Parameter)
    weight.data = kernel.to(memory_format=torch.channels_last)


def edge_network() -> ConvNet:
    """A VGG11 whose first layer sees edges, upright and lying, of both signs, and whose others hand on what it saw."""
    upright = torch.tensor([[1.0, 0.0, -1.0]] * 3)
    filters = torch.stack([upright, -upright, upright.T, -upright.T])
    network = build(spec("vgg11", 4), 0).eval()
    set_kernel(network, "conv1", filters[:, None].expand(-1, 3, -1, -1) / 9)
    onward = torch.zeros(4, 4, 3, 3)
    onward[range(4), range(4), 1, 1] = 1.0
    for number in range(2, 9):
        set_kernel(network, f"conv{number}", onward.clone())
    return network


def with_patch(row: int, column: int, lying: bool, size: int = 8, onto: torch.Tensor | None = None) -> torch.Tensor:
    """A 32 x 32 grey image with a patch of bright stripes, uint8 ``(32, 32, 3)``."""
    image = torch.full((32, 32, 3), 128, dtype=torch.uint8) if onto is None else onto.clone()
    stripes = torch.where(torch.arange(size) % 4 < 2, 255, 128).to(torch.uint8)
    patch = stripes[:, None].expand(size, size) if lying else stripes.expand(size, size)
    image[row : row + size, column : column + size] = patch[..., None]
    return image


def peak(maps: torch.Tensor) -> tuple[int, int]:
    row, column = np.unravel_index(int(upsampled(maps, 32)[0].argmax()), (32, 32))
    return int(row), int(column)


# --- maps ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ARCHS)
def test_maps_are_of_the_images_shape_and_range(arch: str) -> None:
    network = build(spec(arch, 8), 1)
    support = pictures(6, seed=1).view(3, 2, 16, 16, 3)
    for maps in (
        attention(network, pictures(5), CPU),
        grad_cam(network, pictures(5), torch.tensor([0, 0, 1, 1, 2]), support, CPU),
    ):
        assert maps.shape == (5, 8, 8) and maps.dtype == torch.float32 and maps.min() >= 0
        large = upsampled(maps, 16)
        assert large.shape == (5, 16, 16) and large.dtype == torch.float32
        assert large.amin() >= 0 and large.amax() <= 1
        assert torch.allclose(large.amax(dim=(1, 2)), torch.ones(5)), "each its own scale"
    assert not upsampled(torch.full((2, 4, 4), 3.0), 8).any(), "a constant map shows nothing"


@pytest.mark.parametrize(
    ("arch", "size", "group"),
    [("vgg11", 32, "conv4"), ("vgg11", 28, "conv4"), ("vgg11", 84, "conv6"), ("resnet12", 32, "stage3.out"),
     ("resnet12", 84, "stage4.out")],
)  # fmt: skip
def test_the_deepest_group_that_still_sees_places(arch: str, size: int, group: str) -> None:
    assert deepest_group(build(spec(arch), 0), pictures(1, size), CPU) == group


@pytest.mark.parametrize("arch", ARCHS)
def test_a_genes_part_of_a_newborns_map_is_the_genes(arch: str) -> None:
    """The circuit is isolated at birth, so its channels answer as they do alone."""
    host = spec(arch, 6)
    whole = stir(build(host, 3), 4)
    genotype = random_genotype(whole.layout.groups, 5, 0.5)
    tensors = gather(whole.state_dict(), whole.layout, genotype)
    born, alone = newborn(host, genotype, tensors, 6), thin_network(arch, genotype, tensors)
    images = pictures(3)
    for group, mask in genotype.items():
        own = attention(alone, images, CPU, group=group)
        within = attention(born, images, CPU, group=group, channels=mask.kept)
        assert torch.allclose(own, within, rtol=1e-4, atol=1e-6), group
        assert not torch.allclose(own, attention(born, images, CPU, group=group), rtol=1e-2), "others answer, too"


@pytest.mark.parametrize(("row", "column"), [(4, 4), (18, 6), (12, 20)])
def test_attention_peaks_in_the_textured_patch(row: int, column: int) -> None:
    y, x = peak(attention(edge_network(), with_patch(row, column, lying=True)[None], CPU))
    assert row <= y < row + 8 and column <= x < column + 8


def test_grad_cam_finds_what_speaks_for_the_class() -> None:
    """Two patches in one image: upright stripes are one class, lying ones the other."""
    both = with_patch(4, 4, lying=True, onto=with_patch(20, 20, lying=False))
    support = torch.stack(
        [torch.stack([with_patch(12, 12, lying), with_patch(8, 16, lying)]) for lying in (False, True)]
    )
    maps = grad_cam(edge_network(), torch.stack([both, both]), torch.tensor([0, 1]), support, CPU)
    (upright, lying) = (peak(maps[index : index + 1]) for index in (0, 1))
    assert min(upright) >= 20 and max(upright) < 28, "label 0"
    assert min(lying) >= 4 and max(lying) < 12, "label 1"


def test_an_image_is_looked_at_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither batches nor frozen weights change a map."""
    network = stir(build(spec(), 1), 2)
    images, labels = pictures(5), torch.tensor([0, 1, 1, 0, 1])
    support = pictures(4, seed=1).view(2, 2, 16, 16, 3)
    together = grad_cam(network, images, labels, support, CPU), attention(network, images, CPU)
    network.requires_grad_(False)
    monkeypatch.setattr(type(CPU), "eval_batch", 2)
    apart = grad_cam(network, images, labels, support, CPU), attention(network, images, CPU)
    for one, other in zip(together, apart, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-6)
    with pytest.raises(KeyError):
        attention(network, images, CPU, group="conv9")


# --- the number ----------------------------------------------------------------------------------------------------


def test_rank_agreement_is_spearmans() -> None:
    draw = torch.Generator().manual_seed(0)
    maps, others = torch.rand(6, 5, 5, generator=draw), torch.rand(6, 5, 5, generator=draw).round(decimals=1)  # ties
    assert np.allclose(rank_agreement(maps, maps), 1.0) and np.allclose(rank_agreement(maps, -maps), -1.0)
    assert np.allclose(rank_agreement(maps, maps**3), 1.0), "only the order counts"
    expected = [spearmanr(a.flatten(), b.flatten()).statistic for a, b in zip(maps, others, strict=True)]
    assert np.allclose(rank_agreement(maps, others), expected)
    assert rank_agreement(torch.ones(2, 3, 3), maps[:2, :3, :3]).tolist() == [0.0, 0.0]
    with pytest.raises(ValueError, match="cannot be compared"):
        rank_agreement(maps, maps[:, :4])


@pytest.fixture(scope="module")
def novel() -> ImageSet:
    return gratings(8, 14, "novel")


@pytest.fixture(scope="module")
def starts() -> dict[str, Start]:
    """Random newborns, a circuit of a network, and that network whole."""
    host = spec("vgg11", 6)
    whole = stir(build(host, 3), 4)
    genotype = random_genotype(whole.layout.groups, 5, 0.7)
    gene = gene_start(host, genotype, gather(whole.state_dict(), whole.layout, genotype))
    full = whole.layout.full()
    everything = gene_start(host, full, gather(whole.state_dict(), whole.layout, full))
    return {SCRATCH: scratch_start(host), "pretrained": everything, "learngene": gene, "probe": everything.probe}


def test_a_network_agrees_with_itself(novel: ImageSet, starts: Mapping[str, Start]) -> None:
    found = {each.start: each for each in compare_maps(starts, novel, pictured=ORDER, seed=1, compute=CPU).agreements}
    assert list(found) == [SCRATCH, "learngene", "probe"], "the trained network is the measure"
    same = found["probe"].same  # everything inherited, too
    assert (
        same.mean == pytest.approx(1, abs=1e-3) and same.half_width < 1e-3 and same.n == 8 * 9
    )  # 14 images of 8 classes, 5 of each left for class means
    assert found["probe"].other.mean < 0.6 and found[SCRATCH].same.mean < found["learngene"].same.mean < 1
    gain = found["learngene"].gain
    assert found[SCRATCH].gain is None and gain is not None and gain.low > 0
    assert gain.mean == pytest.approx(found["learngene"].same.mean - found[SCRATCH].same.mean)


def test_maps_are_kept_of_listed_images(novel: ImageSet, starts: Mapping[str, Start]) -> None:
    found = compare_maps(starts, novel, pictured=(*ORDER, "one-shot"), seed=1, compute=CPU)
    assert tuple(found.maps) == ORDER, "in the order asked for, what is there"
    assert (found.group, found.grid, found.newborns, found.source) == ("conv2", 8, NEWBORNS, "gratings")
    assert all(maps.shape == (PICTURED, 16, 16) and maps.dtype == np.float32 for maps in found.maps.values())
    assert len({name for name, _ in found.pictured}) == PICTURED <= novel.n_classes
    for (name, index), pixels in zip(found.pictured, found.pixels, strict=True):
        assert novel.class_names[novel.labels[index]] == name
        assert np.array_equal(novel.images[index].numpy(), pixels)
    document = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert len(json.dumps(document)) < 3000 and document["agreement"][0]["start"] == SCRATCH
    again = compare_maps(starts, novel, pictured=ORDER, seed=1, compute=CPU)
    assert again.to_json() == found.to_json() and all(np.array_equal(again.maps[n], found.maps[n]) for n in ORDER)
    assert compare_maps(starts, novel, pictured=ORDER, seed=2, compute=CPU).pictured != found.pictured


@pytest.mark.parametrize("method", ["attention", "grad-cam"])
def test_every_start_meets_the_same_and_learns_nothing(method: str, novel: ImageSet) -> None:
    born: list[tuple[int, int, ConvNet, ConvNet]] = []

    def start(classes: int, seed: int) -> ConvNet:
        network = build(ArchSpec("vgg11", spec().widths, classes), seed)
        born.append((classes, seed, network, copy.deepcopy(network)))
        return network

    both: dict[str, Start] = {SCRATCH: start, "pretrained": start}
    found = compare_maps(both, novel, pictured=ORDER, seed=1, compute=CPU, method=method)  # type: ignore[arg-type]
    assert found.method == method and len({seed for _, seed, *_ in born}) == NEWBORNS
    assert {classes for classes, *_ in born} == {8}
    for _, _, network, before in born:
        assert equal(network.state_dict(), before.state_dict())


def test_without_a_trained_network_there_are_maps_but_no_number(starts: Mapping[str, Start]) -> None:
    few = gratings(2, 2, "novel")
    found = compare_maps({SCRATCH: starts[SCRATCH]}, few, pictured=ORDER, seed=1, compute=CPU)
    assert found.agreements == () and list(found.maps) == [SCRATCH] and len(found.pixels) == 2
