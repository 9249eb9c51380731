"""The laws of genes: read back from a descendant, merged, shrunk, they stay whole circuits, and nothing is made up."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pico import ARCHS, CPU, GROUPS, config, equal, gratings, noise, spec, stir
from relatives import gene, gene_of, relatives

import gtl
from gtl.config import Config
from gtl.errors import ConfigError, DataError, GeneMismatchError, NovelClassesError
from gtl.genotype import ChannelMask, Genotype
from gtl.learngene.artifact import Learngene
from gtl.learngene.derived import NO_EVIDENCE, ancestor_of, ancestry
from gtl.learngene.evidence import config_of
from gtl.learngene.merging import COMBINED_NORMS, HOW, merge
from gtl.learngene.oneshot import BY_STATE
from gtl.learngene.opponents import cost
from gtl.learngene.shrinking import ALLOCATIONS, METHODS, OLD_NORMS, shrink
from gtl.life import fit_norms
from gtl.models import ArchSpec, build, gene_layout
from gtl.phenotype import thin_network
from gtl.report.card import card_markdown
from gtl.seeds import derive
from gtl.surgery import gather

LAWS = settings(max_examples=10, deadline=None)
SEEDS = st.integers(0, 2**31)


def recorded(seed: int = 0, fitness: float = 0.5, lives: int = 30, **changes: Any) -> dict[str, Any]:
    """Provenance as a run leaves it."""
    settled = Config.model_validate({**config().model_dump(), "seed": seed})
    lists = {"train": ["a", "b"], "val": ["c"], "novel": ["novel-0"]}
    return {
        "method": "genetic transfer learning",
        "config": settled.model_dump(mode="json"),
        "config_hash": "c" * 64,
        "data": {"source": "gratings", "classes": "d" * 64, "lists": lists},
        "seed": seed,
        "generations": 4,
        "winner": {"fitness": fitness},
        "images": {"ancestor": 100, "lives": lives, "total": 100 + lives},
        **changes,
    }


@torch.no_grad()
def runs(found: Learngene) -> bool:
    """Whether the thin network is whole: it takes all tensors, and what it gives is finite."""
    thin = thin_network(found.arch, found.genotype, found.tensors)
    return all(bool(torch.isfinite(each).all()) for each in thin.activations(noise(2)).values())


def within(one: Genotype, other: Genotype) -> bool:
    return all(not (mask.bits & ~other[group].bits).any() for group, mask in one.items())


# --- read back from a descendant -----------------------------------------------------------------------------------


@given(relatives(count=1), st.integers(0, 3), SEEDS)
@LAWS
def test_a_gene_read_back_from_a_fresh_descendant_is_unchanged(genes: list[Learngene], extra: int, seed: int) -> None:
    (found,) = genes
    widths = tuple(
        (group, size + extra * (number % 2)) for number, (group, size) in enumerate(found.genotype.sizes.items())
    )
    descendant = build(ArchSpec(found.arch, widths, 4), seed)
    gtl.inherit(descendant, found)
    placed = found.genotype.widened(descendant.widths)
    read = gather(descendant.state_dict(), descendant.layout, placed)
    again = Learngene(found.arch, found.genotype, read)
    assert (
        again.digest == found.digest
        and again.to_bytes() == Learngene(found.arch, found.genotype, found.tensors).to_bytes()
    )


# --- merge ---------------------------------------------------------------------------------------------------------


@given(relatives(overlap=True), st.sampled_from(HOW))
@LAWS
def test_merging_does_not_ask_who_comes_first(genes: list[Learngene], how: str) -> None:
    one, other = replaced(genes[0], recorded(1, fitness=0.4)), replaced(genes[1], recorded(2, fitness=0.6))
    merged = merge(one, other, how)
    assert merged.to_bytes() == merge(other, one, how).to_bytes()
    assert runs(merged)
    assert within(merged.genotype, one.genotype.union(other.genotype))
    for each in (one, other):
        assert (
            within(merged.genotype, each.genotype) if how == "intersection" else within(each.genotype, merged.genotype)
        )


@given(relatives(count=1), st.sampled_from(HOW))
@LAWS
def test_a_gene_merged_with_itself_is_itself(genes: list[Learngene], how: str) -> None:
    found = replaced(genes[0], recorded())
    merged = merge(found, found, how)
    assert merged.digest == found.digest
    assert not merged.evidence and [parent["digest"] for parent in merged.provenance["parents"]] == [found.digest] * 2


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("how", ["union", "intersection"])
def test_shared_connections_are_means_and_the_rest_is_whose_it_is(arch: str, how: str) -> None:
    one, other = gene(arch, seed=1, weights=1, share=0.7), gene(arch, seed=2, weights=2, share=0.7)
    merged = merge(one, other, how)
    for name, tensor in merged.tensors.items():
        both = torch.stack([laid_out(one, name), laid_out(other, name)]).double()
        expected = both.nanmean(0).nan_to_num(0.0).float()  # zero where none of them has a connection
        assert torch.equal(tensor, expected[places(merged, name)])


def places(found: Learngene, name: str) -> tuple[torch.Tensor, ...]:
    """Where a gene's tensor lies in the ancestor's."""
    axes = sorted(gene_layout(found.arch, found.genotype.sizes).axes[name].items())
    kept = [torch.from_numpy(found.genotype[group].kept) for _, (group, _) in axes]
    return (kept[0],) if len(kept) == 1 else (kept[0][:, None], kept[1][None, :])


def laid_out(found: Learngene, name: str) -> torch.Tensor:
    """The ancestor's tensor as far as a gene has it; NaN elsewhere."""
    whole = torch.full(gene_layout(found.arch, found.genotype.sizes).shapes[name], torch.nan)
    whole[places(found, name)] = found.tensors[name]
    return whole


