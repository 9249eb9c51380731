"""What a learngene is compared with: every start that costs as many training images, or fewer, and says so.

Each opponent is a function of a `Setting` that gives one or several `Entrant`s. References are trained with the founders'
recipe on as many images as the learngene cost, lives with the configuration's own recipe; both are kept in the cache
folder under a hash of all they depend on. Nothing here sees a novel class.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from gtl.comparison import PRETRAINED, PRETRAINED_BY_SGD
from gtl.config import TrainingSection
from gtl.config_file import changed_config
from gtl.errors import DataError, EvolutionError
from gtl.fewshot import SCRATCH
from gtl.genotype import ChannelMask, Genotype
from gtl.individual import Job, ParentGene
from gtl.learngene.baselines import pretrained_tensors
from gtl.learngene.founders import (
    LIFE_RATE,
    RATE,
    ancestor_images,
    ancestor_tensors,
    check_finite,
    kept_ancestor,
    training_steps,
)
from gtl.learngene.kept import find_tensors, keep_tensors, kept_tensors
from gtl.learngene.oneshot import OneShot, layer_activity
from gtl.learngene.setting import Entrant, Setting, cost
from gtl.learngene.starts import Initialisation, gene_start, scratch_start
from gtl.life import World, evaluate
from gtl.models import ArchSpec, ConvNet, build
from gtl.resuming import train_resumable
from gtl.seeds import derive
from gtl.surgery import GeneTensors, gather
from gtl.transfer.inhernet_start import CENTRED, sized_inhernets
from gtl.transfer.opponents import COMPACT
from gtl.transfer.tuned_opponents import TUNED_OPPONENTS


def scratch(setting: Setting) -> list[Entrant]:
    """Nothing inherited."""
    return [Entrant(SCRATCH, scratch_start(setting.world.host), 0.0, 0)]


def pretrained(setting: Setting) -> list[Entrant]:
    """Everything inherited, everything fine-tuned: full transfer."""
    return [Entrant(PRETRAINED, setting.whole, 1.0, setting.images)]


def pretrained_by_sgd(setting: Setting) -> list[Entrant]:
    """Full transfer of a reference that learned by SGD: whole networks may hand on more of what SGD taught them.

    None where the founders' recipe is SGD: it would be `pretrained`.
    """
    world = setting.world
    recipe = world.config.founders.training
    if recipe.optimiser == "sgd":
        return []
    by_sgd = recipe.model_copy(update={"optimiser": "sgd", "momentum": TrainingSection().momentum})
    config = changed_config(world.config, founders={"training": by_sgd.model_dump()})
    tensors = pretrained_tensors(replace(world, config=config), setting.images, setting.say)
    start = gene_start(world.host, world.layout.full(), tensors)
    return [Entrant(PRETRAINED_BY_SGD, start, 1.0, setting.images, {"optimiser": "sgd"})]


def linear_probe(setting: Setting) -> list[Entrant]:
    """Everything inherited and frozen; only the head learns."""
    return [Entrant("linear probe", setting.whole.probe, 1.0, setting.images)]


def one_shot(setting: Setting) -> list[Entrant]:
    """The one-shot gene of equal size that the run's critic, at all depths, finds best on validation classes."""
    return [_cut("one-shot", setting.one_shots[0], setting)]


def all_one_shots(setting: Setting) -> list[Entrant]:
    """One-shot genes of equal size by every score and every allocation."""
    return [_cut(f"one-shot {cut.method} {cut.allocation}", cut, setting) for cut in setting.one_shots]


def weight_selection(setting: Setting) -> list[Entrant]:
    """Evenly spaced channels of the reference, the same share of every layer (Xu et al. 2024, arXiv 2311.18823)."""
    (cut,) = (c for c in setting.one_shots if (c.method, c.allocation) == ("uniform", "uniform"))
    return [_cut("weight selection", cut, setting)]


def _cut(name: str, cut: OneShot, setting: Setting) -> Entrant:
    about = {"method": cut.method, "allocation": cut.allocation, "fitness": cut.fitness}
    return setting.gene(name, cut.genotype, cut.tensors, setting.images, **about)


