"""What one piece of a run costs on this machine: short pieces of the real code are run on the real data and timed.

A training is timed at two lengths, which tells its steps from what every training costs once. Memory is honest only in
a process that has done nothing else: `calibrate_apart` starts one.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from gtl.config import Config
from gtl.config_file import changed_config
from gtl.critic import Gene, criticise, draw_tasks
from gtl.errors import EvolutionError
from gtl.individual import Job, ParentGene
from gtl.learngene.founders import ancestor_steps, pretrain
from gtl.life import World, evaluate, evaluate_pack
from gtl.machine import run_apart
from gtl.models import build
from gtl.planning.jobs import sample_jobs
from gtl.surgery import gather
from gtl.training import cpu_threads
from gtl.world import make_world

GENES = 4  # founders that are measured: their allocations, and so their costs, differ
SECONDS = 3.0  # aimed at for each kind of training, and for the genes
TRIES = 5  # timings of the shortest trainings, if SECONDS allow
SHORT, LONG = 2, 6  # steps of the shortest trainings; a third is as long as SECONDS allow
UNDISTURBED = 0.8  # share of a core below which the machine counts as busy
STILL = 1e-9  # a learning rate at which nothing can diverge


@dataclass(frozen=True)
class Peaks:
    """Bytes at their highest: of a process that only loaded gtl and the data, lived lives, trained an ancestor.

    Attributes:
        loaded: modules and images.
        data: images and labels, which are part of all three.
        worker: after criticisms and lives.
        ancestor: after the ancestor's training.
        gpu: of the GPU, as torch reserved it; 0 on the CPU.
        gpu_free: what the GPU had free when this began.
    """

    loaded: int
    data: int
    worker: int
    ancestor: int
    gpu: int = 0
    gpu_free: int = 0


@dataclass(frozen=True)
class Calibration:
    """Seconds of the pieces that a run is made of.

    Attributes:
        device: what was measured on.
        threads: CPU threads it was measured with.
        start: from the start of a process to the loaded data.
        ancestor_once: what the ancestor's training costs beside its steps.
        ancestor_step: one of its steps.
        reference: criticism of a whole network on one task.
        cut: a child without a life, its criticism left out: birth, extraction, norms.
        life_once: what a life costs beside that and its steps.
        life_step: one step of a life.
        criticism: criticism of a gene on one task.
        share: of a core that the process got meanwhile; well below 1 on a CPU, others were computing too.
        peaks: memory.
    """

    device: str
    threads: int
    start: float
    ancestor_once: float
    ancestor_step: float
    reference: float
    cut: float
    life_once: float
    life_step: float
    criticism: float
    share: float
    peaks: Peaks

    @property
    def disturbed(self) -> bool:
        """Whether others took so much of the CPU that the times say more about them."""
        return self.device == "cpu" and self.share < UNDISTURBED

    def to_json(self) -> dict[str, Any]:
        """Plain form."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Calibration:
        """Inverse of `to_json`."""
        return cls(**{**value, "peaks": Peaks(**value["peaks"])})


def calibrate_apart(config: Config, threads: int) -> Calibration:
    """`calibrate` in a fresh process with this many CPU threads: nothing here changes, and its memory is its own.

    Raises:
        EvolutionError: the process died, for example for want of memory; so would the run.
    """
    settled = changed_config(config, compute={"threads": threads})
    began = time.perf_counter()
    done = run_apart("gtl.planning", settled.model_dump_json())
    wall = time.perf_counter() - began
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        killed = "it was killed, most likely because the memory was used up" if done.returncode == -9 else ""
        cause = killed or (lines[-1] if lines else f"exit code {done.returncode}")
        raise EvolutionError(f"{config.name}: a life could not be tried out on this machine: {cause}")
    found = json.loads(done.stdout.splitlines()[-1])
    calibration = Calibration.from_json(found["calibration"])
    return replace(calibration, start=calibration.start + max(0.0, wall - found["seconds"]))


