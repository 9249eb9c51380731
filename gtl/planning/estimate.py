"""From a plan and a calibration to time, memory and disk: how long a run takes, and whether it fits."""

from __future__ import annotations

import heapq
import math
import os
import shutil
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from gtl.errors import StorageError
from gtl.evolution.founding import allocation
from gtl.layout import ChannelLayout
from gtl.learngene.founders import SAVE_EVERY
from gtl.life import World
from gtl.machine import available_memory
from gtl.models import ArchSpec, build
from gtl.planning.calibration import Calibration
from gtl.planning.jobs import Plan, Round
from gtl.population.store import refuse_used

LOW, HIGH = 0.8, 1.3  # of the estimated time: other users of the machine, and what a short measurement cannot see
GROWTH = 1.25  # of memory: a whole run meets more shapes than a trial (the demo on one thread: 1.22 GB, 0.98 tried)
GPU_CONTEXT = 600 << 20  # bytes of a GPU that a process holds before it computes
HEADER_BYTES = 110  # of a gene file, per tensor
REPORT_BYTES = 2 << 20  # pictures, configuration, run records


@dataclass(frozen=True)
class Duration:
    """Seconds that a run takes, by part: ``start``, ``ancestor``, ``founding``, ``search``, ``lives``, ``final``."""

    parts: dict[str, float]

    @property
    def seconds(self) -> float:
        """All parts together."""
        return sum(self.parts.values())

    @property
    def low(self) -> float:
        """The shortest that is likely."""
        return LOW * self.seconds

    @property
    def high(self) -> float:
        """The longest that is likely."""
        return HIGH * self.seconds

    def to_json(self) -> dict[str, Any]:
        """Plain form."""
        return {"seconds": self.seconds, "low": self.low, "high": self.high, "parts": self.parts}


@dataclass(frozen=True)
class Memory:
    """Whether the workers fit into this machine. All numbers are bytes; available is 0 where the system does not tell.

    Attributes:
        worker: one worker at its highest, the shared images left out.
        shared: images, held once.
        needed: by all workers, the images, and the process that leads them.
        available: of this machine's memory.
        gpu_worker: one worker's share of a GPU; 0 on the CPU.
        gpu_available: of one GPU.
        room: workers that fit; None where that is not known.
    """

    workers: int
    worker: int
    shared: int
    needed: int
    available: int
    gpu_worker: int
    gpu_available: int
    room: int | None

    @property
    def fits(self) -> bool:
        """Whether all workers fit, as far as is known."""
        return self.room is None or self.workers <= self.room

    def to_json(self) -> dict[str, Any]:
        """Plain form."""
        return {**asdict(self), "fits": self.fits}


@dataclass(frozen=True)
class Disk:
    """What a run's folder comes to hold at its fullest, in bytes.

    Attributes:
        gene: one gene of the budget.
        genes: all genes that are kept at once.
        ancestor: the ancestor's tensors.
        saved: its training, saved so that a kill loses little.
        records: states, manifests, journals.
        free: of the folder's file system.
    """

    gene: int
    genes: int
    ancestor: int
    saved: int
    records: int
    free: int

    @property
    def needed(self) -> int:
        """Everything, at the fullest moment; the saved training is gone before most genes and records come."""
        return self.ancestor + max(self.saved, self.genes + self.records) + REPORT_BYTES

    @property
    def fits(self) -> bool:
        """Whether there is room."""
        return self.needed <= self.free

    def to_json(self) -> dict[str, Any]:
        """Plain form."""
        return {**asdict(self), "needed": self.needed, "fits": self.fits}


def duration(plan: Plan, world: World, found: Calibration) -> Duration:
    """How long the run takes. Every generation waits for its last worker."""

    @cache
    def seconds(each: Round) -> float:
        criticism = each.tasks * found.criticism
        others = [(each.cuts, found.cut + criticism), (each.judged, criticism)]  # beside the first lives
        spent = 0.0
        for lives, steps in each.race or ((0, 0),):
            life = found.life_once + found.life_step * steps
            spent += makespan([(lives, found.cut + life + criticism), *others], plan.workers)
            others = []
        return each.times * spent

    parts = {
        "start": found.start,
        "ancestor": found.ancestor_once
        + found.ancestor_step * plan.ancestor_steps
        + found.reference * plan.references * world.config.critic.final_tasks,
    }
    for each in plan.rounds:
        parts[each.phase] = parts.get(each.phase, 0.0) + seconds(each)
    return Duration(parts)