def last_layers(setting: Setting) -> list[Entrant]:
    """The last whole layers of the reference that fit into the learngene's size, at least one, on random early layers.

    As in Vanilla-LG and Auto-LG (Wang et al. 2023, arXiv 2305.02279), where few integral layers are handed on.
    """
    names = list(reversed(setting.world.layout.convolutions))
    return [_layers("last layers", names, setting)]


def heuristic_layers(setting: Setting) -> list[Entrant]:
    """Whole layers of the reference, the least active first, as many as fit; at least one (Heur-LG, arXiv 2106.06788).

    Heur-LG keeps the layers that learning hardly changes, by the share of weights whose gradient passes a threshold. How
    the layers are read off those curves is not in the published code, so ours is stated in `layer_activity`.
    """
    activity = layer_activity(setting.reference, setting.world)
    return [_layers("Heur-LG", sorted(activity, key=activity.__getitem__), setting)]


def _layers(name: str, ranked: Sequence[str], setting: Setting) -> Entrant:
    """Whole layers in this order, until the next would exceed the learngene's size; the first one in any case."""
    layout = setting.world.layout
    sizes = dict(zip(layout.convolutions, layout.kernel_sizes(layout.groups), strict=True))
    budget, taken = layout.circuit_parameters(setting.learngene.genotype.counts), [ranked[0]]
    for layer in ranked[1:]:
        if sum(sizes[each] for each in [*taken, layer]) > budget:
            break
        taken.append(layer)
    tensors = {name: setting.reference[name] for layer in taken for name in _tensors_of_layer(layer, setting)}
    share = sum(sizes[each] for each in taken) / layout.parameters
    start = Initialisation(setting.world.host, tensors)
    return Entrant(name, start, share, setting.images, {"layers": [layer.removesuffix(".weight") for layer in taken]})


def _tensors_of_layer(convolution: str, setting: Setting) -> list[str]:
    """A convolution and its norm, which follows it."""
    names = setting.world.layout.inherited
    convolutions = set(setting.world.layout.convolutions)
    found = [convolution]
    for name in names[names.index(convolution) + 1 :]:
        if name in convolutions:
            break
        found.append(name)
    return found


def random_weights(setting: Setting) -> list[Entrant]:
    """The learngene's channels with random weights: is it the shape alone?"""
    genotype, world = setting.learngene.genotype, setting.world
    fresh = build(world.host, derive(world.config.seed, "random weights")).state_dict()
    return [setting.gene("trained mask, random weights", genotype, gather(fresh, world.layout, genotype), 0)]


def random_mask(setting: Setting) -> list[Entrant]:
    """As many channels per group as the learngene has, drawn at random from the trained reference."""
    (cut,) = (c for c in setting.one_shots if (c.method, c.allocation) == ("random", "gene"))
    return [setting.gene("random mask, trained weights", cut.genotype, cut.tensors, setting.images)]


def thin(setting: Setting) -> list[Entrant]:
    """A network of the learngene's widths, trained alone from scratch on as many images, and handed on as a circuit.

    Where genes live as circuits, it learns by the recipe of their lives: what is left between the two is evolution.
    """
    world, counts = setting.world, setting.learngene.genotype.counts
    genotype = Genotype({g: ChannelMask(width, range(counts[g])) for g, width in world.layout.groups.items()})
    founders, life = world.config.founders, world.config.life
    circuit = life.host == "circuit"
    recipe, rate = (life.training, LIFE_RATE) if circuit else (founders.training, RATE)
    steps, seed = training_steps(world, recipe, setting.images), derive(world.config.seed, "thin network")

    def make() -> GeneTensors:
        setting.say(f"thin network: training it alone on {setting.images:,} images")
        spec = ArchSpec(world.host.arch, tuple(counts.items()), world.train.n_classes)
        network = build(spec, derive(seed, "weights"))
        state = _learned(world, network, recipe, steps, derive(seed, "training"), "the thin network", rate)
        return {name: state[name] for name in world.layout.inherited}

    key = {"kind": "thin", "counts": list(counts.values()), "steps": steps, "recipe": recipe.model_dump(mode="json")}
    tensors = setting.fitted(kept_tensors(world, key, make), genotype)
    learned = "life.training" if circuit else "founders.training"
    return [setting.gene("thin network", genotype, tensors, setting.images, recipe=learned)]