def main() -> None:
    """Calibrate the configuration on standard input (JSON), and print the result as the last line."""
    began = time.perf_counter()
    config = Config.model_validate_json(sys.stdin.read())
    free = _gpu_free(config)
    world = make_world(config)
    loading = time.perf_counter() - began
    found = calibrate(world)
    found = replace(found, start=loading, peaks=replace(found.peaks, gpu_free=free))
    print(json.dumps({"calibration": found.to_json(), "seconds": time.perf_counter() - began}))


def calibrate(world: World) -> Calibration:
    """Time the pieces of this world's run, in this process: its memory is that of all that the process did.

    Takes about ten seconds for the demo's networks, and for large ones some steps of each training.
    """
    tensors = [t for images in (world.train, world.val) for t in (images.images, images.labels)]
    data = sum(t.untyped_storage().nbytes() for t in tensors)  # of train images the padded ones, which they are part of
    loaded = peak_memory()
    began, used = time.perf_counter(), time.process_time()
    trial = _Trial(world)
    cut, criticism = trial.genes()
    life_once, life_step = trial.life()
    criticism, reference = trial.critic(criticism)
    worker = peak_memory()
    ancestor_once, ancestor_step = trial.ancestor()
    device = world.compute.device
    on_gpu = device.type == "cuda"
    gpu = torch.cuda.max_memory_reserved(device) if on_gpu else 0
    return Calibration(
        device=torch.cuda.get_device_name(device) if on_gpu else "cpu",
        threads=torch.get_num_threads(),
        start=0.0,
        ancestor_once=ancestor_once,
        ancestor_step=ancestor_step,
        reference=reference,
        cut=cut,
        life_once=life_once,
        life_step=life_step,
        criticism=criticism,
        share=min(1.0, (time.process_time() - used) / max(1e-9, time.perf_counter() - began)),
        peaks=Peaks(loaded, data, worker, peak_memory(), gpu),
    )


class _Trial:
    """The measurements, on founders as the run would have them and an untrained network, which costs what any costs."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.critic_steps = world.config.critic.steps if world.config.critic.kind == "short_training" else 0
        self.brief = with_changes(world, critic={"steps": min(SHORT, world.config.critic.steps)})
        full = world.layout.full()
        self.network = gather(build(world.host, 0).state_dict(), world.layout, full)
        self.jobs = [replace(job, critic_tasks=1) for job in sample_jobs(self.brief, GENES)]
        self.tensors = {job.individual: gather(self.network, world.layout, job.genotype) for job in self.jobs}

    def genes(self) -> tuple[float, float]:
        """Seconds of a child without a life, its criticism left out, and of that criticism."""
        self._cut(self.jobs[-1])  # what only the first time costs
        self._judged(self.jobs[-1], self.brief)
        both, criticisms = [], []
        began = time.perf_counter()
        for job in self.jobs:
            both.append(self._cut(job))
            criticisms.append(self._judged(job, self.brief))
            if time.perf_counter() - began > SECONDS:
                break
        self.first = both[0]  # lives are timed with this founder's gene
        criticism = sum(criticisms) / len(criticisms)
        return max(0.0, sum(both) / len(both) - criticism), criticism

    def life(self) -> tuple[float, float]:
        """Seconds that a life adds to a child without one: once, and per step."""
        steps = self.world.config.life.steps
        if steps == 0:
            return 0.0, 0.0
        once, step = line(lambda n: self._life(with_changes(self.brief, life={"steps": n})), steps)
        return max(0.0, once - self.first), step

    def critic(self, criticism: float) -> tuple[float, float]:
        """Seconds of one task for a gene and for a whole network, with all the steps of a critic that trains."""
        job, brief = self.jobs[0], self.brief
        extra = 0.0
        if self.critic_steps > SHORT:
            once, step = line(lambda n: self._judged(job, with_changes(brief, critic={"steps": n})), self.critic_steps)
            criticism, extra = once + step * self.critic_steps, step * (self.critic_steps - SHORT)
        gene = Gene(self.world.host, self.world.layout.full(), self.network)
        section = brief.config.critic
        tasks = draw_tasks(self.world.val, section, 0, 1)
        return criticism, extra + _seconds(lambda: criticise(gene, tasks, section, 0, self.world.compute))

    def ancestor(self) -> tuple[float, float]:
        """Seconds of the ancestor's training: once, and per step."""
        founders = self.world.config.founders
        if founders.kind == "random" or founders.checkpoint is not None:
            return 0.0, 0.0
        total = ancestor_steps(self.world.config, len(self.world.train.labels))
        with cpu_threads(founders.threads):
            return line(lambda n: _seconds(lambda: pretrain(self.brief, n, 0)), total)

    def _cut(self, job: Job) -> float:
        return _seconds(lambda: evaluate(job, [self.network] if job.parents else [], self.brief))

    def _life(self, world: World) -> float:
        job = self.jobs[0]
        living, genes = replace(job, parents=(self._own(job),), lives=True), [self.tensors[job.individual]]
        if world.config.life.distill > 0:
            classes = world.train.n_classes
            _, width = self.world.layout.shapes["head.weight"]
            head = {"head.weight": torch.zeros(classes, width), "head.bias": torch.zeros(classes)}
            living, genes = replace(living, teacher=""), [*genes, {**self.network, **head}]
        if (size := world.config.compute.pack) == 1:
            return _seconds(lambda: evaluate(living, genes, world))
        return _seconds(lambda: evaluate_pack([living] * size, [genes] * size, world)) / size

    def _judged(self, job: Job, world: World) -> float:
        again = replace(job, parents=(self._own(job),))
        return _seconds(lambda: evaluate(again, [self.tensors[job.individual]], world))

    @staticmethod
    def _own(job: Job) -> ParentGene:
        """The gene of this job's child, as a parent."""
        return ParentGene(job.individual, "", job.genotype)