@torch.no_grad()
@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("fitter", [0, 1])
def test_the_better_gene_computes_what_it_computes_alone(arch: str, fitter: int) -> None:
    genes = [gene(arch, seed=n, weights=n, provenance=recorded(n, 0.4 + 0.2 * (n == fitter))) for n in range(2)]
    merged = merge(*genes, "better")
    better = genes[fitter]
    assert merged.provenance["derived"]["better"] == better.digest and merged.provenance["derived"]["measured"] is False
    together = thin_network(arch, merged.genotype, merged.tensors).double().activations(noise(dtype=torch.float64))
    alone = thin_network(arch, better.genotype, better.tensors).double().activations(noise(dtype=torch.float64))
    for group, place in better.genotype.within(merged.genotype).items():
        torch.testing.assert_close(together[group][:, torch.from_numpy(place.kept)], alone[group], rtol=1e-9, atol=1e-9)


def test_the_better_gene_is_measured_on_validation_classes_and_on_nothing_else() -> None:
    genes = trained()
    found = merge(*genes, "better", validation=gratings(3, 12, "val"))
    how = found.provenance["derived"]
    assert how["measured"] and set(how["fitness"]) == {each.digest for each in genes}
    assert how["better"] == max(how["fitness"], key=how["fitness"].__getitem__)
    with pytest.raises(NovelClassesError):
        merge(*genes, "better", validation=gratings(3, 12, "novel"))
    with pytest.raises(DataError, match="these are the train classes"):
        merge(*genes, "better", validation=gratings(3, 12, "train"))


@cache
def trained() -> tuple[Learngene, Learngene]:
    """Two genes of one network, judged by a critic of few images."""
    network = stir(build(spec("vgg11", 6), 1), 1)
    small = config(critic={"fit_images": 3, "score_images": 4}).model_dump(mode="json")
    first, second = (gene("vgg11", seed=n, weights=1).genotype for n in range(2))
    return tuple(gene_of(network, kept, provenance=recorded(config=small)) for kept in (first, second))  # type: ignore[return-value]


