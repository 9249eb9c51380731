"""Which precision and memory format a run computes in, where its configuration leaves that open: the fastest, as timed.

Real training steps of the run's own hosts are timed in every way that is left open. The choice is written into the
run's configuration, so a run never changes it; a machine remembers what it timed, so that its next run chooses the same.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from gtl.config import ComputeSection, Config, TrainingSection
from gtl.data.augment import Augmenter
from gtl.data.batches import Batches, Environment
from gtl.data.cache import read_cached, write_cached
from gtl.descent import Descent
from gtl.errors import EvolutionError
from gtl.life import World
from gtl.machine import cpu_model, run_apart
from gtl.models import ArchSpec, build
from gtl.population.run import CALIBRATION, write_record
from gtl.population.workforce import Workforce
from gtl.training import Compute, cpu_threads, fast_bfloat16, learn, pick_compute, place

FORMAT = 1  # of what is timed and how; another one makes every machine time again
WORTHWHILE = 200_000  # images that a run's lives train on; with fewer, a faster way would not pay back the timing
GAIN = 1.08  # the usual way is left only for one this many times as fast: smaller differences are noise
SLOWER = 1.25  # times the fastest: such a way is not timed any further
SECONDS = 1.5  # of timing, unless ROUNDS take longer
ROUNDS = 2  # timings that every way gets at least
TURN = 0.02  # seconds of steps that are timed at once
MAX_TURN = 50  # steps in one turn
IMAGES = 4  # batches of made-up images that steps are drawn from
STILL = 1e-9  # a learning rate at which nothing can diverge

Precision = Literal["float32", "bfloat16"]
MemoryFormat = Literal["contiguous", "channels_last"]


@dataclass(frozen=True)
class Choice:
    """A way to compute, in the words of the configuration's compute section."""

    precision: Precision
    memory_format: MemoryFormat

    def __str__(self) -> str:
        return f"{self.precision}, {self.memory_format}"


@dataclass(frozen=True)
class Work:
    """Everything that the speed of a host's training step depends on, beside the way to compute it.

    Attributes:
        arch, widths, n_way: the host.
        image_size: pixels.
        batch: images of a step.
        crop_padding, mirror: its augmentation.
        device: as torch names it.
        hardware: model of the device, and what torch makes of it.
        threads: CPU threads.
        torch: version.
    """

    arch: str
    widths: tuple[tuple[str, int], ...]
    n_way: int
    image_size: int
    batch: int
    crop_padding: int
    mirror: bool
    device: str
    hardware: str
    threads: int
    torch: str

    @classmethod
    def of(cls, world: World) -> Work:
        """A life's, on this machine."""
        life, device = world.config.life, pick_compute(world.config.compute).device
        on_gpu = device.type == "cuda"
        cpu = f"{cpu_model()} {torch.backends.cpu.get_cpu_capability()}"
        return cls(
            arch=world.host.arch,
            widths=tuple(world.host.widths),
            n_way=life.n_way,
            image_size=world.train.image_size,
            batch=life.training.batch_size,
            crop_padding=life.training.crop_padding,
            mirror=world.train.mirror,
            device=str(device),
            hardware=torch.cuda.get_device_name(device) if on_gpu else cpu,
            threads=world.config.compute.threads or torch.get_num_threads(),
            torch=torch.__version__,
        )


@dataclass(frozen=True)
class Tuning:
    """What was timed, and what follows.

    Attributes:
        seconds: of one step, by way; the usual way first.
        batch: images of a step.
        key: of this work and these ways, in this machine's cache.
        cached: whether the times are those of an earlier run.
    """

    seconds: Mapping[Choice, float]
    batch: int
    key: str
    cached: bool = False

    @property
    def usual(self) -> Choice:
        """What ``auto`` means where nothing was timed."""
        return next(iter(self.seconds))

    @property
    def chosen(self) -> Choice:
        """The fastest way, if it is GAIN times as fast as the usual one; else the usual one."""
        fastest = min(self.seconds, key=lambda way: self.seconds[way])
        return fastest if self.seconds[self.usual] >= GAIN * self.seconds[fastest] else self.usual

    @property
    def rates(self) -> dict[Choice, float]:
        """Images a second of training steps, by way."""
        return {way: self.batch / seconds for way, seconds in self.seconds.items()}

    def to_json(self) -> dict[str, Any]:
        """Plain form."""
        candidates = [{**asdict(way), "images_per_second": rate} for way, rate in self.rates.items()]
        return {"chosen": asdict(self.chosen), "candidates": candidates, "key": self.key, "cached": self.cached}

    def __str__(self) -> str:
        fastest = sorted(self.rates.items(), key=lambda item: -item[1])
        return f"computes in {self.chosen}; images/s: " + "; ".join(f"{way} {rate:,.0f}" for way, rate in fastest)


