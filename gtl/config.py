"""The configuration: every choice of an evolution, checked before anything is trained.

Each field's description says what it is; where it settles something that the GTL paper leaves open, the row of the
list of unknowns in docs/options.md is named. Defaults are the small scale.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, model_validator

from gtl.section import Rate, Section, Share
from gtl.transfer_section import TransferSection


class DataSection(Section):
    """Which images, and how their classes are split."""

    source: str = Field(description="glyphs, digits, cifar_fs, mini_imagenet, folder or npz")
    root: str | None = Field(None, description="folder or file of the source, where it needs one")
    image_size: int | None = Field(None, ge=28, le=84, description="pixels; the source's own size if left out")
    images_per_class: int | None = Field(None, ge=2, le=100_000, description="use at most this many of each class")
    train_classes: int | None = Field(None, ge=1, description="class counts, for sources without a published split")
    val_classes: int | None = Field(None, ge=1)
    novel_classes: int | None = Field(None, ge=1)
    split_seed: int = Field(0, ge=0, description="seed of the class split, for sources without a published split")
    skip_bad: int = Field(0, ge=0, description="tolerate this many unreadable images in a folder")


class ModelSection(Section):
    """The network that hosts the gene while it evolves."""

    arch: Literal["vgg11", "resnet12"] = "vgg11"
    family: str = Field("64-128-256-512", description="width family; resnet12 also has 64-160-320-640")
    width: float = Field(1.0, gt=0.0, le=4.0, description="multiplier on every group's channels")


class TrainingSection(Section):
    """How a network is trained (row 18): SGD with momentum, or Muon; linear warm-up, then cosine or constant."""

    optimiser: Literal["sgd", "muon"] = Field(
        "sgd",
        description="muon: kernels move by orthogonal updates, a fifth of the learning rate long; the rest by SGD",
    )
    learning_rate: float = Field(0.05, gt=0.0, le=10.0)
    momentum: float = Field(0.9, ge=0.0, lt=1.0)
    weight_decay: float = Field(5e-4, ge=0.0, le=1.0)
    batch_size: int = Field(128, ge=2, le=65_536)
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: Rate = Field(0.1, description="share of the steps over which the learning rate rises linearly")
    label_smoothing: float = Field(0.0, ge=0.0, lt=1.0)
    crop_padding: int = Field(4, ge=0, le=16, description="pixels of padding for the random crop; 0: no crop")


class FoundersSection(Section):
    """Where the first genes come from (rows 6, 8)."""

    kind: Literal["ancestor", "random"] = Field(
        "ancestor",
        description="ancestor: cut from a network trained on the train classes; random: from fresh networks (the paper)",
    )
    epochs: float = Field(10.0, gt=0.0, le=10_000.0, description="passes over the train images for the ancestor")
    threads: int = Field(
        0, ge=0, le=1024, description="CPU threads of its training, for which all wait; 0: all cores, when a run begins"
    )
    checkpoint: str | None = Field(
        None, description="state dict, .safetensors or torch's .pt, instead of training an ancestor (docs/condense.md)"
    )
    reuse: bool = Field(
        False,
        description="take the ancestor from the cache folder if another run has trained the same one, and keep it there",
    )
    channels: tuple[Literal["l1", "bn", "random", "taylor", "activation", "uniform"], ...] = Field(
        ("l1", "bn", "random"), min_length=1, description="scores that choose a founder's channels, in turn (row 8)"
    )
    allocations: tuple[Literal["drawn", "uniform", "early", "level"], ...] = Field(
        ("early", "drawn", "drawn", "drawn"),
        min_length=1,
        description="how founders spend their share on the groups, in turn: drawn per group, or by a rule (row 6)",
    )
    training: TrainingSection = TrainingSection()


class GeneSection(Section):
    """Size of genes, as the share of the convolution parameters that the circuit holds (rows 6, 7)."""

    budget: Share = Field(0.2, description="no gene is ever larger than this share")
    initial_share: tuple[Share, Share] = Field((0.05, 0.2), description="band that founders' shares are drawn from")
    min_channels: int = Field(1, ge=1, le=1024, description="floor per group")


class TournamentSection(Section):
    """Selection (row 3)."""

    size: int = Field(3, ge=1, le=1000, description="contestants, drawn with replacement")
    elite: int = Field(1, ge=0, description="best individuals that pass unchanged")


class MutationSection(Section):
    """Rates per group and child (rows 9, 10)."""

    search_rate: Rate = Field(1.0, description="probability that a child is mutated at all, in search generations")
    rate: Rate = Field(0.5, description="the same in generations with lives")
    add: Rate = Field(0.10, description="probability that a group gains channels")
    drop: Rate = Field(0.05, description="probability that a group loses channels")
    swap: Rate = Field(0.05, description="probability that a group exchanges channels for others")
    move: Rate = Field(1.0, description="probability that a child moves budget from one group to another")
    fill: bool = Field(False, description="whether a child gains channels until its budget is spent")
    strength: Share = Field(0.25, description="largest share of a group's channels that one mutation touches, in lives")
    search_strength: Share = Field(0.5, description="the same in search generations")
    new_channel: Literal["host", "ancestor", "random"] = Field(
        "host",
        description="weights of an added channel (row 10): of a newborn host, those that it learned; a circuit has none, so "
        "random ones, or the ancestor's where lives are distilled. ancestor: the ancestor's, for circuits",
    )
    weight_noise: float = Field(0.0, ge=0.0, le=1.0, description="relative Gaussian noise on inherited weights (row 9)")


class CrossoverSection(Section):
    """Crossover (row 11): the paper mentions none."""

    exchange: Rate = Field(0.0, description="probability that a child takes channels of two parents")
    average_siblings: bool = Field(False, description="a parent passes on the mean of its litter's genes")


class ScoreSection(Section):
    """Score that selection maximises (rows 16, 17): decay**age * accuracy / cost**size_exponent + credit."""

    size_exponent: float = Field(0.02, ge=0.0, le=4.0, description="exponent of the cost; 1 in GRL")
    decay: float = Field(1.0, ge=0.0, le=1.0, description="factor on a survivor's score per generation; 0.6 in GRL")
    credit: float = Field(
        0.0, ge=0.0, le=1.0, description="share of a winner's score that its parents gain; 1/e in GRL"
    )


class RacingSection(Section):
    """Racing of lives, an extension: all children of a generation live short heats, and only the best live in full."""

    heats: tuple[Annotated[float, Field(ge=0.0, lt=1.0)], ...] = Field(
        (),
        description="lengths of the heats as shares of life.steps, rising; 0: children are judged as they are born; "
        "none: every child lives in full",
    )
    keep: float = Field(0.25, gt=0.0, lt=1.0, description="share of the lives that goes on after each heat")

    def steps(self, whole: int) -> tuple[int, ...]:
        """Optimiser steps of each heat, where a full life has `whole`."""
        return tuple(round(heat * whole) for heat in self.heats)


class EvolutionSection(Section):
    """The population and its generations (rows 1, 2)."""

    population: int = Field(8, ge=1, le=100_000)
    generations: int = Field(12, ge=1, le=100_000, description="generations with lives")
    search_generations: int = Field(
        0, ge=0, le=100_000, description="generations before them without lives: only the allocation is searched"
    )
    patience: int = Field(0, ge=0, description="stop after this many generations without a better gene; 0: never")
    litter: int = Field(1, ge=1, description="children per conception: same genotype and parents, different lives")
    max_failed: Share = Field(0.5, description="stop when more than this share of a generation fails")
    tournament: TournamentSection = TournamentSection()
    mutation: MutationSection = MutationSection()
    crossover: CrossoverSection = CrossoverSection()
    score: ScoreSection = ScoreSection()
    racing: RacingSection = RacingSection()


class LifeSection(Section):
    """One life: what a host learns, and what its gene keeps of it (rows 4, 5, 12, 13, 22)."""

    steps: int = Field(300, ge=0, le=10_000_000)
    n_way: int = Field(
        5, ge=2, description="k: classes of the survival environment, drawn from the train classes (row 4)"
    )
    task: Literal["individual", "shared"] = Field(
        "individual", description="own classes, or one draw a generation (row 5)"
    )
    host: Literal["newborn", "circuit"] = Field(
        "newborn",
        description="where the gene lives: in a whole newborn network (the paper), or alone, as the thin network of its own "
        "channels (an extension: everything that is learned is learned by what is inherited)",
    )
    distill: Rate = Field(
        0.0, description="share of the loss that asks for the ancestor's answers, softened (an extension; 0: none)"
    )
    temperature: float = Field(4.0, gt=0.0, le=100.0, description="by which the answers are softened")
    zero_block: Literal["trained", "masked"] = Field(
        "trained", description="whether the gene's channels may come to read from the rest while the host lives"
    )
    gene_update: Rate = Field(1.0, description="factor on the gene's weight updates; 0 freezes it (row 12)")
    inherit: Literal["weights", "mask", "shuffled"] = Field("weights", description="what passes on (row 13; controls)")
    batch_norm: Literal["reestimate", "inherit"] = Field("reestimate", description="statistics of the gene (row 22)")
    training: TrainingSection = TrainingSection()


class CriticSection(Section):
    """Fitness on the validation classes (rows 14, 15): the same tasks for all of a generation."""

    kind: Literal["ridge", "leave_one_out_ridge", "short_training", "nearest_class_mean"] = "ridge"
    n_way: int | None = Field(None, ge=2, description="classes per task; all validation classes if left out")
    tasks: int = Field(1, ge=1, le=1000)
    final_tasks: int = Field(4, ge=1, le=1000, description="tasks of the last comparison, which picks the learngene")
    tasks_change: bool = Field(True, description="new tasks every generation; otherwise the same for the whole run")
    fit_images: int = Field(20, ge=1, description="images a class to fit on")
    score_images: int = Field(80, ge=1, description="images a class to score on; disjoint from the others")
    steps: int = Field(120, ge=1, description="training steps of the short_training critic")
    ridge: float = Field(0.1, gt=0.0, le=1e6, description="regulariser, relative to the mean squared feature norm")
    depths: int | None = Field(
        None,
        ge=1,
        description="deepest groups whose features a ridge critic reads; all if left out. A gene that is judged as it was cut "
        "then gets no credit for what a bottleneck keeps from its last features",
    )
    spread_penalty: float = Field(0.0, ge=0.0, le=10.0, description="fitness = mean - penalty * std over tasks")


class FineTuningSection(TrainingSection):
    """How descendants are fine-tuned: the same recipe with smaller batches."""

    batch_size: int = Field(64, ge=2, le=65_536)


class FewShotSection(Section):
    """What descendants are judged by, on the novel classes, after everything is decided."""

    shots: tuple[Annotated[int, Field(ge=1)], ...] = Field((20,), min_length=1, description="training images a class")
    test_images: int = Field(100, ge=1, description="test images a class")
    seeds: int = Field(5, ge=2, le=1000)
    steps: int = Field(300, ge=1, description="fine-tuning steps, the same for every start")
    learning_rates: tuple[Annotated[float, Field(gt=0.0, le=10.0)], ...] = Field(
        (0.01, 0.03, 0.1), min_length=1, description="candidates; each start's is chosen on validation classes"
    )
    training: FineTuningSection = FineTuningSection()


class ComputeSection(Section):
    """Where it runs. Part of the run: results are reproducible for a given choice."""

    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    threads: int = Field(
        0, ge=0, le=1024, description="CPU threads of a worker; 0: all cores, shared out when a run begins"
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="auto: bfloat16 where the hardware has it, unless a short calibration finds better"
    )
    memory_format: Literal["auto", "contiguous", "channels_last"] = Field(
        "auto", description="of images and weights; auto: channels_last, unless a short calibration finds better"
    )
    pack: int = Field(
        1, ge=1, le=1024, description="lives that one worker trains at once as one network, for GPUs; 1: one by one"
    )
    packing: Literal["grouped", "vmap", "loop"] = Field(
        "grouped", description="by which means (gtl.packing); loop: one by one, the reference"
    )


class ClusterSection(Section):
    """How a population is spread over processes and machines. No part of the result: any choice gives the same genes."""

    workers: int = Field(0, ge=0, le=100_000, description="worker processes; 0: as many as there is room for")
    workers_per_gpu: int = Field(1, ge=1, le=64, description="worker processes that share one GPU")
    attempts: int = Field(3, ge=1, le=100, description="workers that an individual may cost before it counts as failed")
    deadline: float = Field(300.0, gt=0.0, le=1e7, description="least seconds that an evaluation is given")
    deadline_factor: float = Field(3.0, ge=1.0, le=1000.0, description="and at least this many times the median so far")
    first_deadline: float = Field(3600.0, gt=0.0, le=1e7, description="seconds given while no median is known")


class Config(Section):
    """A whole run."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$", description="names the folder under populations/")
    description: str = Field("", max_length=2000)
    seed: int = Field(0, ge=0, lt=2**63)
    data: DataSection
    model: ModelSection = ModelSection()
    founders: FoundersSection = FoundersSection()
    gene: GeneSection = GeneSection()
    evolution: EvolutionSection = EvolutionSection()
    life: LifeSection = LifeSection()
    critic: CriticSection = CriticSection()
    fewshot: FewShotSection = FewShotSection()
    transfer: TransferSection = TransferSection()
    compute: ComputeSection = ComputeSection()
    cluster: ClusterSection = ClusterSection()

    @model_validator(mode="after")
    def _possible(self) -> Config:
        problems = []
        evolution = self.evolution
        if evolution.tournament.elite >= evolution.population:
            problems.append(
                f"evolution.tournament.elite ({evolution.tournament.elite}) must be below "
                f"evolution.population ({evolution.population}), or nothing new is ever born"
            )
        if evolution.population < evolution.litter:
            problems.append(
                f"evolution.litter ({evolution.litter}) must not exceed evolution.population ({evolution.population})"
            )
        if evolution.crossover.average_siblings and evolution.litter < 2:
            problems.append("evolution.crossover.average_siblings needs evolution.litter of at least 2")
        if evolution.search_generations and self.founders.kind == "random":
            problems.append("evolution.search_generations needs founders.kind: ancestor; random founders know nothing")
        low, high = self.gene.initial_share
        if not low <= high <= self.gene.budget:
            problems.append(
                f"gene.initial_share ({low}, {high}) must rise and end within gene.budget ({self.gene.budget})"
            )
        if self.critic.depths is not None and self.critic.kind not in ("ridge", "leave_one_out_ridge"):
            problems.append(
                f"critic.depths ({self.critic.depths}) is what a ridge critic reads; leave it out for {self.critic.kind}"
            )
        problems += [*self._racing_problems(), *self._life_problems()]
        if self.founders.checkpoint is not None and self.founders.kind == "random":
            problems.append("founders.checkpoint needs founders.kind: ancestor")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _life_problems(self) -> list[str]:
        life, problems = self.life, []
        if life.distill and self.founders.kind == "random":
            problems.append("life.distill needs founders.kind: ancestor; random founders have no answers to give")
        if self.evolution.mutation.new_channel == "ancestor" and (
            life.host == "newborn" or self.founders.kind == "random"
        ):
            problems.append(
                "evolution.mutation.new_channel: ancestor needs founders.kind: ancestor and life.host: circuit; a newborn host "
                "has channels of its own"
            )
        if life.host == "circuit" and (life.gene_update != 1.0 or life.zero_block == "masked"):
            problems.append(
                "life.host: circuit has nothing but the gene: leave out life.gene_update and life.zero_block, or set "
                "life.host: newborn"
            )
        if self.compute.pack > 1 and (life.distill or life.host == "circuit" or life.training.optimiser == "muon"):
            problems.append(
                f"compute.pack ({self.compute.pack}) must be 1 with life.host: circuit, life.distill or "
                "life.training.optimiser: muon: such lives are trained one by one"
            )
        return problems

    def _racing_problems(self) -> list[str]:
        racing, whole = self.evolution.racing, self.life.steps
        if not racing.heats:
            return []
        problems = []
        if self.evolution.crossover.average_siblings:
            problems.append(
                "evolution.racing.heats does not go with evolution.crossover.average_siblings: siblings that are "
                "averaged must have lived equally long; leave one of the two off"
            )
        steps = (-1 if racing.heats[0] == 0.0 else 0, *racing.steps(whole), whole)
        if any(after <= before for before, after in pairwise(steps)):
            problems.append(
                f"evolution.racing.heats {racing.heats} of life.steps ({whole}) are lives of {steps[1:-1]} steps; they "
                f"must rise, from at least 1 (or a heat of 0) to less than {whole}: raise life.steps or change "
                "evolution.racing.heats"
            )
        return problems