@pytest.mark.parametrize(
    "changes",
    [
        {"winner": {}},
        {"winner": {"fitness": "0.5"}},
        {"data": {"classes": "e" * 64}},
        {"config": {}},
        {"winner": {"fitness": True}},
    ],
)
def test_fitness_that_does_not_compare_is_not_compared(changes: dict[str, Any]) -> None:
    one, other = gene(seed=1, provenance=recorded()), gene(seed=2, provenance=recorded(**changes))
    with pytest.raises(ConfigError, match="Give images of validation classes"):
        merge(one, other, "better")


def test_an_empty_intersection_names_the_group_and_the_remedy() -> None:
    network = stir(build(spec("resnet12", 4), 0), 0)
    kept = {group: [0, 1] for group in GROUPS["resnet12"]}
    one = gene_of(network, Genotype({g: ChannelMask(4, k) for g, k in kept.items()}))
    other = gene_of(network, Genotype({g: ChannelMask(4, [2] if g == "stage2.b" else k) for g, k in kept.items()}))
    with pytest.raises(GeneMismatchError, match=r"share no channel of stage2\.b, .*--how union"):
        merge(one, other, "intersection")
    assert merge(one, other, "union").genotype["stage2.b"].kept.tolist() == [0, 1, 2]


def test_genes_of_other_networks_are_not_merged() -> None:
    with pytest.raises(GeneMismatchError, match="vgg11 and one of resnet12 have no channels in common"):
        merge(gene("vgg11"), gene("resnet12"))
    with pytest.raises(GeneMismatchError, match="group conv1: 6 and 5 channels"):
        merge(gene(width=6), gene(width=5))
    with pytest.raises(ConfigError, match="unknown merge 'sum'"):
        merge(gene(), gene(), "sum")


# --- shrink --------------------------------------------------------------------------------------------------------


@given(
    relatives(count=1, most=8),
    st.floats(0.01, 1.0),
    st.sampled_from(BY_STATE),
    st.sampled_from(ALLOCATIONS),
)
@LAWS
def test_a_shrunk_gene_is_whole_and_within_the_budget(
    genes: list[Learngene], part: float, method: str, allocation: str
) -> None:
    (found,) = genes
    layout = gene_layout(found.arch, found.genotype.sizes)
    least, own = layout.circuit_share(dict.fromkeys(layout.groups, 1)), layout.circuit_share(found.genotype.counts)
    budget = least + part * (own - least)
    small = shrink(found, budget, method=method, allocation=allocation)
    assert layout.circuit_share(small.genotype.counts) <= budget
    assert within(small.genotype, found.genotype) and runs(small)
    place = small.genotype.within(found.genotype)
    assert equal(small.tensors, gather(found.tensors, gene_layout(found.arch, found.genotype.counts), place))
    assert small.to_bytes() == shrink(found, budget, method=method, allocation=allocation).to_bytes()
    if budget < own:
        assert small.provenance["parents"][0]["digest"] == found.digest and not small.evidence
        assert small.shares["circuit"] == layout.circuit_share(small.genotype.counts)


@given(relatives(count=1), st.sampled_from(ALLOCATIONS))
@LAWS
def test_shrinking_to_its_own_size_changes_nothing(genes: list[Learngene], allocation: str) -> None:
    (found,) = genes
    layout = gene_layout(found.arch, found.genotype.sizes)
    assert shrink(found, layout.circuit_share(found.genotype.counts), allocation=allocation) is found
    assert shrink(found, 1.0, allocation=allocation) is found
    counts = dict.fromkeys(layout.groups, 1)
    smallest = shrink(found, layout.circuit_share(counts), allocation=allocation)
    assert smallest.genotype.counts == counts


@given(relatives(count=1, most=8), st.floats(0, 1), st.floats(0, 1))
@LAWS
def test_a_smaller_budget_keeps_part_of_what_a_larger_one_keeps(
    genes: list[Learngene], one: float, other: float
) -> None:
    (found,) = genes
    layout = gene_layout(found.arch, found.genotype.sizes)
    least = layout.circuit_share(dict.fromkeys(layout.groups, 1))
    small, large = (shrink(found, min(1.0, least + part * (1 - least))) for part in sorted((one, other)))
    assert within(small.genotype, large.genotype)


