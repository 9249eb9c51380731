"""Packed training against the loop: the same seeds, the same members; none touches another (F36)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from pico import ARCHS, CPU, equal, gratings, random_genotype, spec

from gtl.config import TrainingSection
from gtl.data.batches import Environment
from gtl.models import ConvNet, build
from gtl.packing import PACKS, train_pack
from gtl.surgery import update_scale
from gtl.training import TrainingResult

RECIPE = TrainingSection(batch_size=8, crop_padding=2)
PACKED = sorted(PACKS)
STEPS = 10


def environments(count: int, images: int = 11) -> list[Environment]:
    """Each with images of its own."""
    return [Environment.of(gratings(3, images, seed=n), RECIPE.crop_padding, CPU.device) for n in range(count)]


def packed(
    arch: str, how: Any, count: int, networks: list[ConvNet] | None = None, **options: Any
) -> tuple[list[ConvNet], list[TrainingResult]]:
    networks = networks or [build(spec(arch), 1 + n) for n in range(count)]
    settings: dict[str, Any] = {"steps": STEPS, "seeds": range(5, 5 + count), "compute": CPU, **options}
    found = settings.pop("environments", None) or environments(count)
    results = train_pack(networks, found, settings.pop("recipe", RECIPE), how=how, **settings)
    return networks, results


def close(one: ConvNet, other: ConvNet, tolerance: float = 1e-4) -> None:
    for name, tensor in one.state_dict().items():
        torch.testing.assert_close(tensor, other.state_dict()[name], rtol=tolerance, atol=tolerance, msg=name)


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("how", PACKED)
@pytest.mark.parametrize("count", [1, 2, 5])
def test_f36_members_end_where_the_loop_ends(arch: str, how: str, count: int) -> None:
    members, results = packed(arch, how, count)
    loop, expected = packed(arch, "loop", count)
    for member, alone, result, wanted in zip(members, loop, results, expected, strict=True):
        close(member, alone)
        assert result.loss == pytest.approx(wanted.loss, rel=1e-3) and result.finite
        assert result.images == wanted.images == STEPS * 8
    order = sorted(range(count), key=lambda n: results[n].loss)
    assert order == sorted(range(count), key=lambda n: expected[n].loss)


@pytest.mark.parametrize("how", PACKED)
def test_f36_after_every_step(how: str) -> None:
    for steps in range(1, 6):
        members, _ = packed("vgg11", how, 3, steps=steps)
        loop, _ = packed("vgg11", "loop", 3, steps=steps)
        for member, alone in zip(members, loop, strict=True):
            close(member, alone, 1e-5)


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("how", PACKED)
def test_f36_in_the_other_memory_format(arch: str, how: str) -> None:
    plain = replace(CPU, memory_format=torch.contiguous_format)
    members, _ = packed(arch, how, 3, compute=plain, steps=4)
    loop, _ = packed(arch, "loop", 3, compute=plain, steps=4)
    for member, alone in zip(members, loop, strict=True):
        close(member, alone, 1e-5)
        assert all(p.is_contiguous() for p in member.parameters())


@pytest.mark.parametrize("how", PACKED)
def test_members_really_differ(how: str) -> None:
    """The tests above can fail: neither weights, images nor seeds are shared."""
    same = environments(1) * 2
    twins = [build(spec(), 1), build(spec(), 1)]
    (one, other), _ = packed("vgg11", how, 2, networks=twins, environments=same)
    assert not equal(one.state_dict(), other.state_dict())
    twins = [build(spec(), 1), build(spec(), 1)]
    (one, other), _ = packed("vgg11", how, 2, networks=twins, environments=same, seeds=[5, 5])
    close(one, other)


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("how", PACKED)
def test_f36_a_member_that_diverges_leaves_the_others_alone(arch: str, how: str) -> None:
    broken = [build(spec(arch), 1 + n) for n in range(3)]
    with torch.no_grad():
        broken[1].head.weight.fill_(float("nan"))
    members, results = packed(arch, how, 3, networks=broken)
    healthy, expected = packed(arch, how, 3)
    assert [result.finite for result in results] == [True, False, True]
    for n in (0, 2):
        assert equal(members[n].state_dict(), healthy[n].state_dict())
        assert results[n].loss == expected[n].loss


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("how", PACKED)
def test_update_scales_are_each_members_own(arch: str, how: str) -> None:
    """Frozen genes do not move at all, whatever lies beside them; who has no scale moves freely."""
    networks = [build(spec(arch), 1 + n) for n in range(3)]
    genes = [random_genotype(networks[0].widths, seed, share=0.5) for seed in range(3)]
    scales = [update_scale(networks[0].layout, gene, gene_update=0.0, masked=True) for gene in genes]
    scales[1] = None
    before = [{name: t.clone() for name, t in network.state_dict().items()} for network in networks]
    loop, _ = packed(arch, "loop", 3, update_scales=scales, steps=4)  # rounding grows with every step
    members, _ = packed(arch, how, 3, networks=networks, update_scales=scales, steps=4)
    for member, alone, born, scale in zip(members, loop, before, scales, strict=True):
        close(member, alone, 1e-5)
        for name, factor in (scale or {}).items():
            held = factor.expand_as(born[name]) == 0
            assert held.any() and torch.equal(member.state_dict()[name][held], born[name][held]), name


@pytest.mark.parametrize("how", PACKED)
def test_what_cannot_be_packed_is_refused(how: str) -> None:
    wide = build(spec("resnet12"), 1)
    with pytest.raises(ValueError, match="different shapes cannot be packed; train them with how='loop'"):
        packed("vgg11", how, 2, networks=[build(spec(), 1), wide])
    uneven = [environments(1, 11)[0], environments(1, 2)[0]]
    with pytest.raises(ValueError, match=r"batches have \[8, 6\] images"):
        packed("vgg11", how, 2, environments=uneven)