def tune(
    world: World, force: Workforce, say: Callable[[str], None] = lambda text: None, *, small_too: bool = False
) -> tuple[World, Tuning | None]:
    """The world with its precision and memory format settled, and what was timed for that.

    Nothing is timed for a run whose lives train on fewer than WORTHWHILE images: it computes the usual way. Where nothing
    is open, and on a cluster, whose workers know their hardware themselves, the world stays as it is.

    Args:
        world: its configuration says with how many threads.
        force: who will compute.
        say: told what was chosen, if anything was timed.
        small_too: time for however small a run with lives.
    """
    section = world.config.compute
    if force.address is not None or "auto" not in (section.precision, section.memory_format):
        return world, None
    candidates, tuning = candidates_of(section), None
    if len(candidates) > 1 and images_of_lives(world.config) >= (1 if small_too else WORTHWHILE):
        try:
            tuning = timed(Work.of(world), candidates, apart=not force.in_process)
            say(str(tuning))
        except (EvolutionError, torch.OutOfMemoryError) as error:
            say(f"warning: no way to compute could be timed, so it is {candidates[0]}: {error}")
    settled = section.model_copy(update=asdict(tuning.chosen if tuning else candidates[0]))
    compute = pick_compute(settled) if force.in_process else world.compute
    return replace(world, config=world.config.model_copy(update={"compute": settled}), compute=compute), tuning


def written_down(world: World, versions: Mapping[str, str]) -> World:
    """The world with what its configuration still leaves open as its workers say that they compute: a cluster's."""
    section = world.config.compute
    auto = {name: versions[name] for name in ("precision", "memory_format") if getattr(section, name) == "auto"}
    return replace(world, config=world.config.model_copy(update={"compute": section.model_copy(update=auto)}))


def write_calibration(run: Path, tuning: Tuning | None) -> None:
    """Write what was timed into a run directory, as ``calibration.json``; no file, if nothing was.

    Raises:
        StorageError: the disk refused.
    """
    if tuning is not None:
        write_record(run / CALIBRATION, tuning.to_json())


def candidates_of(section: ComputeSection) -> list[Choice]:
    """The ways that a configuration leaves open on this machine. The first is the usual one: what ``auto`` means untimed."""
    precisions: list[Precision] = ["float32"]
    formats: list[MemoryFormat] = ["channels_last", "contiguous"]
    if section.precision != "auto":
        precisions = [section.precision]
    elif fast_bfloat16(pick_compute(section).device):
        precisions = ["bfloat16", "float32"]
    if section.memory_format != "auto":
        formats = [section.memory_format]
    return [Choice(precision, memory_format) for precision in precisions for memory_format in formats]


def images_of_lives(config: Config) -> int:
    """Images that the lives of a run train on, if none is stopped early."""
    evolution, life = config.evolution, config.life
    lives = evolution.generations * (evolution.population - evolution.tournament.elite)
    return lives * life.steps * life.training.batch_size


# ---- what a machine remembers --------------------------------------------------------------------------------------


def timed(work: Work, candidates: Sequence[Choice], *, apart: bool = False) -> Tuning:
    """Times of these ways: those that this machine remembers, else new ones.

    Args:
        apart: others will compute: leave this process without a context on the GPU.

    Raises:
        EvolutionError, torch.OutOfMemoryError: not even one step could be tried out.
    """
    depends = {"format": FORMAT, "work": asdict(work), "ways": [asdict(way) for way in candidates]}
    key = hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:24]
    name = f"tuning-{key}.json"
    if remembered := _remembered(name, depends, candidates):
        return Tuning(remembered, work.batch, key, cached=True)
    found = _measured_apart(work, candidates) if apart and work.device != "cpu" else measured(work, candidates)
    if remembered := _remembered(name, depends, candidates):  # another run has timed the same meanwhile
        found = remembered
    else:
        write_cached(name, {**depends, "seconds": [found[way] for way in candidates]})
    return Tuning(found, work.batch, key)