WORTH = torch.tensor([3.0, 1.0, 4.0, 2.0])


def test_the_least_important_channels_go_first() -> None:
    """Of one group, by the score; of several, where a channel costs most for what it is worth."""
    network = build(spec("vgg11", 4), 0)
    with torch.no_grad():
        for group in network.widths:
            network.get_parameter(f"{group}.conv.weight").copy_(WORTH[:, None, None, None])
    whole = gene_of(network, Genotype.full(network.widths))
    layout = network.layout
    first = shrink(whole, 1 - 1e-9, method="l1").genotype.counts
    (group,) = [g for g, count in first.items() if count == 3]
    costs = {g: layout.parameters - layout.circuit_parameters({**layout.groups, g: 3}) for g in layout.groups}
    assert costs[group] == max(costs.values()), "all channels are worth the same, so the dearest goes first"
    for allocation in ALLOCATIONS:
        small = shrink(whole, 0.3, method="l1", allocation=allocation)
        for mask in small.genotype.values():
            assert mask.kept.tolist() == sorted([2, 0, 3, 1][: len(mask)])


@pytest.mark.parametrize("arch", ARCHS)
def test_no_group_runs_dry_while_others_are_whole(arch: str) -> None:
    """By score and cost alone the dearest group would lose all its channels but one."""
    network = build(spec(arch, 12), 0)
    counts = shrink(gene_of(network, Genotype.full(network.widths)), 0.2, method="bn").genotype.counts
    assert min(counts.values()) >= 3


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("arch", ARCHS)
def test_every_method_shrinks(method: str, arch: str) -> None:
    found = gene(arch, share=0.8, provenance=recorded())
    images = gratings(3, 10, "train")
    small = shrink(found, 0.2, method=method, images=images, compute=CPU, seed=3)
    layout = gene_layout(arch, found.genotype.sizes)
    assert 0 < layout.circuit_share(small.genotype.counts) <= 0.2 and runs(small)
    cut = gather(found.tensors, gene_layout(arch, found.genotype.counts), small.genotype.within(found.genotype))
    assert not equal(small.tensors, cut)
    assert equal(small.tensors, fit_norms(arch, cut, small.genotype, images, CPU, derive(3, "norms of a derived gene")))
    how = small.provenance["derived"]
    assert how["channels"] == method and how["norms"]["images"] == 30 and how["norms"]["role"] == "train"