def line(seconds: Callable[[int], float], total: int) -> tuple[float, float]:
    """Seconds that a training costs once, and per step, from trainings of several lengths.

    Args:
        seconds: runs and times a training of so many steps.
        total: steps of the real one; none is longer, unless the shortest are.
    """
    seconds(1)  # what only the first training costs
    short, long, steps = seconds(SHORT), seconds(LONG), LONG
    began, tries = time.perf_counter(), 1
    while tries < TRIES and time.perf_counter() - began < SECONDS / 3:  # short ones tell noise, if they are timed once
        short, long, tries = min(short, seconds(SHORT)), min(long, seconds(LONG)), tries + 1
    step = max(1e-6, (long - short) / (LONG - SHORT))
    if (longer := min(total, round(SECONDS / step))) > LONG:
        long, steps = seconds(longer), longer
        step = max(0.0, (long - short) / (steps - SHORT))
    return max(0.0, long - step * steps), step


def with_changes(world: World, **sections: Any) -> World:
    """The world with some keys of its configuration changed, with learning rates at which nothing can diverge, and
    without heats, which the few steps of a trial could not be divided into."""
    config = world.config
    calm: dict[str, Any] = {
        name: {"training": {**section.training.model_dump(), "learning_rate": STILL}}
        for name, section in (("life", config.life), ("founders", config.founders))
    }
    calm["evolution"] = {"racing": {}}
    merged = {name: {**calm.get(name, {}), **sections.get(name, {})} for name in [*calm, *sections]}
    return replace(world, config=changed_config(config, **merged))


def peak_memory() -> int:
    """Bytes of memory that this process held at most; 0 where the system does not tell."""
    try:
        for text in Path("/proc/self/status").read_text().splitlines():
            if text.startswith("VmHWM:"):
                return int(text.split()[1]) * 1024
    except OSError:
        pass
    try:
        import resource
    except ImportError:
        return 0
    # not on Linux, which lets a process begin with the peak of the one that started it
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _gpu_free(config: Config) -> int:
    """Bytes that the configured GPU has free; 0 on the CPU."""
    if config.compute.device == "cpu" or not torch.cuda.is_available():
        return 0
    device = torch.device("cuda" if config.compute.device == "auto" else config.compute.device)
    return int(torch.cuda.mem_get_info(device)[0])


def _seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
