"""Two genes side by side: channels, distances, CKA, and what does not compare."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pico import ARCHS, GROUPS, gratings, spec, stir
from relatives import gene, gene_of, relatives

from gtl.errors import DataError, NovelClassesError
from gtl.genotype import ChannelMask, Genotype
from gtl.learngene import diff as module
from gtl.learngene.artifact import Learngene
from gtl.learngene.cka import LinearCKA, gram, unbiased_hsic
from gtl.learngene.diff import diff, evidence_rows
from gtl.learngene.placing import EPS
from gtl.models import build

LAWS = settings(max_examples=8, deadline=None)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- CKA -----------------------------------------------------------------------------------------------------------


def test_hsic_is_the_mean_over_all_quadruples() -> None:
    """Song et al. 2012, eq. 4: K_ij (L_ij + L_qr - 2 L_iq) over distinct i, j, q, r."""
    one, other = (gram(draw(6, 3, seed=seed)) for seed in (1, 2))
    terms = [one[i, j] * (other[i, j] + other[q, r] - 2 * other[i, q]) for i, j, q, r in permutations(range(6), 4)]
    assert unbiased_hsic(one, other) == pytest.approx(float(torch.stack(terms).mean()), rel=1e-9)


def test_centring_changes_no_hsic() -> None:
    raw, other = draw(8, 5) + 100, gram(draw(8, 4, seed=1))
    flat = raw.double()
    assert unbiased_hsic(gram(raw), other) == pytest.approx(unbiased_hsic(flat @ flat.T, other), rel=1e-6)


def cka(one: torch.Tensor, other: torch.Tensor, batch: int = 0) -> float | None:
    found = LinearCKA()
    for parts in zip(*(torch.split(each, batch or len(each)) for each in (one, other)), strict=True):
        found.add(*map(gram, parts))
    return found.value


def test_cka_is_one_up_to_rotation_scale_and_shift() -> None:
    features = draw(40, 6)
    rotation = torch.linalg.qr(draw(6, 6, seed=1))[0]
    assert cka(features, features) == 1.0
    assert cka(features, 3 * features @ rotation + 5, batch=10) == pytest.approx(1.0, abs=1e-6)
    assert cka(features, torch.cat([features, features], 1)) == pytest.approx(1.0, abs=1e-6)
    assert cka(features, features[:, :3]) == pytest.approx(0.7, abs=0.2)


def test_cka_of_unrelated_features_is_zero_however_many_there_are() -> None:
    """The plain estimate is near 1 with far more features than images; batches do not bring that back."""
    found = [cka(draw(64, 4000, seed=seed), draw(64, 4000, seed=1000 + seed), batch=16) for seed in range(10)]
    values = [value for value in found if value is not None]
    assert len(values) == 10 and abs(sum(values) / 10) < 0.02
    one, other = (gram(draw(64, 4000, seed=seed)) for seed in (1, 2))
    plain = (one * other).sum() / (one.norm() * other.norm())
    assert plain > 0.9


def test_cka_in_batches_estimates_the_same() -> None:
    base = draw(512, 8)
    one, other = base[:, :6], base[:, 2:] + 0.5 * draw(512, 6, seed=1)
    whole, parts = cka(one, other), cka(one, other, batch=16)
    assert whole is not None and parts == pytest.approx(whole, abs=0.03)


def test_features_that_do_not_vary_have_no_cka() -> None:
    assert cka(torch.full((8, 3), 2.5), draw(8, 3)) is None
    assert cka(draw(8, 3), torch.zeros(8, 3)) is None


# --- one gene and itself, two genes --------------------------------------------------------------------------------


@given(relatives(count=1))
@LAWS
def test_a_gene_does_not_differ_from_itself(genes: list[Learngene]) -> None:
    (found,) = genes
    same = diff(found, found, gratings(2, 4, "val"))
    assert same.equal and same.ancestor == "same" and not same.refused and same.a == same.b
    assert (same.jaccard, same.kernels, same.norms) == (1.0, 0.0, 0.0)
    for row in same.groups:
        kept = len(found.genotype[row.group])
        assert (row.both, row.only_a, row.only_b, row.jaccard, row.kernels, row.norms) == (kept, 0, 0, 1.0, 0.0, 0.0)
    assert all(row.cka in (1.0, None) and row.shared == row.cka for row in same.likeness)


@pytest.mark.parametrize("arch", ARCHS)
def test_a_living_gene_is_as_itself_in_every_group(arch: str) -> None:
    found = gene(arch, width=8, share=0.8)
    assert [row.cka for row in diff(found, found, gratings(3, 6, "val")).likeness] == [1.0] * len(GROUPS[arch])


@given(relatives(), st.booleans())
@LAWS
def test_turned_around_it_says_the_same(genes: list[Learngene], look: bool) -> None:
    one, other = genes
    images = gratings(2, 4, "val") if look else None
    here, there = diff(one, other, images), diff(other, one, images)
    assert (here.a, here.b, here.jaccard) == (there.b, there.a, there.jaccard)
    for left, right in zip(here.groups, there.groups, strict=True):
        assert left == replace(right, only_a=right.only_b, only_b=right.only_a)
        mask, others = one.genotype[left.group], other.genotype[left.group]
        assert left.both + left.only_a == len(mask) and left.both + left.only_b == len(others)
        assert left.jaccard == mask.overlap(others)
    assert here.jaccard == one.genotype.overlap(other.genotype)
    for left, right in zip(here.likeness, there.likeness, strict=True):
        for mine, yours in ((left.cka, right.cka), (left.shared, right.shared)):
            assert (mine is None) == (yours is None) and mine == pytest.approx(yours, abs=1e-9)


def test_distances_are_of_the_shared_channels_alone() -> None:
    network = stir(build(spec("vgg11", 4), 0), 0)
    kept = {group: [0, 1, 2] for group in GROUPS["vgg11"]}
    one = gene_of(network, Genotype({g: ChannelMask(4, k) for g, k in kept.items()}))
    changed = build(spec("vgg11", 4), 0)
    changed.load_state_dict(network.state_dict())
    with torch.no_grad():
        changed.get_parameter("conv3.conv.weight")[:, 3] += 5.0  # of a channel that only the other has
        changed.get_parameter("conv4.conv.weight")[1, 2] *= 2.0
        changed.get_parameter("conv5.norm.bias")[2] += 3.0
    other = gene_of(changed, Genotype({g: ChannelMask(4, [1, 2, 3]) for g in kept}))
    found = diff(one, other)
    rows = {row.group: row for row in found.groups}
    assert {g for g, row in rows.items() if row.kernels} == {"conv4"} and {
        g for g, row in rows.items() if row.norms
    } == {"conv5"}
    assert all((row.both, row.only_a, row.only_b, row.jaccard) == (2, 1, 1, 0.5) for row in found.groups)
    weights = network.state_dict()["conv4.conv.weight"][1:3, 1:3].double()
    doubled = changed.state_dict()["conv4.conv.weight"][1:3, 1:3].double()
    scale = ((weights.norm() ** 2 + doubled.norm() ** 2) / 2) ** 0.5
    assert rows["conv4"].kernels == pytest.approx(float((weights - doubled).norm() / scale), rel=1e-9)
    state = network.state_dict()
    shift = {k: state[f"conv5.norm.{k}"][1:3].double() for k in ("weight", "bias", "running_mean", "running_var")}
    slope = shift["weight"] / (shift["running_var"] + EPS).sqrt()
    before = torch.cat([slope, shift["bias"] - shift["running_mean"] * slope])
    after = before + torch.tensor([0.0, 0.0, 0.0, 3.0])
    scale = ((before.norm() ** 2 + after.norm() ** 2) / 2) ** 0.5
    assert rows["conv5"].norms == pytest.approx(3.0 / float(scale), rel=1e-6)


def test_unrelated_weights_are_a_root_of_two_apart() -> None:
    one, other = (gene(width=16, share=0.9, seed=n, weights=n) for n in (1, 2))
    assert diff(one, other).kernels == pytest.approx(2**0.5, abs=0.05)


def test_groups_without_shared_channels_have_no_distance() -> None:
    network = stir(build(spec("resnet12", 4), 0), 0)
    one, other = (gene_of(network, Genotype({g: ChannelMask(4, [n]) for g in network.widths})) for n in (0, 1))
    found = diff(one, other, gratings(2, 4, "val"))
    assert (found.jaccard, found.kernels, found.norms) == (0.0, None, None)
    assert all((row.jaccard, row.kernels, row.norms) == (0.0, None, None) for row in found.groups)
    assert all(row.shared is None for row in found.likeness)


# --- what does not compare -----------------------------------------------------------------------------------------


def test_other_architectures_compare_level_by_level() -> None:
    one, other = gene("vgg11", width=8, share=0.8), gene("resnet12", width=8, share=0.8)
    found = diff(one, other, gratings(3, 6, "val"))
    assert "no channels in common" in found.refused and not found.groups and found.jaccard is None
    assert [(row.level, row.a, row.b) for row in found.likeness] == [
        (1, "conv1", "stage1.out"),
        (2, "conv2", "stage2.out"),
        (3, "conv4", "stage3.out"),
        (4, "conv6", "stage4.out"),
    ]
    assert all(row.cka is not None and -1 <= row.cka < 1 and row.shared is None for row in found.likeness)


def test_other_widths_compare_group_by_group_in_what_they_compute() -> None:
    one, other = gene(width=8, share=0.8), gene(width=6, share=0.8)
    found = diff(one, other, gratings(3, 6, "val"))
    assert "other widths (group conv1: 8 and 6 channels)" in found.refused and not found.groups
    assert [row.a for row in found.likeness] == [row.b for row in found.likeness] == list(GROUPS["vgg11"])


def test_images_come_in_full_batches_and_not_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CKA_IMAGES", 20)
    monkeypatch.setattr(module, "CKA_BATCH", 8)
    found = diff(gene(), gene(seed=1), gratings(3, 10, "val"))
    assert found.images == {"source": "gratings", "role": "val", "images": 16, "batch": 8}
    with pytest.raises(DataError, match="has 3 images; CKA needs at least 4"):
        diff(gene(), gene(seed=1), gratings(3, 1, "val"))
    with pytest.raises(NovelClassesError):
        diff(gene(), gene(), gratings(3, 6, "novel"))


def test_it_is_plain_json_and_evidence_of_any_shape_is_no_obstacle() -> None:
    estimate = {"mean": 0.5, "low": 0.4, "high": 0.6, "n": 3}
    result = {"start": "learngene", "shots": 5, "accuracy": estimate, "gain": None}
    document = {"data": {"source": "digits", "classes": "ab"}, "descendants": [result, {**result, "start": "scratch"}]}
    odd = [{"descendants": 3}, {"descendants": [{"start": "learngene"}, None, 7]}, {"accuracy": 0.5}]
    one = gene(evidence=[*odd, document], provenance={"winner": {"fitness": 0.25}})
    assert evidence_rows(one) == [
        {"source": "digits", "classes": "ab", "shots": 5, "accuracy": estimate, "gain": None},
    ]
    found = json.loads(json.dumps(diff(one, gene(seed=1), gratings(2, 4, "val")).to_json(), allow_nan=False))
    assert found["a"]["fitness"] == 0.25 and len(found["groups"]) == len(found["likeness"]) == 8