@pytest.mark.parametrize(
    ("given_", "says"),
    [
        ({"budget": 0.0}, r"budget 0 is outside \(0, 1\]"),
        ({"budget": 1.5}, "budget 1.5 is outside"),
        ({"budget": float("nan")}, "budget nan is outside"),
        ({"budget": 1e-6}, "one channel in every group of this vgg11 already holds a share of"),
        ({"budget": 0.1, "method": "l2"}, "unknown method 'l2'; known are l1, bn, random, taylor, activation"),
        ({"budget": 0.1, "allocation": "late"}, "unknown allocation 'late'"),
        ({"budget": 0.1, "method": "taylor"}, "'taylor' looks at images: give some"),
    ],
)
def test_what_cannot_be_shrunk_to_is_refused(given_: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        shrink(gene(), **given_)


# --- what a derived gene tells about itself ------------------------------------------------------------------------


def test_a_derived_gene_has_no_evidence_and_says_where_it_comes_from() -> None:
    one = gene(seed=1, provenance=recorded(lives=30), evidence=[{"accuracy": 0.5}])
    other = gene(seed=2, provenance=recorded(lives=50, fitness=0.7))
    merged, small = merge(one, other), shrink(one, 0.1)
    for found, parents in ((merged, {one.digest, other.digest}), (small, {one.digest})):
        assert not found.evidence and "winner" not in found.provenance
        assert {parent["digest"] for parent in found.provenance["parents"]} == parents
        assert found.provenance["derived"]["notes"][-1] == NO_EVIDENCE
        assert config_of(found) == config_of(one) and found.provenance["data"] == one.provenance["data"]
        assert Learngene.from_bytes(found.to_bytes()).to_bytes() == found.to_bytes()
        card = card_markdown(found)
        assert "made of learngenes" in card and one.digest in card and "evidence does not carry over" in card
        assert "| generations |" not in card and "| winner |" not in card
    assert COMBINED_NORMS in merged.provenance["derived"]["notes"] and OLD_NORMS in small.provenance["derived"]["notes"]
    assert cost(merged) == 100 + 30 + 50, "the ancestor is one, and paid once"
    assert cost(small) == 130
    again = merge(merged, small)
    assert {tuple(parent["parents"]) for parent in again.provenance["parents"]} == {
        tuple(parent["digest"] for parent in found.provenance["parents"]) for found in (merged, small)
    }
    assert ancestor_of(again) == ancestor_of(one) is not None


def test_other_ancestors_are_a_warning_that_stays() -> None:
    one, same, other = (gene(seed=n, provenance=recorded(seed)) for n, seed in ((1, 0), (2, 0), (3, 9)))
    unknown = gene(seed=4)
    assert [ancestry(one, each) for each in (one, same, other, unknown)] == ["same", "same", "different", "unknown"]
    assert ancestry(unknown, unknown) == "same"
    notes = merge(one, other).provenance["derived"]["notes"]
    assert "come from different ancestors" in notes[0] and "by number" in notes[0]
    assert "do not say that they come from one ancestor" in merge(one, unknown).provenance["derived"]["notes"][0]
    assert "ancestor" not in "".join(merge(one, same).provenance["derived"]["notes"])
    mixed = merge(one, other)
    assert ancestor_of(mixed) is None and ancestry(mixed, one) == "unknown"
    assert cost(mixed) == 2 * 130, "two ancestors were trained"
    cut = [gene(seed=n, provenance={"checkpoint": {"sha256": sha}}) for n, sha in ((1, "aa"), (2, "aa"), (3, "bb"))]
    assert [ancestry(cut[0], each) for each in cut] == ["same", "same", "different"]
    assert cost(merge(cut[0], cut[1])) is None
    random = recorded(config=config(founders={"kind": "random"}).model_dump(mode="json"))
    assert ancestor_of(gene(provenance=random)) is None


def test_genes_of_other_data_leave_no_configuration_to_be_measured_by() -> None:
    one = gene(seed=1, provenance=recorded())
    other = gene(seed=2, provenance=recorded(data={"source": "gratings", "classes": "e" * 64, "lists": {}}))
    found = merge(one, other).provenance
    assert not {"config", "config_hash", "data", "seed"} & set(found) and found["generations"] == 4


def test_norms_are_estimated_on_images_but_never_on_novel_ones() -> None:
    one, other = (gene(seed=n, provenance=recorded()) for n in (1, 2))
    images = gratings(3, 10, "train")
    plain_, fitted = merge(one, other), merge(one, other, images=images)
    expected = fit_norms(
        "vgg11", dict(plain_.tensors), plain_.genotype, images, CPU, derive(0, "norms of a derived gene")
    )
    assert equal(fitted.tensors, expected)
    assert COMBINED_NORMS not in fitted.provenance["derived"]["notes"]
    for images in (gratings(3, 10, "novel"), replace(gratings(1, 10, "train"), class_names=("novel-0",))):
        with pytest.raises(NovelClassesError):
            merge(one, other, images=images)
        with pytest.raises(NovelClassesError):
            shrink(one, 0.1, images=images)


def replaced(found: Learngene, provenance: dict[str, Any]) -> Learngene:
    return Learngene(found.arch, found.genotype, found.tensors, provenance=provenance)
