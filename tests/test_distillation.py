"""Lives of the circuit alone, distilled from the ancestor: what is learned is learned by what is inherited."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pico import ARCHS, CPU, config, equal, gratings, job, noise, random_genotype, spec, stir, world
from tiny_run import tiny
from torch.nn import functional as F

from gtl import engine
from gtl.config import TrainingSection
from gtl.config_file import load_config
from gtl.distillation import HEAD, Teacher, head_of_circuit
from gtl.errors import ConfigError, StoppedError
from gtl.genotype import ChannelMask, Genotype
from gtl.individual import Job, ParentGene, Status
from gtl.learngene.founders import fit_head
from gtl.life import World, evaluate
from gtl.lineage import read_rows
from gtl.models import ArchSpec, ConvNet, build
from gtl.packing import train_pack
from gtl.phenotype import thin_network
from gtl.population.observer import Observer
from gtl.population.run import read_record
from gtl.population.store import RunStore
from gtl.surgery import GeneTensors, gather
from gtl.training import accuracy, train


def ancestor(arch: str, classes: int = 4, seed: int = 5) -> ConvNet:
    return stir(build(spec(arch, classes=classes), seed), seed)


def teacher(
    network: ConvNet, share: float = 1.0, temperature: float = 4.0, classes: list[int] | None = None
) -> Teacher:
    return Teacher.of(
        network.state_dict(), network.spec, classes,
        share=share, temperature=temperature, label_smoothing=0.0, compute=CPU,
    )  # fmt: skip


# --- the loss ------------------------------------------------------------------------------------------------------


def test_the_loss_is_hintons() -> None:
    """By hand, with temperature 2 and a share of 0.3."""
    network, inputs, labels = ancestor("vgg11"), noise(6), torch.tensor([0, 1, 2, 3, 0, 1])
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    answers = network(inputs)
    p, q = F.softmax(answers / 2, dim=1), F.softmax(logits / 2, dim=1)
    soft = 4 * (p * (p / q).log()).sum(1).mean()
    found = teacher(network, share=0.3, temperature=2.0).loss(logits, labels, inputs)
    torch.testing.assert_close(found, 0.7 * F.cross_entropy(logits, labels) + 0.3 * soft, rtol=1e-4, atol=1e-5)


def test_who_answers_as_the_teacher_has_nothing_to_learn() -> None:
    network, inputs, labels = ancestor("resnet12"), noise(4), torch.zeros(4, dtype=torch.int64)
    logits = network(inputs).detach().requires_grad_(True)
    loss = teacher(network).loss(logits, labels, inputs)
    loss.backward()  # type: ignore[no-untyped-call]
    assert abs(float(loss.detach())) < 1e-5 and logits.grad is not None and float(logits.grad.abs().max()) < 1e-5


def test_a_teacher_answers_for_the_lifes_classes_in_their_order() -> None:
    network, inputs, labels = ancestor("vgg11"), noise(4), torch.zeros(4, dtype=torch.int64)
    logits = network(inputs).detach()[:, [3, 1]]
    assert abs(float(teacher(network, classes=[3, 1]).loss(logits, labels, inputs))) < 1e-5
    assert float(teacher(network, classes=[1, 3]).loss(logits, labels, inputs)) > 1e-4


def test_a_teacher_never_learns() -> None:
    asked = teacher(ancestor("vgg11"))
    before = {name: tensor.clone() for name, tensor in asked.network.state_dict().items()}
    student = build(spec("vgg11", classes=4), 1)
    train(student, gratings(4, 8), TrainingSection(batch_size=8), steps=3, seed=0, compute=CPU, loss=asked.loss)
    assert equal(before, asked.network.state_dict())


def test_a_students_loss_falls() -> None:
    """Trained on answers alone, a student comes to answer as its teacher, which has learned the classes."""
    images, recipe = gratings(4, 40, noisy=0.5), TrainingSection(batch_size=32, crop_padding=1)
    wise = build(spec("vgg11", classes=4), 0)
    train(wise, images, recipe, steps=120, seed=1, compute=CPU)
    wise.to("cpu").eval()
    student = build(spec("vgg11", classes=4), 7)
    wrong = replace(images, labels=images.labels)
    train(student, wrong, recipe, steps=120, seed=2, compute=CPU, loss=teacher(wise).loss)
    assert accuracy(student, images, CPU) > 0.5 * (accuracy(wise, images, CPU) + 0.25)


def test_only_the_loop_knows_other_losses() -> None:
    networks = [build(spec("vgg11", classes=4), seed) for seed in (1, 2)]
    host = world("vgg11")
    with pytest.raises(ValueError, match="how='loop'"):
        train_pack(networks, [host.everything] * 2, host.config.life.training, steps=1, seeds=[1, 2], compute=CPU,
                   losses=[teacher(ancestor("vgg11")).loss, None], how="grouped")  # fmt: skip


# --- lives ---------------------------------------------------------------------------------------------------------


def circuits(arch: str, **life: Any) -> World:
    return world(arch, life={"host": "circuit", "n_way": 4, **life})


def parent_of(host: World, genotype: Genotype) -> tuple[ParentGene, GeneTensors]:
    tensors = gather(stir(build(host.host, 3), 3).state_dict(), host.layout, genotype)
    return ParentGene("p", "aa", genotype), tensors


def whole(host: World) -> GeneTensors:
    state = ancestor(host.host.arch).state_dict()
    return {name: state[name] for name in (*host.layout.inherited, *HEAD)}


@pytest.mark.parametrize("arch", ARCHS)
def test_a_circuit_that_learns_nothing_is_the_gene(arch: str) -> None:
    """Insert, then extract: the same weights, all of them."""
    host = circuits(arch, training={"learning_rate": 1e-30, "weight_decay": 0.0})
    genotype = random_genotype(host.layout.groups, 1, share=0.5)
    parent, tensors = parent_of(host, genotype)
    found, evaluation = evaluate(job(genotype, (parent,)), [tensors], host)
    assert evaluation.ok and found is not None
    weights = [name for name in tensors if "running" not in name]
    assert all(torch.equal(found[name], tensors[name]) for name in weights)


@pytest.mark.parametrize("arch", ARCHS)
def test_the_gene_is_what_the_thin_network_becomes(arch: str) -> None:
    """Trained by hand: the same thin network, head, batches and loss."""
    host = circuits(arch, distill=0.5, batch_norm="inherit")
    genotype = random_genotype(host.layout.groups, 1, share=0.5)
    parent, tensors = parent_of(host, genotype)
    asked = replace(job(genotype, (parent,)), teacher="bb")
    found, _ = evaluate(asked, [tensors, whole(host)], host)
    from gtl.seeds import derive

    thin = thin_network(arch, genotype, tensors, 4)
    thin.load_state_dict({**thin.state_dict(), **head_of_circuit(whole(host), host.layout, genotype, None)})
    loss = Teacher.of(whole(host), host.host, None, share=0.5, temperature=4.0, label_smoothing=0.0, compute=CPU).loss
    life = host.config.life
    train(
        thin, host.everything, life.training, steps=life.steps, seed=derive(asked.seed, "life"), compute=CPU, loss=loss
    )
    thin.to("cpu")
    assert found is not None and equal(found, {name: thin.state_dict()[name] for name in found})


@pytest.mark.parametrize(("wanted", "distill"), [("host", 0.5), ("random", 0.5), ("ancestor", 0.5), ("ancestor", 0.0)])
def test_channels_that_mutation_added_are_the_ancestors(wanted: str, distill: float) -> None:
    still = {"learning_rate": 1e-30, "weight_decay": 0.0}
    life = {"host": "circuit", "n_way": 4, "distill": distill, "training": still}
    host = world("vgg11", life=life, evolution={"mutation": {"new_channel": wanted}})
    groups = host.layout.groups
    before = Genotype({group: ChannelMask(width, range(2)) for group, width in groups.items()})
    after = Genotype({group: ChannelMask(width, range(3)) for group, width in groups.items()})
    parent, tensors = parent_of(host, before)
    found, _ = evaluate(replace(job(after, (parent,)), teacher="bb"), [tensors, whole(host)], host)
    assert found is not None
    first, second = host.layout.convolutions[:2]
    own = torch.equal(found[first][2], whole(host)[first][2])
    assert own == (wanted != "random")
    assert torch.equal(found[second][:2, :2], tensors[second]), "what was inherited stays"
    assert float(found[second][:2, 2].abs().max()) < 1e-20, "and hears nothing of the new channels at first"


def test_a_head_reads_only_the_circuit() -> None:
    host = circuits("vgg11")
    genotype = random_genotype(host.layout.groups, 1, share=0.5)
    tensors = whole(host)
    head = head_of_circuit(tensors, host.layout, genotype, [2, 0])
    kept = list(genotype[list(genotype)[-1]].kept)
    assert torch.equal(head["head.weight"], tensors["head.weight"][[2, 0]][:, kept])
    assert torch.equal(head["head.bias"], tensors["head.bias"][[2, 0]])


def test_answers_change_what_is_learned() -> None:
    genes = []
    for distill in (0.0, 0.5, 0.5):
        host = circuits("vgg11", distill=distill)
        genotype = random_genotype(host.layout.groups, 1, share=0.5)
        parent, tensors = parent_of(host, genotype)
        child = replace(job(genotype, (parent,)), teacher="bb" if distill else None)
        genes.append(evaluate(child, [tensors, *([whole(host)] if distill else [])], host)[0])
    assert genes[0] is not None and genes[1] is not None and genes[2] is not None
    assert equal(genes[1], genes[2]) and not equal(genes[0], genes[1])


def test_whole_newborns_can_be_distilled_too() -> None:
    host = world("vgg11", life={"distill": 0.5, "n_way": 3})
    genotype = random_genotype(host.layout.groups, 1, share=0.5)
    parent, tensors = parent_of(host, genotype)
    found, evaluation = evaluate(replace(job(genotype, (parent,)), teacher="bb"), [tensors, whole(host)], host)
    assert found is not None and evaluation.status is Status.OK


def test_a_job_names_its_teacher() -> None:
    plain = job(random_genotype({"a": 4}, 1), (ParentGene("p", "aa", random_genotype({"a": 4}, 1)),))
    taught = replace(plain, teacher="bb")
    assert plain.genes == ("aa",) and taught.genes == ("aa", "bb")
    assert Job.from_json(taught.to_json()) == taught and "teacher" not in plain.to_json()


# --- runs ----------------------------------------------------------------------------------------------------------

LIFE = {"host": "circuit", "distill": 0.5}


class StopAt(Observer):
    """Stops the driver after a generation, as SIGTERM would."""

    def __init__(self, generation: int) -> None:
        self.at = generation

    def generation(self, manager: Any) -> None:
        if manager.generation == self.at:
            raise StoppedError("enough")


def test_a_run_of_circuits_goes_on_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    settled = tiny(life=LIFE)
    through = engine.evolve(settled, tmp_path / "through")
    with pytest.raises(StoppedError):
        engine.evolve(settled, tmp_path / "run", observer=StopAt(2))
    resumed = engine.resume(tmp_path / "run")
    assert resumed.learngene.to_bytes() == through.learngene.to_bytes()
    assert lived(tmp_path / "run") == lived(tmp_path / "through")  # a founder that never lived may win
    record = read_record(tmp_path / "run" / "ancestor.json")
    kept = RunStore.open(tmp_path / "run").blobs.get(record["teacher"])
    assert set(HEAD) <= set(kept) and not set(HEAD) & set(RunStore.open(tmp_path / "run").blobs.get(record["gene"]))
    engine.evolve(tiny(), tmp_path / "newborn")
    assert not lived(tmp_path / "newborn") & lived(tmp_path / "through")


def lived(run: Path) -> set[str]:
    """Digests of all genes of a run that have lived."""
    found = {row["gene"] for row in read_rows(run / "lineage.jsonl") if row["event"] == "evaluation" and row["images"]}
    assert found
    return found


def test_a_run_takes_new_channels_of_its_ancestor(tmp_path: Path) -> None:
    """Also after a stop; nothing else is taken of it."""
    always = {"rate": 1.0, "add": 1.0, "drop": 0.0}
    settled = tiny(life={"host": "circuit"}, evolution={"mutation": {"new_channel": "ancestor", **always}})
    through = engine.evolve(settled, tmp_path / "through")
    with pytest.raises(StoppedError):
        engine.evolve(settled, tmp_path / "run", observer=StopAt(2))
    assert engine.resume(tmp_path / "run").learngene.to_bytes() == through.learngene.to_bytes()
    record = read_record(tmp_path / "run" / "ancestor.json")
    assert record["teacher"] == record["gene"]
    other = engine.evolve(tiny(life={"host": "circuit"}, evolution={"mutation": always}), tmp_path / "random")
    assert other.learngene.digest != through.learngene.digest


@pytest.mark.ray
@pytest.mark.slow
def test_circuits_on_workers_are_those_of_one_process(tmp_path: Path) -> None:
    settled = tiny(life=LIFE, compute={"threads": 1})
    here = engine.evolve(settled, tmp_path / "here", workers=1)
    there = engine.evolve(settled, tmp_path / "there", workers=2)
    assert here.learngene.to_bytes() == there.learngene.to_bytes()


def test_a_checkpoint_gets_a_head_of_its_own(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    first = engine.evolve(tiny(), tmp_path / "first")
    store = RunStore.open(tmp_path / "first")
    save_file(store.blobs.get(read_record(tmp_path / "first" / "ancestor.json")["gene"]), tmp_path / "own.safetensors")
    settled = tiny(life=LIFE, founders={"checkpoint": str(tmp_path / "own.safetensors")})
    second = engine.evolve(settled, tmp_path / "second")
    assert read_record(tmp_path / "second" / "ancestor.json")["images"] == 84, "an epoch of the head's training"
    assert first.learngene.digest != second.learngene.digest


def test_a_fitted_head_knows_the_classes() -> None:
    host = world(
        "vgg11", classes=4, each=40, founders={"epochs": 2.0, "training": {"batch_size": 8, "crop_padding": 1}}
    )
    host = replace(host, train=gratings(4, 40, noisy=0.3))
    network = build(ArchSpec("vgg11", host.host.widths, 4), 0)
    train(network, host.train, host.config.founders.training, steps=150, seed=0, compute=CPU)
    network.to("cpu")
    tensors = gather(network.state_dict(), host.layout, host.layout.full())
    head, images = fit_head(host, tensors)
    network.load_state_dict({**network.state_dict(), **head})
    assert images == 160 and accuracy(network, host.train, CPU) > 0.4


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"life": {"distill": 0.5}, "founders": {"kind": "random"}}, "life.distill needs founders.kind: ancestor"),
        ({"life": {"host": "circuit", "zero_block": "masked"}}, "leave out life.gene_update and life.zero_block"),
        ({"life": {"host": "circuit", "gene_update": 0.5}}, "leave out life.gene_update and life.zero_block"),
        ({"life": {"host": "circuit"}, "compute": {"pack": 2}}, "compute.pack .2. must be 1"),
        ({"life": {"distill": 0.1}, "compute": {"pack": 2}}, "compute.pack .2. must be 1"),
    ],
)
def test_what_does_not_go_together_is_refused(sections: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        config(**sections)


def test_a_share_is_a_share() -> None:
    with pytest.raises(ConfigError, match=r"life\.distill"):
        load_config("glyphs", ["life.distill=1.5"])
    assert math.isclose(load_config("glyphs", ["life.distill=0.9"]).life.distill, 0.9)
