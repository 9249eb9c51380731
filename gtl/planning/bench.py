"""How fast lives are on this machine, by every way that it offers to compute them, and how far that is from its peak."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from statistics import mean
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from gtl.config import ComputeSection, Config
from gtl.config_file import changed_config
from gtl.life import World
from gtl.machine import cores
from gtl.models import ArchSpec, build
from gtl.planning.calibration import Calibration, calibrate_apart
from gtl.training import Compute, cpu_threads, fast_bfloat16, pick_compute
from gtl.tuning import MemoryFormat, Precision

MATRIX = {"cpu": 2048, "cuda": 8192}  # rows of the square matrices that the peak is measured with
PEAK_SECONDS = 1.0


@dataclass(frozen=True)
class Way:
    """A way to compute lives, as the configuration names it.

    Attributes:
        precision: of forward passes.
        workers: processes side by side.
        threads: CPU threads of each.
        memory_format: of images and weights.
    """

    precision: Precision
    workers: int
    threads: int
    memory_format: MemoryFormat = "channels_last"

    def settings(self) -> str:
        """What to type for it."""
        settings = ("precision", self.precision), ("memory_format", self.memory_format), ("threads", self.threads)
        return " ".join([f"--workers {self.workers}", *(f"--set compute.{key}={value}" for key, value in settings)])


@dataclass(frozen=True)
class Pace:
    """What a way gives.

    Attributes:
        way: how it was computed.
        calibration: by one of its workers, while all of them were measuring.
        images_per_second: of training steps, all workers together.
        lives_per_hour: whole lives, with birth, extraction and criticism, all workers together.
        peak_share: of what a worker multiplies large matrices at, in the same precision; None for lives without steps.
    """

    way: Way
    calibration: Calibration
    images_per_second: float
    lives_per_hour: float
    peak_share: float | None

    def to_json(self) -> dict[str, Any]:
        """Plain form, without the calibration."""
        rest = {"images_per_second": self.images_per_second, "lives_per_hour": self.lives_per_hour}
        return {**asdict(self.way), **rest, "peak_share": self.peak_share}


def ways(config: Config) -> list[Way]:
    """The ways that this machine offers: precisions, and one worker with all cores or one worker a core.

    All in the configuration's memory format; where that is open, in the usual one.
    """
    compute = pick_compute(config.compute)
    memory_format: MemoryFormat = "contiguous" if config.compute.memory_format == "contiguous" else "channels_last"
    precisions: list[Precision] = ["float32"]
    if fast_bfloat16(compute.device):
        precisions.append("bfloat16")
    if compute.device.type == "cuda":
        per_gpu = config.cluster.workers_per_gpu
        counts = [count * torch.cuda.device_count() for count in sorted({1, per_gpu})]
        return [Way(precision, count, 1, memory_format) for precision in precisions for count in counts]
    population = config.evolution.population
    layouts = sorted({(1, cores()), (min(cores(), population), 1)})
    return [Way(precision, *layout, memory_format) for precision in precisions for layout in layouts]


def bench(world: World, say: Callable[[str], None] = lambda text: None) -> list[Pace]:
    """Measure every way, each in processes of its own, all workers of a way at once. The fastest lives come first."""
    found = []
    for way in ways(world.config):
        say(f"{way.precision}, {way.workers} x {way.threads} threads ...")
        chosen = {"precision": way.precision, "threads": way.threads, "memory_format": way.memory_format}
        settled = changed_config(world.config, compute=chosen, founders={"threads": way.threads})
        with ThreadPoolExecutor(way.workers) as pool:
            calls = [pool.submit(calibrate_apart, settled, way.threads) for _ in range(way.workers)]
            found.append(pace(way, world, [call.result() for call in calls], peak_flops_with(settled.compute)))
    return sorted(undisturbed_ancestor(found), key=lambda pace: -pace.lives_per_hour)


def undisturbed_ancestor(paces: Sequence[Pace]) -> list[Pace]:
    """The same, with the ancestor's time as the way with the fewest workers found it: in a run, too, it has all cores."""
    alone = min(paces, key=lambda pace: pace.way.workers).calibration
    once, step = alone.ancestor_once, alone.ancestor_step
    return [
        replace(pace, calibration=replace(pace.calibration, ancestor_once=once, ancestor_step=step)) for pace in paces
    ]


def pace(way: Way, world: World, workers: Sequence[Calibration], peak: float) -> Pace:
    """From what all workers of a way measured at the same time."""
    config = world.config
    batch = min(config.life.training.batch_size, len(world.train.labels))
    step = mean(each.life_step for each in workers)
    once = mean(each.cut + each.life_once + config.critic.tasks * each.criticism for each in workers)
    life = once + config.life.steps * step
    rate = way.workers * batch / step if step else 0.0
    share = step_flops(world, batch) / step / peak if step else None
    return Pace(way, workers[0], rate, 3600 * way.workers / life, share)


def step_flops(world: World, batch: int) -> int:
    """Floating-point operations of one training step of a host, forward and backward, of its convolutions and head."""
    spec = ArchSpec(world.host.arch, world.host.widths, world.config.life.n_way)
    with torch.device("meta"):
        network = build(spec)
        images = torch.empty(batch, 3, world.train.image_size, world.train.image_size)
    counter = FlopCounterMode(display=False)
    with counter:
        network(images).sum().backward()
    return int(counter.get_total_flops())


def peak_flops_with(section: ComputeSection) -> float:
    """`peak_flops` of a section's device, precision and threads; this process keeps its own number of threads."""
    with cpu_threads(section.threads):
        return peak_flops(pick_compute(section))


@torch.no_grad()
def peak_flops(compute: Compute) -> float:
    """Operations a second of a large matrix product in this precision: what the device can do at best."""
    size = MATRIX[compute.device.type]
    left = torch.randn(size, size, device=compute.device, dtype=compute.autocast or torch.float32)
    best, began = float("inf"), time.perf_counter()
    while time.perf_counter() - began < PEAK_SECONDS:
        start = time.perf_counter()
        left @ left
        if compute.device.type == "cuda":
            torch.cuda.synchronize(compute.device)
        best = min(best, time.perf_counter() - start)
    return 2.0 * size**3 / best