def _learned(
    world: World, network: ConvNet, recipe: TrainingSection, steps: int, seed: int, what: str, rate: str
) -> dict[str, torch.Tensor]:
    """The state of a network that was trained on all train classes; killed, that goes on where it was.

    Args:
        what, rate: it and the key of its learning rate, for the error.

    Raises:
        EvolutionError: it diverged.
    """
    images, key = world.images_for(recipe), world.pixels
    result = train_resumable(network, images, recipe, key=key, steps=steps, seed=seed, compute=world.compute)
    check_finite(result, what, rate, recipe)
    return network.to("cpu").state_dict()


def knowledge_evolution(setting: Setting) -> list[Entrant]:
    """Knowledge Evolution (Taha et al. 2021): one lineage of rebirths of the learngene's channels in newborn networks.

    No selection and no mutation, from the run's own ancestor: once as deep as the learngene's line (equal depth), and
    once until as many images are used up as the learngene cost (equal images).
    """
    return _lineages("knowledge evolution", REBIRTH, setting)


def lineage(setting: Setting) -> list[Entrant]:
    """The run's own lives, but one after the other in a single line: what selection and siblings add to them.

    None where the run's lives are those of Knowledge Evolution.
    """
    life = setting.world.config.life
    own = {name: getattr(life, name) for name in REBIRTH}
    return [] if own == REBIRTH else _lineages("single line", own, setting)


REBIRTH: dict[str, Any] = {"host": "newborn", "distill": 0.0}  # what a life of Knowledge Evolution is


def _lineages(name: str, life: Mapping[str, Any], setting: Setting) -> list[Entrant]:
    config = setting.world.config
    images_a_life = config.life.steps * min(config.life.training.batch_size, len(setting.world.train.labels))
    found = ancestor_images(config, len(setting.world.train.labels))
    lives = max(0, setting.images - found) // max(1, images_a_life)
    depth = max(0, int(setting.learngene.provenance["generations"]) - config.evolution.search_generations)
    world = replace(setting.world, config=changed_config(config, life=life))
    entrants = []
    for length, count in (("equal depth", depth), ("equal images", lives)):
        tensors = _lineage(replace(setting, world=world), name, count)
        total, genotype = found + count * images_a_life, setting.learngene.genotype
        entrants.append(setting.gene(f"{name}, {length}", genotype, tensors, total, lives=count))
    return entrants


def _lineage(setting: Setting, name: str, lives: int) -> GeneTensors:
    """The learngene's channels of the run's ancestor after so many lives in a row; each is kept on its own."""
    world, genotype = setting.world, setting.learngene.genotype
    config = world.config
    seed = derive(config.seed, "knowledge evolution")
    key = {
        "kind": "lineage",
        "founders": config.founders.model_dump(mode="json"),
        "life": config.life.model_dump(mode="json"),
        "noise": config.evolution.mutation.weight_noise,
        "genotype": genotype.to_json(),
    }
    done, tensors = lives, None
    while done and (tensors := find_tensors(world, {**key, "lives": done})) is None:
        done -= 1
    if tensors is not None and done == lives:
        return tensors
    whole = _ancestor(setting, name)
    if tensors is None:
        tensors = setting.fitted(gather(whole, world.layout, genotype), genotype)
    teachers = [whole] if config.life.distill else []
    for number in range(done + 1, lives + 1):
        setting.say(f"{name}: life {number}")
        job = Job(f"life-{number}", number, genotype, (ParentGene("before", "", genotype),), lives=True,
                  seed=derive(seed, number), critic_seed=seed, critic_tasks=1, task_seed=derive(seed, "task", number),
                  teacher="" if teachers else None)  # fmt: skip
        found, evaluation = evaluate(job, [tensors, *teachers], world)
        if found is None:
            raise EvolutionError(f"{name}: life {number} failed: {evaluation.reason}")
        tensors = keep_tensors(world, {**key, "lives": number}, found)
    return tensors


def _ancestor(setting: Setting, name: str) -> GeneTensors:
    """The run's own, trained again if it was not kept; a comparison trains nothing twice, whatever the run was told."""
    world = replace(setting.world, config=changed_config(setting.world.config, founders={"reuse": True}))
    found = kept_ancestor(world)
    if found is None:
        setting.say(f"{name}: training the run's ancestor again")
        found, _ = ancestor_tensors(world)
    return found


