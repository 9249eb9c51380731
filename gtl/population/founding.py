"""Founding of a run: train or read the ancestor once, keep it in the run, rank its channels.

A training that is killed goes on from its last saved epoch and gives the same ancestor.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gtl.critic import Gene, criticise, draw_tasks
from gtl.distillation import HEAD
from gtl.errors import RunError
from gtl.evolution.mutation import Ranking
from gtl.learngene import founders
from gtl.learngene.founders import (
    ancestor_images,
    ancestor_part,
    ancestor_steps,
    ancestor_tensors,
    fit_head,
    kept_ancestor,
)
from gtl.learngene.oneshot import BY_IMAGES, BY_STATE, channel_scores
from gtl.life import World
from gtl.models import build
from gtl.population.evaluator import Evaluator
from gtl.population.run import read_record, write_record
from gtl.population.store import RunStore
from gtl.resuming import Saved
from gtl.seeds import derive
from gtl.surgery import GeneTensors, gather

RECORD = "ancestor.json"


@dataclass(frozen=True)
class Ancestor:
    """The run's ancestor: content hash of its tensors (None: random founders), cost, channel rankings.

    Attributes:
        images: training images it cost.
        reference: critic accuracy of a random and of the trained whole network, the lines of the paper's Fig. 4.
        teacher: content hash of what lives need of it: tensors with a head where they are distilled, and without one where
            only added channels come from it.
    """

    digest: str | None
    images: int
    rankings: Mapping[str, Ranking]
    reference: Mapping[str, float]
    teacher: str | None = None


def found(world: World, evaluator: Evaluator, store: RunStore, say: Callable[[str], None]) -> Ancestor:
    """The run's ancestor: read back if the run has it, otherwise made now, where the evaluator computes."""
    record = read_record(store.path / RECORD)
    if world.config.founders.kind == "random":
        if "reference" not in record:
            record = {"reference": evaluator.call(reference_lines, None)}
            _record(store, record)
        return Ancestor(None, 0, {}, record["reference"])
    if "gene" not in record:
        if world.config.founders.checkpoint is not None:  # a file of this machine, perhaps not of a worker's
            tensors, images = ancestor_tensors(world)
        else:
            tensors, images = _train(world, evaluator, store, say)
        head = {name: tensors.pop(name) for name in HEAD if name in tensors}
        reference = evaluator.call(reference_lines, tensors)
        record = {"gene": store.blobs.put(tensors), "images": images, "reference": reference}
        if world.config.life.distill > 0:
            if not head:
                say("ancestor: fitting a head for the train classes, which lives are distilled from")
                head, more = evaluator.call(fit_head, tensors)
                record["images"] = images + more
            record["teacher"] = store.blobs.put({**tensors, **head})
        elif world.config.evolution.mutation.new_channel == "ancestor":
            record["teacher"] = record["gene"]
        _record(store, record)
    tensors = store.blobs.get(record["gene"])
    rankings = {method: channel_scores(tensors, world.layout, method, world.config.seed) for method in BY_STATE}
    wanted = [method for method in BY_IMAGES if method in world.config.founders.channels]
    if not record.get("scores", {}).keys() >= set(wanted):
        record["scores"] = evaluator.call(image_scores, tensors, wanted)
        _record(store, record)
    for method in wanted:  # as they were found first: another machine would round otherwise
        rankings[method] = {group: np.asarray(worth) for group, worth in record["scores"][method].items()}
    return Ancestor(record["gene"], int(record["images"]), rankings, record["reference"], record.get("teacher"))


def image_scores(world: World, tensors: GeneTensors, methods: Sequence[str]) -> dict[str, dict[str, list[float]]]:
    """Channel scores that look at train images: method -> group -> worth of each channel, as JSON holds them exactly."""
    found = {}
    for method in methods:
        scores = channel_scores(tensors, world.layout, method, world.config.seed, world)
        found[method] = {group: worth.tolist() for group, worth in scores.items()}
    return found


def _train(world: World, evaluator: Evaluator, store: RunStore, say: Callable[[str], None]) -> tuple[GeneTensors, int]:
    """Train the ancestor part by part; what a part has reached is on the disk before the next begins."""
    steps = ancestor_steps(world.config, len(world.train.labels))
    if world.config.founders.reuse and (kept := evaluator.call(kept_ancestor)) is not None:
        say("ancestor: another run has trained the same one, which is used again (founders.reuse)")
        return kept, ancestor_images(world.config, len(world.train.labels))
    saved = _saved(store, steps, say)
    if saved is None:
        say(f"ancestor: {steps} steps of {world.config.founders.training.batch_size} images")
    began = time.perf_counter()
    while isinstance(part := evaluator.call(ancestor_part, saved, founders.SAVE_EVERY), Saved):
        saved, before = part, read_record(store.path / RECORD).get("progress")
        _record(store, {"step": saved.step, "progress": store.blobs.put(saved.tensors)})
        if before is not None:
            store.blobs.discard(before)  # or a long training would fill the disk
        say(f"ancestor: step {saved.step} of {steps}, {time.perf_counter() - began:.0f} s")
    return part


def _record(store: RunStore, record: dict[str, Any]) -> None:
    """Keep what is known of the ancestor, after the blobs that it names."""
    store.blobs.sync()
    write_record(store.path / RECORD, record)


def _saved(store: RunStore, steps: int, say: Callable[[str], None]) -> Saved | None:
    """Where an ancestor's training was when it was killed; None if it has not begun, or cannot be read."""
    record = read_record(store.path / RECORD)
    if "progress" not in record:
        return None
    try:
        saved = Saved(int(record["step"]), store.blobs.get(record["progress"]))
    except RunError as error:
        say(f"ancestor: its saved training cannot be used ({error}); training it again from the start")
        return None
    say(f"ancestor: going on from step {saved.step} of {steps}")
    return saved


def reference_lines(world: World, ancestor: GeneTensors | None) -> dict[str, float]:
    """Critic accuracy of whole networks: ``scratch`` (random weights) and, if there is an ancestor, ``pretrained``."""
    section, seed = world.config.critic, derive(world.config.seed, "critic", "final")
    tasks = draw_tasks(world.val, section, seed, section.final_tasks)
    full = world.layout.full()
    random = gather(build(world.host, derive(seed, "scratch")).state_dict(), world.layout, full)
    lines = {}
    for name, tensors in (("scratch", random), ("pretrained", ancestor)):
        if tensors is not None:
            scores = criticise(Gene(world.host, full, tensors), tasks, section, seed, world.compute)
            lines[name] = sum(scores) / len(scores)
    return lines
