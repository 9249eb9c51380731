"""What each technique brings: the same training steps and the same judging of a gene, once without it, in turns.

One process, one thread; whether freed memory is kept is settled once for a process, so that part has fresh ones, with one
thread and with as many as cores. A ratio above 1 says how much longer it takes without.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cache
from typing import Any
from unittest import mock

import torch
from figure import Figure, measured_apart, rounded
from speed_sides import WORKS, world_of
from torch.optim._muon import _zeropower_via_newtonschulz

from gtl import critic, muon, training
from gtl.critic import Gene, criticise, draw_tasks
from gtl.data import augment
from gtl.data.augment import Augmenter, Crops
from gtl.evolution.founding import allocation
from gtl.genotype import ChannelMask, Genotype
from gtl.life import World, norm_fitted
from gtl.machine import cores
from gtl.models import ConvNet, build
from gtl.planning.calibration import peak_memory
from gtl.surgery import gather
from gtl.training import train

STEPS = {"vgg11-quarter": 60, "vgg11": 8, "resnet12": 4, "trial": 5}
Without = Callable[[], AbstractContextManager[Any]]
Work = Callable[[World], None]


def measure(name: str, repetitions: int) -> Iterator[Figure]:
    """Time without each technique over time with all."""
    torch.set_num_threads(1)
    world = world_of(WORKS[name], threads=1)
    training_steps, judging = steps(world, STEPS[name]), judged(world)
    parts: dict[str, tuple[Work, Without, World]] = {
        "bfloat16": (training_steps, nullcontext, with_compute(world, autocast=None)),
        "channels last": (training_steps, nullcontext, with_compute(world, memory_format=torch.contiguous_format)),
        "fused optimiser": (training_steps, unfused, world),
        "Muon of our own": (steps(world, STEPS[name], "muon"), torchs_muon, world),
        "mirrored by index": (training_steps, mirrored_by_choice, world),
        "eager mode, by torch.compile": (training_steps, compiled, world),
        "norms in batches of 128": (judging, lambda: mock.patch.object(training, "NORM_BATCH", 512), world),
        "norms folded for critics": (judging, lambda: mock.patch.object(critic, "folded", lambda net: net), world),
        "judging in bfloat16": (judging, nullcontext, with_compute(world, autocast=None)),
    }
    for part, (work, without, other) in parts.items():
        with without():
            work(other)  # first calls make kernels, and compile
        work(world)
        ratios, seconds = [], []
        for _ in range(repetitions):
            with without():
                before = timed(work, other)
            after = timed(work, world)
            ratios.append(before / after)
            seconds.append([rounded(before), rounded(after)])
            print(f"{name}, without {part}: {before:.3f} s, with: {after:.3f} s", file=sys.stderr, flush=True)
        yield Figure(f"{name}: without {part}", ratios, "times as long", notes={"seconds without, with": seconds})
    for threads in sorted({1, cores()}):
        yield kept_memory(name, threads, repetitions)


def kept_memory(name: str, threads: int, repetitions: int) -> Figure:
    """Time of training steps where glibc gives freed memory back, over that where it keeps it."""
    pairs = []
    for _ in range(repetitions):
        # gtl leaves glibc alone where its users have wishes, and an empty one is none that glibc would follow
        given_back = measured_apart(__file__, name, threads, GLIBC_TUNABLES="")
        pairs.append([given_back, measured_apart(__file__, name, threads)])
        print(f"{name}, freed memory given back, kept, {threads} threads: {pairs[-1]}", file=sys.stderr, flush=True)
    notes = {
        "seconds without, with": [[rounded(one["seconds"]) for one in pair] for pair in pairs],
        "MB without, with": [[rounded(one["peak"] / 1e6) for one in pair] for pair in pairs],
    }
    ratios = [before["seconds"] / after["seconds"] for before, after in pairs]
    return Figure(f"{name}: without keeping freed memory, {threads} threads", ratios, "times as long", notes=notes)


def main() -> None:
    """Training steps in this process: their seconds, and the peak of memory in bytes."""
    name, threads = sys.argv[1], int(sys.argv[2])
    world = world_of(WORKS[name], threads)
    work = steps(world, STEPS[name])
    work(world)
    print(json.dumps({"seconds": timed(work, world), "peak": peak_memory()}))


def timed(work: Work, world: World) -> float:
    """Seconds."""
    began = time.perf_counter()
    work(world)
    return time.perf_counter() - began


def with_compute(world: World, **changes: Any) -> World:
    """Another way to compute the same."""
    return replace(world, compute=replace(world.compute, **changes))


def steps(world: World, count: int, optimiser: str = "sgd") -> Work:
    """Steps of a life."""
    network = build(world.host, 1)
    recipe = world.config.life.training.model_copy(update={"optimiser": optimiser})

    def work(world: World) -> None:
        train(network, world.everything, recipe, steps=count, seed=1, compute=world.compute)

    return work


def judged(world: World) -> Work:
    """Norms and criticism of a gene of a fifth of the parameters."""
    counts = allocation(world.layout, "early", 0.2)
    genotype = Genotype({g: ChannelMask(w, range(counts[g])) for g, w in world.layout.groups.items()})
    cut = gather(build(world.host, 1).state_dict(), world.layout, genotype)
    section = world.config.critic
    tasks = draw_tasks(world.val, section, 1, section.tasks)

    def work(world: World) -> None:
        gene = Gene(world.host, genotype, norm_fitted(cut, genotype, world, 1))
        criticise(gene, tasks, section, 1, world.compute)

    return work


def unfused() -> AbstractContextManager[Any]:
    """The optimiser as it comes."""
    sgd = torch.optim.SGD

    def plain(*args: Any, fused: bool, **options: Any) -> torch.optim.SGD:
        return sgd(*args, **options)

    return mock.patch.object(torch.optim, "SGD", plain)


def torchs_muon() -> AbstractContextManager[Any]:
    """Torch's, which iterates in bfloat16."""

    def iterated(matrix: torch.Tensor) -> torch.Tensor:
        return _zeropower_via_newtonschulz(matrix, muon.COEFFICIENTS, muon.TURNS, 1e-7).to(matrix.dtype)

    return mock.patch.object(muon, "orthogonal", iterated)


def mirrored_by_choice() -> AbstractContextManager[Any]:
    """Every image mirrored, and half of them chosen: as on a GPU."""

    def apply(self: Augmenter, rows: torch.Tensor, crops: Crops) -> torch.Tensor:
        batch = self._windows[rows, crops.top, crops.left].view(len(rows), self.size, self.size, 3)
        return torch.where(crops.mirrored[:, None, None, None], batch.flip(2), batch)

    return mock.patch.object(augment.Augmenter, "apply", apply)


@cache
def compiled_forward() -> Callable[[ConvNet, torch.Tensor], torch.Tensor]:
    """Compiled once, however often it is patched in."""
    result: Callable[[ConvNet, torch.Tensor], torch.Tensor] = torch.compile(ConvNet.forward)
    return result


def compiled() -> AbstractContextManager[Any]:
    """Every network by torch.compile; needs a C++ compiler."""
    return mock.patch.object(ConvNet, "forward", compiled_forward())


if __name__ == "__main__":
    main()
