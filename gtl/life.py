"""One life: birth, life, extraction, critic. `evaluate` is a pure function of a job, its parents' genes and the world.

`evaluate_pack` lets several hosts live at once; all but their training is the same.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch

from gtl.config import Config, TrainingSection
from gtl.critic import Gene, critic_images, criticise, draw_tasks
from gtl.data.augment import Augmenter
from gtl.data.batches import Environment
from gtl.data.images import ImageSet, refuse_novel
from gtl.distillation import Teacher, head_of_circuit
from gtl.genotype import Genotype
from gtl.individual import Evaluation, Job, Status
from gtl.layout import ChannelLayout
from gtl.models import ArchSpec, ConvNet, build, gene_layout
from gtl.packing import Packing, train_pack
from gtl.phenotype import newborn, thin_network
from gtl.resuming import train_resumable
from gtl.seeds import derive, rng
from gtl.surgery import GeneTensors, combine, gather, scatter, update_scale
from gtl.training import Compute, Loss, TrainingResult, reestimate_norms
from gtl.versions import state_digest

NORM_IMAGES = 2048  # images that batch-norm statistics are estimated on


@dataclass(frozen=True)
class World:
    """What every evaluation of a run shares and none changes. Sent to a worker once.

    Attributes:
        config: the run's configuration.
        host: family and widths of hosts (its number of classes is the life's n_way).
        train: images of the train classes.
        val: images of the validation classes.
        compute: where to compute.
        class_lists: class names by role, for provenance.
        class_digest: hash of source and class lists.
        crops: `train`, padded for lives; None: padded when it is first needed.
    """

    config: Config
    host: ArchSpec
    train: ImageSet
    val: ImageSet
    compute: Compute
    class_lists: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    class_digest: str = ""
    crops: Augmenter | None = None

    def __post_init__(self) -> None:
        refuse_novel(self.train, "training")
        refuse_novel(self.val, "the critic")
        pad = self.config.life.training.crop_padding
        if self.crops is not None and self.crops.pad != pad:
            raise ValueError(f"the train images are padded by {self.crops.pad}, lives need {pad}")

    @cached_property
    def layout(self) -> ChannelLayout:
        """Layout of hosts without their head."""
        return gene_layout(self.host.arch, dict(self.host.widths))

    @cached_property
    def padded(self) -> Augmenter:
        """`train`, padded for lives, where it lies."""
        return self.crops or Augmenter(self.train, pad=self.config.life.training.crop_padding)

    @cached_property
    def everything(self) -> Environment:
        """All train classes, padded and on the device once for all lives."""
        labels = self.train.labels.to(self.compute.device)
        rows = torch.arange(len(labels), device=labels.device)
        return Environment(self.padded.to(self.compute.device), rows, labels)

    def pixels(self) -> dict[str, str]:
        """What a training on `train` is recognised by. Looks at every pixel, once."""
        return {"pixels": self.train.digest}

    def images_for(self, recipe: TrainingSection) -> ImageSet | Environment:
        """All train classes for a training by a recipe: as lives have them, unless it pads them otherwise."""
        return self.everything if recipe.crop_padding == self.config.life.training.crop_padding else self.train

    def environment(self, classes: Sequence[int] | None) -> Environment:
        """What a life learns from: these train classes, renumbered in the order given; None: all, in their own order."""
        if classes is None:
            return self.everything
        rows, labels = (found.to(self.compute.device) for found in self.train.rows_of(classes))
        return Environment(self.everything.crops, rows, labels)


@dataclass(frozen=True)
class Newborn:
    """A job whose host is about to live.

    Attributes:
        inherited: the gene that the host was born with; None without parents.
        host: None where an unchanged gene only meets new critic tasks.
        teacher: the ancestor that the life is distilled from, or that added channels come from.
    """

    job: Job
    inherited: tuple[Genotype, GeneTensors] | None
    host: ConvNet | None
    teacher: GeneTensors | None = None


Judged = tuple[GeneTensors | None, Evaluation]


def evaluate(job: Job, genes: Sequence[GeneTensors], world: World) -> Judged:
    """Live one life and be judged.

    Args:
        job: what to do.
        genes: tensors of ``job.genes``, in the same order.

    Returns:
        The child's gene tensors (None if it failed) and its evaluation. The same on every machine of one kind.
    """
    began = time.perf_counter()
    child = _birth(job, genes, world)
    (result,) = _live([child], world, "loop")
    return _finish(child, result, world, began)


def evaluate_pack(jobs: Sequence[Job], genes: Sequence[Sequence[GeneTensors]], world: World) -> list[Judged]:
    """`evaluate` of several jobs that live equally long, their hosts trained at once (``compute.packing``).

    A member that diverges does not touch the others. Each tells the size of the pack among its metrics, and as its
    seconds its share of those that were spent together.

    Args:
        jobs: what to do; how much they round depends on who is among them, and in which order.
        genes: of each job, as `evaluate` has them.

    Raises:
        ValueError: lives of different lengths, or on environments that fill batches of different sizes.
    """
    began = time.perf_counter()
    newborns = [_birth(job, tensors, world) for job, tensors in zip(jobs, genes, strict=True)]
    results = _live(newborns, world, world.config.compute.packing)
    share = (time.perf_counter() - began) / len(jobs)
    found = []
    for child, result in zip(newborns, results, strict=True):
        tensors, evaluation = _finish(child, result, world, time.perf_counter() - share)
        found.append((tensors, replace(evaluation, metrics={**evaluation.metrics, "pack": len(jobs)})))
    return found


def _birth(job: Job, genes: Sequence[GeneTensors], world: World) -> Newborn:
    """A host with the inherited gene in it; without parents, the gene is what its random weights happen to be."""
    if len(genes) != len(job.genes):
        raise ValueError(f"{job.individual} needs the tensors of {len(job.genes)} genes, got {len(genes)}")
    parents, teacher = genes[: len(job.parents)], None if job.teacher is None else genes[-1]
    inherited = _conceive(job, parents, world)
    if not job.lives and len(parents) == 1 and inherited is not None and inherited[0] == job.genotype:
        return Newborn(job, inherited, None)
    spec = ArchSpec(world.host.arch, world.host.widths, world.config.life.n_way)
    seed = derive(job.seed, "host")
    gene = inherited
    if gene is None:
        gene = job.genotype, gather(build(spec, seed).state_dict(), world.layout, job.genotype)
    if job.lives and world.config.life.host == "circuit":
        return Newborn(job, inherited, _circuit(job, gene, teacher, world, seed), teacher)
    return Newborn(job, inherited, newborn(spec, *gene, seed), teacher)


def _circuit(
    job: Job, gene: tuple[Genotype, GeneTensors], teacher: GeneTensors | None, world: World, seed: int
) -> ConvNet:
    """The thin network of the child's channels. Channels that mutation added are the ancestor's if there is a teacher.

    Its head is the ancestor's, as far as that reads the circuit, where the life is distilled. Whatever is left is random.
    """
    layout, classes = world.layout, _classes(job, world)
    counts = tuple(job.genotype.counts.items())
    thin = build(ArchSpec(world.host.arch, counts, world.config.life.n_way), seed)
    wanted = world.config.evolution.mutation.new_channel
    whole = (
        build(world.host, derive(seed, "new channels")).state_dict()
        if teacher is None or wanted == "random"
        else teacher
    )
    tensors = gather(scatter(gene[1], gene[0], whole, layout), layout, job.genotype)
    if teacher is not None and world.config.life.distill > 0:
        tensors |= head_of_circuit(teacher, layout, job.genotype, classes)
    thin.load_state_dict({**thin.state_dict(), **tensors})
    return thin


def _live(newborns: Sequence[Newborn], world: World, how: Packing) -> Sequence[TrainingResult | None]:
    """Train the hosts, each on its own survival environment; None: no life, for lack of steps or by its job."""
    life = world.config.life
    hosts = [each.host for each in newborns if each.host is not None and each.job.lives]
    steps = {life.steps if each.job.steps is None else each.job.steps for each in newborns}
    if not hosts or steps == {0}:
        return [None] * len(newborns)
    if len(hosts) != len(newborns) or len(steps) != 1:
        raise ValueError(
            f"a pack needs lives of one length; these are {len(hosts)} of {len(newborns)}, of {steps} steps"
        )
    if len(newborns) == 1:
        return [_live_alone(newborns[0], world, steps.pop())]
    return train_pack(
        hosts,
        [world.environment(_classes(each.job, world)) for each in newborns],
        life.training,
        steps=steps.pop(),
        seeds=[derive(each.job.seed, "life") for each in newborns],
        compute=world.compute,
        update_scales=[_update_scale(each, world) for each in newborns],
        losses=[_loss(each, world) for each in newborns],
        how=how,
    )


def _live_alone(child: Newborn, world: World, steps: int) -> TrainingResult:
    """Of one host; killed, it goes on where it was."""
    assert child.host is not None
    life = world.config.life

    def key() -> dict[str, Any]:
        teacher = None if child.teacher is None else state_digest([], child.teacher)
        return {**world.pixels(), "teacher": teacher, "distill": life.distill, "temperature": life.temperature}

    return train_resumable(
        child.host,
        world.environment(_classes(child.job, world)),
        life.training,
        key=key,
        steps=steps,
        seed=derive(child.job.seed, "life"),
        compute=world.compute,
        update_scale=_update_scale(child, world),
        loss=_loss(child, world),
    )


def _finish(child: Newborn, result: TrainingResult | None, world: World, began: float) -> Judged:
    """Read the gene out of the host that has lived, and judge it.

    Args:
        began: the moment from which its seconds count.
    """
    job, images = child.job, 0 if result is None else result.images
    if result is not None and not result.finite:
        reason = f"the host's training diverged (loss {result.loss}); lower life.training.learning_rate"
        seconds = time.perf_counter() - began
        return None, Evaluation(Status.DIVERGED, images=images, seconds=seconds, reason=reason)
    tensors = _extract(child, world)
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
        seconds = time.perf_counter() - began
        return None, Evaluation(Status.DIVERGED, images=images, seconds=seconds, reason="the gene is not finite")
    tasks = draw_tasks(world.val, world.config.critic, job.critic_seed, job.critic_tasks)
    gene = Gene(world.host, job.genotype, tensors)
    scores = criticise(gene, tasks, world.config.critic, job.critic_seed, world.compute)
    images += critic_images(tasks, world.config.critic)
    mean = sum(scores) / len(scores)
    spread = (sum((s - mean) ** 2 for s in scores) / len(scores)) ** 0.5
    fitness = max(0.0, mean - world.config.critic.spread_penalty * spread)
    metrics = {"accuracy": mean, "spread": spread, "share": world.layout.circuit_share(job.genotype.counts)}
    return tensors, Evaluation(Status.OK, fitness, metrics, images, time.perf_counter() - began)


def _conceive(job: Job, parents: Sequence[GeneTensors], world: World) -> tuple[Genotype, GeneTensors] | None:
    """The gene that the host is born with: parents combined, then the inheritance mode and weight noise applied."""
    if not parents:
        return None
    pairs = [(parent.genotype, tensors) for parent, tensors in zip(job.parents, parents, strict=True)]
    genotype, tensors = combine(pairs, world.layout) if len(pairs) > 1 else pairs[0]
    mode, noise = world.config.life.inherit, world.config.evolution.mutation.weight_noise
    if not job.lives:
        return genotype, tensors
    if mode == "mask":  # control: the channels' places pass on, their weights do not
        fresh = build(world.host, derive(job.seed, "mask only"))
        tensors = gather(fresh.state_dict(), world.layout, genotype)
    elif mode == "shuffled":  # control: the weights' distribution passes on, their arrangement does not
        generator = torch.Generator().manual_seed(derive(job.seed, "shuffle"))
        tensors = {
            n: t.flatten()[torch.randperm(t.numel(), generator=generator)].view(t.shape) for n, t in tensors.items()
        }
    if noise > 0:
        generator = torch.Generator().manual_seed(derive(job.seed, "noise"))
        kernels = set(world.layout.convolutions)
        tensors = {
            name: tensor + noise * tensor.std(correction=0) * torch.randn(tensor.shape, generator=generator)
            if name in kernels
            else tensor
            for name, tensor in tensors.items()
        }
    return genotype, tensors


def _classes(job: Job, world: World) -> list[int] | None:
    """The k of the train classes that a life's survival environment has; None: all of them, in their own order."""
    n_way = world.config.life.n_way
    classes = rng(job.task_seed, "classes").permutation(world.train.n_classes)[:n_way]
    return classes.tolist() if n_way < world.train.n_classes else None


def _loss(child: Newborn, world: World) -> Loss | None:
    """What a life minimises, where it is not the recipe's cross-entropy."""
    life = world.config.life
    if child.teacher is None or life.distill == 0:
        return None
    teacher = Teacher.of(
        child.teacher,
        world.host,
        _classes(child.job, world),
        share=life.distill,
        temperature=life.temperature,
        label_smoothing=life.training.label_smoothing,
        compute=world.compute,
    )
    return teacher.loss


def _update_scale(child: Newborn, world: World) -> Mapping[str, torch.Tensor] | None:
    """`update_scale` of a life, by what its host was born with."""
    life = world.config.life
    if life.host == "circuit":
        return None  # there is no zero block, and the whole host is the gene
    born_with = child.job.genotype if child.inherited is None else child.inherited[0]
    return update_scale(world.layout, born_with, gene_update=life.gene_update, masked=life.zero_block == "masked")


def _extract(child: Newborn, world: World) -> GeneTensors:
    """Read the child's circuit out of the trained host, and make its norms fit the circuit alone."""
    job, inherited, host = child.job, child.inherited, child.host
    if host is None:
        assert inherited is not None
        return inherited[1]
    host.to("cpu")
    state, layout = host.state_dict(), world.layout
    if job.lives and world.config.life.host == "circuit":  # it lived alone: all of it is the gene
        tensors = {name: state[name] for name in layout.inherited}
    else:
        if inherited is not None and world.config.evolution.mutation.new_channel == "random" and job.lives:
            state = _randomise_new_channels(state, layout, inherited[0], job, world)
        tensors = gather(state, layout, job.genotype)
    if world.config.life.batch_norm == "inherit":
        return tensors
    return norm_fitted(tensors, job.genotype, world, job.critic_seed)


def norm_fitted(tensors: GeneTensors, genotype: Genotype, world: World, seed: int) -> GeneTensors:
    """`fit_norms` of a host's gene, over train images."""
    return fit_norms(world.host.arch, tensors, genotype, world.train, world.compute, seed)


def fit_norms(
    arch: str, tensors: Mapping[str, torch.Tensor], genotype: Genotype, images: ImageSet, compute: Compute, seed: int
) -> GeneTensors:
    """The gene with its norms' statistics estimated on the thin network, over images drawn with `seed`.

    Raises:
        NovelClassesError: `images` are of novel classes.
    """
    refuse_novel(images, "the estimation of norms")
    thin = thin_network(arch, genotype, tensors)
    rows = rng(seed, "norm images").permutation(len(images.labels))[:NORM_IMAGES]
    reestimate_norms(thin, images.images[torch.from_numpy(rows)], compute)
    thin.to("cpu")
    return gather(thin.state_dict(), thin.layout, Genotype.full(thin.widths))


def _randomise_new_channels(
    state: Mapping[str, torch.Tensor], layout: ChannelLayout, parent: Genotype, job: Job, world: World
) -> dict[str, torch.Tensor]:
    """Give the channels that mutation added fresh random weights instead of the trained host's (ablation, row 10)."""
    fresh = build(world.host, derive(job.seed, "new channels")).state_dict()
    result = dict(state)
    for name in layout.inherited:
        group = layout.owner(name)
        added = job.genotype[group].bits & ~parent[group].bits
        rows = torch.from_numpy(added)
        result[name] = state[name].clone()
        result[name][rows] = fresh[name][rows]
    return result