def makespan(jobs: list[tuple[int, float]], workers: int) -> float:
    """Seconds until all are done, where every worker takes the next job when it is free.

    Args:
        jobs: how many, and the seconds of each, in the order in which they are handed out.
    """
    free = [0.0] * min(workers, max(1, sum(count for count, _ in jobs)))  # a heap of when each worker is free
    last = 0.0  # when the last of them is
    for count, seconds in jobs:
        left = count
        while left:
            if left >= len(free) and last - free[0] <= seconds:  # then all take one in turn, wave after wave
                waves, left = divmod(left, len(free))
                free = [at + waves * seconds for at in free]
                last = max(free)
            else:
                last = max(last, free[0] + seconds)
                heapq.heapreplace(free, free[0] + seconds)
                left -= 1
    return last


def memory(found: Calibration, workers: int) -> Memory:
    """Whether so many workers fit into this machine's memory, and its GPUs'."""
    peaks = found.peaks
    worker = round(GROWTH * max(peaks.worker, peaks.ancestor)) - peaks.data
    available = available_memory()
    leading = peaks.loaded - peaks.data if workers > 1 else 0  # one worker alone leads itself
    rooms = []
    if available:
        rooms.append(max(0, available - peaks.data - leading) // max(1, worker))
    gpu_worker = peaks.gpu + GPU_CONTEXT if peaks.gpu else 0
    if gpu_worker and peaks.gpu_free:
        rooms.append(torch.cuda.device_count() * (peaks.gpu_free // gpu_worker))
    return Memory(
        workers=workers,
        worker=worker,
        shared=peaks.data,
        needed=workers * worker + peaks.data + leading,
        available=available,
        gpu_worker=gpu_worker,
        gpu_available=peaks.gpu_free,
        room=min(rooms) if rooms else None,
    )


def disk(plan: Plan, world: World, folder: Path, ancestor_seconds: float = 0.0) -> Disk:
    """What the run writes into `folder`.

    Args:
        ancestor_seconds: of the ancestor's training: how often it is saved.
    """
    layout, gene = world.layout, world.config.gene
    counts = allocation(layout, "uniform", gene.budget, gene.min_channels)
    one = gene_bytes(layout, counts)
    spec = ArchSpec(world.host.arch, world.host.widths, world.train.n_classes)
    with torch.device("meta"):
        network = build(spec)
    values = sum(t.numel() for t in network.state_dict().values()) + sum(p.numel() for p in network.parameters())
    # every save stays until the first generation is committed
    saves = min(2, math.ceil(world.config.founders.epochs) - 1, int(ancestor_seconds // SAVE_EVERY))  # old ones go
    whole = gene_bytes(layout, layout.groups)
    return Disk(
        gene=one,
        genes=plan.genes * one,
        ancestor=whole if world.config.founders.kind == "ancestor" else 0,
        saved=saves * 4 * values if plan.ancestor_steps else 0,
        records=plan.record_bytes,
        free=shutil.disk_usage(existing(folder)).free,
    )


def gene_bytes(layout: ChannelLayout, counts: Any) -> int:
    """Bytes of a gene's file: float32 tensors with so many channels per group."""
    total = 0
    for name in layout.inherited:
        shape = list(layout.shapes[name])
        for axis, (group, stride) in layout.axes[name].items():
            shape[axis] = counts[group] * stride
        total += 4 * math.prod(shape) + HEADER_BYTES
    return total


def check_place(folder: Path) -> None:
    """Refuse a place for a run that its start would refuse, without writing there.

    Raises:
        RunError: a file, or a folder that is not empty.
        StorageError: a folder that may not be written to.
    """
    refuse_used(folder)
    place = existing(folder)
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise StorageError(f"cannot write {folder}: {place} is no folder that you may write to; choose another place")


def existing(folder: Path) -> Path:
    """The nearest of a path and its parents that is there."""
    path = folder.absolute()
    return next(each for each in (path, *path.parents) if each.exists())