def inhernet(setting: Setting) -> list[Entrant]:
    """Low-rank inheritors of the reference with as many convolution parameters as the learngene (arXiv 2602.09509).

    None where the learngene is smaller than rank 1 in every layer.
    """
    layout = setting.world.layout
    found = sized_inhernets(
        setting.world, setting.reference, layout.circuit_parameters(setting.learngene.genotype.counts)
    )
    if not found:
        setting.say("InherNet: none is as small as the learngene; left out")
    return [Entrant(x.name, x.start, x.parameters / layout.parameters, setting.images, x.about) for x in found]


def inhernet_lived(setting: Setting) -> list[Entrant]:
    """Low-rank inheritors of the run's ancestor, centred, that lived on all train classes for the images that are left.

    One life by the recipe of lives, its labels alone: what a gene does with its channels, done with directions instead.
    None where the learngene is smaller than rank 1 in every layer.
    """
    world, name = setting.world, "compact InherAct, lived"
    recipe, layout = world.config.life.training, world.layout
    spent = ancestor_images(world.config, len(world.train.labels))
    steps, seed = training_steps(world, recipe, setting.images - spent), derive(world.config.seed, "inhernet life")
    size = layout.circuit_parameters(setting.learngene.genotype.counts)
    ancestor = {n: t for n, t in _ancestor(setting, name).items() if n in layout.inherited}
    found = sized_inhernets(world, ancestor, size, [CENTRED])
    if not found:
        setting.say(f"{name}: none is as small as the learngene; left out")
        return []
    (born,) = found

    def make() -> GeneTensors:
        setting.say(f"{name}: {steps:,} steps on all train classes")
        network = born.start(world.train.n_classes, derive(seed, "newborn"))
        state = _learned(world, network, recipe, steps, derive(seed, "training"), "the InherNet's life", LIFE_RATE)
        return {n: state[n] for n in born.start.tensors}

    key = {"kind": "inhernet life", "born": born.start.digest, "steps": steps, "recipe": recipe.model_dump(mode="json")}
    start = born.start.after(kept_tensors(world, key, make))
    about = {**born.about, "steps": steps}
    return [Entrant(name, start, born.parameters / layout.parameters, setting.images, about)]


def evolved(setting: Setting) -> list[Entrant]:
    """The learngene itself."""
    gene = setting.learngene
    return [setting.gene("learngene", gene.genotype, dict(gene.tensors), cost(gene))]


OPPONENTS: dict[str, Callable[[Setting], list[Entrant]]] = {
    SCRATCH: scratch,
    "pretrained": pretrained,
    "pretrained-sgd": pretrained_by_sgd,
    "linear-probe": linear_probe,
    "one-shot": one_shot,
    "one-shots": all_one_shots,
    "weight-selection": weight_selection,
    "heur-lg": heuristic_layers,
    "last-layers": last_layers,
    "random-weights": random_weights,
    "random-mask": random_mask,
    "thin": thin,
    "knowledge-evolution": knowledge_evolution,
    "lineage": lineage,
    "inhernet": inhernet,
    "inhernet-lived": inhernet_lived,
    "learngene": evolved,
    **COMPACT,
    **TUNED_OPPONENTS,
}
DEFAULTS = tuple(
    name for name in OPPONENTS if name not in {*COMPACT, *TUNED_OPPONENTS, "inhernet", "inhernet-lived"}
)  # descendants of one size


def check_names(names: Sequence[str]) -> None:
    """Raise DataError unless there are opponents of all these names."""
    unknown = [name for name in names if name not in OPPONENTS]
    if unknown:
        raise DataError(f"unknown starts {unknown}; known are {', '.join(OPPONENTS)}")


def entrants(setting: Setting, names: Sequence[str]) -> list[Entrant]:
    """The named opponents; scratch, which gains are measured against, is always among them.

    Raises:
        DataError: an unknown name, or opponents that need to know what the learngene cost, and nobody does.
    """
    check_names(names)
    wanted = [SCRATCH, *(name for name in OPPONENTS if name in names and name != SCRATCH)]
    return [entrant for name in wanted for entrant in OPPONENTS[name](setting)]