def _remembered(name: str, depends: dict[str, Any], candidates: Sequence[Choice]) -> dict[Choice, float] | None:
    record = read_cached(name)
    if record is None or {**record, "seconds": None} != json.loads(json.dumps({**depends, "seconds": None})):
        return None
    seconds = record["seconds"]
    if not isinstance(seconds, list) or not all(isinstance(each, float) and 0 < each < math.inf for each in seconds):
        return None
    return dict(zip(candidates, seconds, strict=True)) if len(seconds) == len(candidates) else None


# ---- timing --------------------------------------------------------------------------------------------------------


def measured(work: Work, candidates: Sequence[Choice]) -> dict[Choice, float]:
    """Seconds of one training step, by way: the least of some timings, which all ways take in turn.

    Takes about SECONDS for small hosts, and a warm-up and ROUNDS steps in each way for large ones. The process keeps its
    number of threads.
    """
    with cpu_threads(work.threads):
        trials = {way: _Trial(work, way) for way in candidates}
        for trial in trials.values():
            trial.warm_up()
        return least({way: trial.seconds for way, trial in trials.items()})


def least(
    turns: Mapping[Choice, Callable[[], float]], clock: Callable[[], float] = time.perf_counter
) -> dict[Choice, float]:
    """The least seconds of each way's turns. A way that is clearly slower than another gets no more than ROUNDS.

    Args:
        turns: times one way once.
        clock: when to end.
    """
    found, running, began, rounds = dict.fromkeys(turns, math.inf), list(turns), clock(), 0
    while rounds < ROUNDS or (len(running) > 1 and clock() - began < SECONDS):
        for way in running:
            found[way] = min(found[way], turns[way]())
        rounds += 1
        if rounds >= ROUNDS:
            running = [way for way in running if found[way] < SLOWER * min(found.values())]
    return found


class _Trial:
    """A host that trains in one way, on made-up images: what they show costs nothing."""

    def __init__(self, work: Work, way: Choice) -> None:
        section = ComputeSection(device=work.device, precision=way.precision, memory_format=way.memory_format)
        self.compute = pick_compute(section)
        recipe = TrainingSection(learning_rate=STILL, batch_size=work.batch, crop_padding=work.crop_padding)
        self.network = build(ArchSpec(work.arch, work.widths, work.n_way), 0)
        place(self.network, self.compute)
        self.network.train()
        batches = Batches(_images(work, self.compute), work.batch, 0, self.compute.memory_format)
        self.batches: Iterator[tuple[torch.Tensor, torch.Tensor]] = iter(batches)
        self.descent = Descent(dict(self.network.named_parameters()), recipe, sys.maxsize, None)
        self.steps = 1  # of a turn

    def warm_up(self) -> None:
        """Spend what only the first step costs, and find how many steps make a turn."""
        if self.seconds() < SECONDS and (step := self.seconds()) < TURN:
            self.steps = min(MAX_TURN, round(TURN / max(step, 1e-6)))

    def seconds(self) -> float:
        """Of one step, as the mean of a turn."""
        began = time.perf_counter()
        for _ in range(self.steps):
            inputs, labels = next(self.batches)
            learn(self.network, inputs, labels, self.descent, 0, self.compute)
        if self.compute.device.type == "cuda":
            torch.cuda.synchronize(self.compute.device)
        return (time.perf_counter() - began) / self.steps


def _images(work: Work, compute: Compute) -> Environment:
    count, size = IMAGES * work.batch, work.image_size + 2 * work.crop_padding
    generator = torch.Generator().manual_seed(0)
    padded = torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, generator=generator)
    rows = torch.arange(count, device=compute.device)
    crops = Augmenter.of_padded(padded.to(compute.device), work.crop_padding, work.mirror)
    return Environment(crops, rows, rows % work.n_way)


def _measured_apart(work: Work, candidates: Sequence[Choice]) -> dict[Choice, float]:
    """`measured` in a process of its own.

    Raises:
        EvolutionError: it died.
    """
    given = json.dumps({"work": asdict(work), "ways": [asdict(way) for way in candidates]})
    done = run_apart("gtl.tuning", given)
    if done.returncode:
        raise EvolutionError((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1])
    return dict(zip(candidates, json.loads(done.stdout.splitlines()[-1]), strict=True))


def main() -> None:
    """Time the work and the ways on standard input (JSON), and print the seconds of each as the last line."""
    given = json.loads(sys.stdin.read())
    work = Work(**{**given["work"], "widths": tuple((group, width) for group, width in given["work"]["widths"])})
    print(json.dumps(list(measured(work, [Choice(**way) for way in given["ways"]]).values())))


if __name__ == "__main__":
    main()
