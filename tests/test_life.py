"""One life: a pure function of job, parents and world; every option of the configuration does what it says.

A child that keeps every channel shows its whole host, so what became of the parent's circuit inside it can be seen.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from pico import ARCHS, CPU, equal, gratings, job, random_genotype, spec, stir, world

from gtl.config import Config
from gtl.data.augment import Augmenter
from gtl.data.batches import Batches, Environment
from gtl.data.images import ImageSet
from gtl.errors import NovelClassesError
from gtl.genotype import ChannelMask, Genotype
from gtl.individual import Evaluation, Job, ParentGene, Status
from gtl.life import World, evaluate
from gtl.models import build
from gtl.phenotype import thin_network
from gtl.surgery import GeneTensors, combine, gather, gene_region
from gtl.training import reestimate_norms


@pytest.fixture(scope="module")
def images() -> tuple[ImageSet, ImageSet]:
    return gratings(4, 8, "train"), gratings(4, 8, "val")


def gene(host: World, seed: int, genotype: Genotype | None = None) -> tuple[ParentGene, GeneTensors]:
    """A parent: channels and weights with lively norms."""
    network = stir(build(host.host, seed), seed)
    genotype = genotype or random_genotype(network.widths, seed, share=0.5)
    return ParentGene(f"p{seed}", f"{seed:064x}", genotype), gather(network.state_dict(), network.layout, genotype)


def outcome(evaluation: Evaluation) -> Evaluation:
    """Without its wall time."""
    return replace(evaluation, seconds=0.0)


def child_of(host: World, parent: tuple[ParentGene, GeneTensors], genotype: Genotype, **changes: Any) -> GeneTensors:
    tensors, evaluation = evaluate(job(genotype, (parent[0],), **changes), [parent[1]], host)
    assert tensors is not None and evaluation.status is Status.OK, evaluation
    return tensors


def regions(
    host: World, genotype: Genotype, weights_only: bool = True
) -> Mapping[str, tuple[torch.Tensor, torch.Tensor]]:
    """Tensor -> (where the gene is, where its zero block is), in the whole host."""
    names = [name for name in host.layout.inherited if not weights_only or "running" not in name]
    return {name: gene_region(host.layout, genotype, name) for name in names}


# --- a pure function -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ARCHS)
def test_a_life_is_a_function_of_its_job(arch: str) -> None:
    host = world(arch, evolution={"mutation": {"weight_noise": 0.1}})
    parents = [gene(host, 1), gene(host, 2)]
    full = host.layout.full()
    jobs = [
        job(parents[0][0].genotype, (parents[0][0],), individual="a", seed=1),
        job(full, (parents[0][0], parents[1][0]), individual="b", seed=2),
        job(parents[1][0].genotype, (), individual="c", seed=3),
        job(parents[1][0].genotype, (parents[1][0],), individual="d", seed=4, lives=False),
    ]
    tensors_of = {parent.gene: tensors for parent, tensors in parents}
    before = {digest: {n: t.clone() for n, t in tensors.items()} for digest, tensors in tensors_of.items()}
    state = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    first: dict[str, tuple[GeneTensors | None, Evaluation]] = {}
    for order in (jobs, jobs[::-1]):
        for each in order:
            tensors, evaluation = evaluate(each, [tensors_of[p.gene] for p in each.parents], host)
            assert tensors is not None and evaluation.ok
            known = first.setdefault(each.individual, (tensors, outcome(evaluation)))
            assert known[0] is not None and equal(known[0], tensors) and known[1] == outcome(evaluation)
    assert torch.equal(torch.get_rng_state(), state[0]) and random.getstate() == state[1]
    assert np.random.get_state()[1].tolist() == state[2]  # noqa: NPY002
    assert all(equal(before[digest], tensors) for digest, tensors in tensors_of.items()), "parents are only read"


def test_what_a_child_reports() -> None:
    host = world(critic={"spread_penalty": 2.0})
    parent = gene(host, 1)
    genotype = parent[0].genotype
    tensors, evaluation = evaluate(job(genotype, (parent[0],), critic_tasks=3), [parent[1]], host)
    assert tensors is not None
    assert {n: t.shape for n, t in tensors.items()} == {n: t.shape for n, t in parent[1].items()}
    assert evaluation.images == 3 * 8, "steps times batch"
    assert evaluation.metrics["share"] == host.layout.circuit_share(genotype.counts)
    spread = evaluation.metrics["spread"]
    assert spread > 0 and evaluation.fitness == pytest.approx(max(0, evaluation.metrics["accuracy"] - 2 * spread))
    assert evaluation.seconds > 0 and evaluation.reason == ""


@pytest.mark.parametrize("field", ["seed", "task_seed", "critic_seed"])
def test_every_seed_of_a_job_has_its_purpose(field: str) -> None:
    host = world(life={"n_way": 2, "batch_norm": "inherit"}, classes=5)
    parent = gene(host, 1)
    one = evaluate(job(parent[0].genotype, (parent[0],)), [parent[1]], host)
    other = evaluate(job(parent[0].genotype, (parent[0],), **{field: 99}), [parent[1]], host)
    assert one[0] is not None and other[0] is not None
    assert equal(one[0], other[0]) is (field == "critic_seed"), "the critic's tasks do not touch the life"


def test_novel_images_are_refused(images: tuple[ImageSet, ImageSet]) -> None:
    train, val = images
    settled = world().config
    with pytest.raises(NovelClassesError, match="training was given the novel classes"):
        World(settled, spec(), replace(train, role="novel"), val, CPU)
    with pytest.raises(NovelClassesError, match="the critic was given the novel classes"):
        World(settled, spec(), train, replace(val, role="novel"), CPU)


def test_as_many_genes_as_parents() -> None:
    host = world()
    parent = gene(host, 1)
    with pytest.raises(ValueError, match="needs the tensors of"):
        evaluate(job(parent[0].genotype, (parent[0],)), [parent[1], parent[1]], host)


# --- birth ---------------------------------------------------------------------------------------------------------

UNLIVED = {"life": {"steps": 0, "batch_norm": "inherit"}}


@pytest.mark.parametrize("arch", ARCHS)
def test_a_gene_is_born_in_place_with_its_zero_block(arch: str) -> None:
    host = world(arch, **UNLIVED)
    parent = gene(host, 1)
    genotype = parent[0].genotype
    assert equal(child_of(host, parent, genotype), parent[1]), "insert, then extract: the identity"
    newborn = child_of(host, parent, host.layout.full())
    other = child_of(host, parent, host.layout.full(), seed=77)
    for name, (own, zeros) in regions(host, genotype, weights_only=False).items():
        assert torch.equal(newborn[name][own], parent[1][name].flatten())
        assert not newborn[name][zeros].any()
        rest = ~(own | zeros)
        if newborn[name].dim() == 4 and rest.any():
            assert not torch.equal(newborn[name][rest], other[name][rest]), "everything else is drawn anew"
    assert any(zeros.any() for _, zeros in regions(host, genotype).values())


@pytest.mark.parametrize("lives", [True, False])
def test_without_parents_the_gene_is_random(lives: bool) -> None:
    host = world(**UNLIVED)
    genotype = random_genotype(host.layout.groups, 3, share=0.5)
    found = [evaluate(job(genotype, (), seed=seed, lives=lives), [], host)[0] for seed in (1, 1, 2)]
    assert found[0] is not None and found[1] is not None and found[2] is not None
    assert equal(found[0], found[1]) and not equal(found[0], found[2])
    assert torch.equal(found[0]["conv3.norm.weight"], torch.ones(2))


def test_an_unchanged_elite_only_meets_new_tasks() -> None:
    host = world()
    parent = gene(host, 1)
    elite = job(parent[0].genotype, (parent[0],), lives=False, critic_seed=1)
    tensors, evaluation = evaluate(elite, [parent[1]], host)
    assert tensors is not None and equal(tensors, parent[1]) and evaluation.images == 0
    scores = [evaluate(replace(elite, critic_seed=n), [parent[1]], host)[1].fitness for n in range(8)]
    assert len(set(scores)) > 1


def test_parents_of_one_genotype_are_averaged_and_others_united() -> None:
    host = world(**UNLIVED)
    genotype = random_genotype(host.layout.groups, 1, share=0.5)
    siblings = [gene(host, seed, genotype) for seed in (1, 2, 3)]
    strangers = [gene(host, 4), gene(host, 5)]
    for parents in (siblings, strangers):
        union, expected = combine([(parent.genotype, tensors) for parent, tensors in parents], host.layout)
        for lives in (True, False):
            each = job(union, tuple(parent for parent, _ in parents), lives=lives)
            found, evaluation = evaluate(each, [tensors for _, tensors in parents], host)
            assert found is not None and evaluation.ok
            assert equal(found, expected)


# --- life ----------------------------------------------------------------------------------------------------------

WILD = {"learning_rate": 0.5, "momentum": 0.9, "weight_decay": 0.1, "batch_size": 8, "crop_padding": 1}


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("zero_block", ["masked", "trained"])
def test_a_masked_zero_block_stays_exactly_zero(arch: str, zero_block: str) -> None:
    host = world(arch, life={"zero_block": zero_block, "batch_norm": "inherit", "training": WILD})
    parent = gene(host, 1)
    lived = child_of(host, parent, host.layout.full())
    blocks = [lived[name][zeros] for name, (_, zeros) in regions(host, parent[0].genotype).items() if zeros.any()]
    if zero_block == "masked":
        assert not torch.cat(blocks).any()
    else:
        assert all(block.any() for block in blocks), "otherwise the gene comes to read from the rest"
    for name, (own, _) in regions(host, parent[0].genotype).items():
        assert not torch.equal(lived[name][own], parent[1][name].flatten()), "the gene learns in either case"


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("zero_block", ["masked", "trained"])
def test_a_gene_update_of_zero_freezes_the_gene(arch: str, zero_block: str) -> None:
    life = {"gene_update": 0.0, "zero_block": zero_block, "batch_norm": "inherit", "training": WILD}
    host = world(arch, life=life)
    parent = gene(host, 1)
    lived = child_of(host, parent, host.layout.full())
    born = child_of(world(arch, life={**life, "steps": 0}), parent, host.layout.full())
    for name, (own, zeros) in regions(host, parent[0].genotype).items():
        assert torch.equal(lived[name][own], parent[1][name].flatten())
        rest = ~(own | zeros)
        if rest.any():
            assert not torch.equal(lived[name][rest], born[name][rest]), "the rest of the host does live"
        if zeros.any():
            assert bool(lived[name][zeros].any()) is (zero_block == "trained")


def test_a_gene_update_between_holds_back() -> None:
    moved = {}
    for factor in (0.1, 1.0):
        host = world(life={"gene_update": factor, "steps": 1, "batch_norm": "inherit"})
        parent = gene(host, 1)
        child = child_of(host, parent, parent[0].genotype)
        moved[factor] = {name: child[name] - parent[1][name] for name in host.layout.convolutions}
    for name, change in moved[0.1].items():
        torch.testing.assert_close(change, 0.1 * moved[1.0][name], rtol=0.02, atol=1e-6)


def test_a_life_meets_n_way_classes_chosen_by_its_task_seed() -> None:
    """Classes that are not drawn may hold anything: without them the life is the same."""
    host = world(classes=6, life={"n_way": 2, "batch_norm": "inherit"})
    parent = gene(host, 1)
    lived = {seed: child_of(host, parent, parent[0].genotype, task_seed=seed) for seed in range(6)}
    assert len({str(sorted((n, t.sum().item()) for n, t in each.items())) for each in lived.values()}) > 2
    touched = []
    for label in range(6):
        pixels = host.train.images.clone()
        pixels[host.train.indices_of(label)] = 255 - pixels[host.train.indices_of(label)]
        changed = replace(host, train=replace(host.train, images=pixels))
        touched.append(not equal(child_of(changed, parent, parent[0].genotype, task_seed=3), lived[3]))
    assert sum(touched) == 2


def test_divergence_is_a_status_with_a_reason() -> None:
    calm = world()
    life = calm.config.life
    wild = life.model_copy(update={"training": life.training.model_copy(update={"learning_rate": 1e9})})
    host = replace(calm, config=calm.config.model_copy(update={"life": wild}))
    parent = gene(host, 1)
    for parents, tensors in (((parent[0],), [parent[1]]), ((), [])):
        found, evaluation = evaluate(job(parent[0].genotype, parents), tensors, host)
        assert found is None and evaluation.status is Status.DIVERGED and not evaluation.ok
        assert "lower life.training.learning_rate" in evaluation.reason
        assert evaluation.fitness == 0.0 and evaluation.images == 24
    _, elite = evaluate(job(parent[0].genotype, (parent[0],), lives=False), [parent[1]], host)
    assert elite.ok, "who does not live does not diverge"


@pytest.mark.parametrize("factor", [float("nan"), float("inf"), 1e38])
@pytest.mark.parametrize("lives", [True, False])
def test_a_gene_that_is_not_finite_never_wins(factor: float, lives: bool) -> None:
    host = world()
    parent = gene(host, 1)
    broken = {name: tensor * factor for name, tensor in parent[1].items()}
    for genotype in (parent[0].genotype, host.layout.full()):
        tensors, evaluation = evaluate(job(genotype, (parent[0],), lives=lives), [broken], host)
        assert (tensors is None) is not evaluation.ok
        assert tensors is None or all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values())
        assert evaluation.ok or (evaluation.status is Status.DIVERGED and evaluation.reason)


# --- what passes on ------------------------------------------------------------------------------------------------


def inheriting(mode: str) -> World:
    return world(life={"inherit": mode, "steps": 0, "batch_norm": "inherit"})


def test_the_control_mask_passes_on_places_only() -> None:
    host = inheriting("mask")
    one = gene(host, 1)
    other = gene(host, 2, one[0].genotype)
    children = [child_of(host, parent, parent[0].genotype) for parent in (one, other)]
    assert equal(*children), "nothing of the weights is left"
    assert not equal(children[0], one[1])
    assert not equal(children[0], child_of(host, one, one[0].genotype, seed=99))
    newborn = child_of(host, one, host.layout.full())
    for name, (own, zeros) in regions(host, one[0].genotype).items():
        assert torch.equal(newborn[name][own], children[0][name].flatten()) and not newborn[name][zeros].any()


def test_the_control_shuffled_passes_on_the_distribution_only() -> None:
    host = inheriting("shuffled")
    parent = gene(host, 1)
    child = child_of(host, parent, parent[0].genotype)
    for name, tensor in parent[1].items():
        assert torch.equal(child[name].flatten().sort().values, tensor.flatten().sort().values)
    assert all(not torch.equal(child[name], parent[1][name]) for name in host.layout.convolutions)
    assert equal(child, child_of(host, parent, parent[0].genotype))
    assert not equal(child, child_of(host, parent, parent[0].genotype, seed=99))


@pytest.mark.parametrize("mode", ["weights", "mask", "shuffled"])
def test_controls_touch_lives_only(mode: str) -> None:
    """An elite that meets new tasks keeps its weights whatever the mode."""
    host = inheriting(mode)
    parent = gene(host, 1)
    assert equal(child_of(host, parent, parent[0].genotype, lives=False), parent[1])
    assert equal(child_of(host, parent, parent[0].genotype), parent[1]) is (mode == "weights")


def test_weight_noise_moves_kernels_a_little() -> None:
    host = world(evolution={"mutation": {"weight_noise": 0.1}}, width=8, **UNLIVED)
    parent = gene(host, 1)
    child = child_of(host, parent, parent[0].genotype)
    for name, tensor in parent[1].items():
        if name not in host.layout.convolutions:
            assert torch.equal(child[name], tensor)
        else:
            assert float((child[name] - tensor).std() / tensor.std()) == pytest.approx(0.1, rel=0.35)
    assert equal(child_of(host, parent, parent[0].genotype, lives=False), parent[1])


def test_weight_noise_on_the_smallest_gene_is_finite() -> None:
    """A 1 x 1 shortcut between two single channels has no spread."""
    host = world("resnet12", evolution={"mutation": {"weight_noise": 0.5}}, **UNLIVED)
    parent = gene(host, 1, Genotype({group: ChannelMask(4, [0]) for group in host.layout.groups}))
    child = child_of(host, parent, parent[0].genotype)
    assert torch.equal(child["stage2.out.shortcut.weight"], parent[1]["stage2.out.shortcut.weight"])


@pytest.mark.parametrize("arch", ARCHS)
def test_a_new_channel_is_the_hosts_or_random(arch: str) -> None:
    children = {}
    for kind in ("host", "random"):
        host = world(arch, evolution={"mutation": {"new_channel": kind}}, life={"batch_norm": "inherit"})
        parent = gene(host, 1)
        children[kind] = child_of(host, parent, host.layout.full())
    for name in host.layout.inherited:
        group = host.layout.owner(name)
        old, new = (torch.from_numpy(a) for a in (parent[0].genotype[group].kept, parent[0].genotype[group].dropped))
        of_host, of_chance = (children[kind][name] for kind in ("host", "random"))
        assert torch.equal(of_host[old], of_chance[old]), "the parent's channels lived the same life"
        assert not torch.equal(of_host[new], of_chance[new])
        if name.endswith(("norm.weight", "running_var")):
            assert torch.equal(of_chance[new], torch.ones(len(new))), "as in a network that never trained"
    again = child_of(host, parent, host.layout.full())
    assert equal(again, children["random"])


@pytest.mark.parametrize("kind", ["inherit", "reestimate"])
def test_norm_statistics_fit_the_circuit_alone(kind: str) -> None:
    host = world(life={"batch_norm": kind}, each=20)
    parent = gene(host, 1)
    child = child_of(host, parent, parent[0].genotype)
    thin = thin_network("vgg11", parent[0].genotype, child)
    reestimate_norms(thin, host.train.images, CPU)
    fitted = thin.state_dict()
    statistics = [name for name in host.layout.inherited if "running" in name]
    close = all(torch.allclose(child[name], fitted[name], rtol=1e-3, atol=1e-4) for name in statistics)
    assert close is (kind == "reestimate")


def test_the_configuration_here_is_a_real_one() -> None:
    """The tests' tiny configuration passes the same checks as a user's."""
    assert Config.model_validate(world().config.model_dump()) == world().config
    assert isinstance(job(world().layout.full()), Job)


# --- what lives read ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_way", [2, 4])
def test_a_life_reads_a_padded_set_that_all_lives_share(n_way: int) -> None:
    """The same batches as from a set of its own, without a copy of the images."""
    shared = world(life={"n_way": n_way})
    pad = shared.config.life.training.crop_padding
    classes = [2, 0] if n_way == 2 else None
    found = shared.environment(classes)
    own = Environment.of(shared.train if classes is None else shared.train.take_classes(classes), pad, CPU.device)
    for (here, label), (there, expected), _ in zip(Batches(found, 5, 3), Batches(own, 5, 3), range(9), strict=False):
        assert torch.equal(here, there) and torch.equal(label, expected)
    assert found.crops is shared.environment([1]).crops


def test_a_padded_set_that_does_not_fit_the_recipe_is_refused() -> None:
    plain = world()
    pad = plain.config.life.training.crop_padding
    assert replace(plain, crops=Augmenter(plain.train, pad=pad)).everything.crops.pad == pad
    with pytest.raises(ValueError, match=f"padded by {pad + 1}, lives need {pad}"):
        replace(plain, crops=Augmenter(plain.train, pad=pad + 1))
