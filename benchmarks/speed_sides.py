"""What `speed.py` compares, one process a side: prepare, say "ready", wait for a line, train, say what it took.

- ``plain``: what a user would write. float32, torchvision transforms in a DataLoader, one network after the other.
- ``bare``: the limit. Forward, backward and step on one fixed batch that lies there as the network wants it.
- ``engine``: a life as gtl lives it, from the parent's gene on the disk to the committed gene, its criticism included.
- ``peak``: large matrix products, or convolutions where those are faster: as many as training so many images takes. What
  a side reaches of it is its share of the machine's peak.

All train the same network on as many images of the same size. Images are noise: no side is the faster for their content.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import functional as F

from gtl.config import Config
from gtl.data.images import ImageSet, Role
from gtl.evolution.founding import allocation
from gtl.genotype import ChannelMask, Genotype
from gtl.individual import Job, ParentGene
from gtl.life import World
from gtl.models import ArchSpec, build, spec_of
from gtl.planning.bench import step_flops
from gtl.population.evaluator import InProcessEvaluator
from gtl.population.store import RunStore
from gtl.training import resolve_compute

BATCH, SIZE = 128, 32
CLASSES, VAL_CLASSES, PER_CLASS = 64, 16, 600  # of CIFAR-FS
WARM = 3  # steps before the clock starts
PEAK_SECONDS = 0.5


@dataclass(frozen=True)
class Work:
    """Lives that are timed.

    Attributes:
        arch, width, family: the host, as the configuration names it.
        steps: of a life, of 128 images each.
        loop_steps: of the plain and the bare loop, whose rate does not change with their length.
    """

    arch: str
    width: float
    steps: int
    loop_steps: int
    family: str = "64-128-256-512"

    @property
    def spec(self) -> ArchSpec:
        """The host."""
        return spec_of(self.arch, num_classes=CLASSES, width=self.width, family=self.family)


WORKS = {
    "vgg11-quarter": Work("vgg11", 0.25, steps=400, loop_steps=150),
    "vgg11": Work("vgg11", 1.0, steps=400, loop_steps=40),
    "resnet12": Work("resnet12", 1.0, steps=200, loop_steps=25),
    "trial": Work("vgg11", 0.125, steps=20, loop_steps=10),
}
Turn = Callable[[], int]  # trains, and returns how many images


def noise(classes: int, role: Role) -> ImageSet:
    """Images of a role, like those of CIFAR-FS in number and size."""
    draw = torch.Generator().manual_seed(classes)
    count = classes * PER_CLASS
    images = torch.randint(0, 256, (count, SIZE, SIZE, 3), dtype=torch.uint8, generator=draw)
    labels = torch.arange(classes).repeat_interleave(PER_CLASS)
    return ImageSet(images, labels, tuple(f"{role}-{n}" for n in range(classes)), role, "noise", mirror=True)


def plain(work: Work, loading: int, warm: bool = True) -> Turn:
    """A training loop as tutorials have it; images as PIL images, as torchvision's CIFAR100 hands them out."""
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset
    from torchvision import transforms

    images = noise(CLASSES, "train")
    array, labels = images.images.numpy(), images.labels.tolist()
    transform = transforms.Compose([
        transforms.RandomCrop(SIZE, padding=4),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
    ])  # fmt: skip

    class Images(Dataset[tuple[torch.Tensor, int]]):
        def __len__(self) -> int:
            return len(labels)

        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            return transform(Image.fromarray(array[index])), labels[index]

    def turn(steps: int = work.loop_steps) -> int:
        network = build(work.spec, seed=1).train()
        optimiser = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4, nesterov=True)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        loader = DataLoader(Images(), BATCH, shuffle=True, drop_last=True, num_workers=loading)
        step = 0
        while step < steps:
            for batch, target in loader:
                loss = F.cross_entropy(network(batch), target)
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                schedule.step()
                step += 1
                if step == steps:
                    break
        return steps * BATCH

    if warm:
        turn(WARM)
    return turn


def bare(work: Work, dtype: torch.dtype | None) -> Turn:
    """Nothing but the network: one fixed batch, channels last, under autocast to `dtype` if there is one."""
    network = build(work.spec, seed=1).to(memory_format=torch.channels_last).train()
    inputs = torch.randn(BATCH, 3, SIZE, SIZE).to(memory_format=torch.channels_last)
    target = torch.arange(BATCH) % CLASSES
    optimiser = torch.optim.SGD(
        network.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4, nesterov=True, fused=True
    )

    def turn(steps: int = work.loop_steps) -> int:
        for _ in range(steps):
            with torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
                logits = network(inputs)
            loss = F.cross_entropy(logits.float(), target)
            optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            optimiser.step()
        return steps * BATCH

    turn(WARM)
    return turn


def world_of(work: Work, threads: int) -> World:
    """The world of such lives, on the CPU."""
    config = Config.model_validate({
        "name": "speed", "data": {"source": "cifar_fs", "root": "."},
        "model": {"arch": work.arch, "width": work.width, "family": work.family},
        "gene": {"budget": 0.2, "initial_share": (0.1, 0.2)},
        "life": {"steps": work.steps, "n_way": CLASSES, "training": {"batch_size": BATCH}},
        "critic": {"tasks": 3, "fit_images": 20, "score_images": 100},
        "compute": {"threads": threads, "device": "cpu"},
    })  # fmt: skip
    return World(config, work.spec, noise(CLASSES, "train"), noise(VAL_CLASSES, "val"), resolve_compute(config.compute))


def engine(work: Work, threads: int) -> Turn:
    """A life and its commit, as a run in one process does them."""
    world = world_of(work, threads)
    counts = allocation(world.layout, "early", 0.2)
    genotype = Genotype({g: ChannelMask(w, range(counts[g])) for g, w in world.layout.groups.items()})
    folder = tempfile.TemporaryDirectory()  # kept alive by the turn, and removed when the process ends
    store = RunStore.create(Path(folder.name) / "run", config_text="", config_hash="none", versions={})
    evaluator = InProcessEvaluator(world, store.blobs)
    done = 0

    def live(parents: tuple[ParentGene, ...], lives: bool) -> str:
        nonlocal done
        done += 1
        job = Job(f"life-{done}", done, genotype, parents, lives=lives, seed=done, critic_seed=1, critic_tasks=3,
                  task_seed=1)  # fmt: skip
        with store.lock():
            (outcome,) = evaluator.evaluate([job])
            if not outcome.evaluation.ok:
                raise RuntimeError(f"the life failed: {outcome.evaluation}")
            store.commit(done, {"blobs": [outcome.gene]}, [{"event": "birth", "id": outcome.individual}])
        return outcome.gene

    parent = ParentGene("parent", live((), lives=False), genotype)
    bare(work, world.compute.autocast)  # a step or two, so that what is measured is no first call

    def turn() -> int:
        assert folder is not None
        live((parent,), lives=True)
        return work.steps * BATCH

    return turn


def peak(work: Work, dtype: torch.dtype | None) -> Turn:
    """Nothing but products of the larger kind, in images whose training has as many floating-point operations."""
    flops_an_image = step_flops(world_of(work, torch.get_num_threads()), BATCH) / BATCH
    dtype = dtype or torch.float32
    square = torch.randn(2048, 2048, dtype=dtype)
    images = torch.randn(64, 128, 16, 16, dtype=dtype).to(memory_format=torch.channels_last)
    kernels = torch.randn(128, 128, 3, 3, dtype=dtype).to(memory_format=torch.channels_last)
    kinds: list[tuple[Callable[[], object], float]] = [
        (lambda: square @ square, 2.0 * 2048**3),
        (lambda: F.conv2d(images, kernels, padding=1), 2.0 * 64 * 16 * 16 * 128 * 128 * 9),
    ]

    def rate(product: Callable[[], object], flops: float) -> float:
        began, count = time.perf_counter(), 0
        while time.perf_counter() - began < PEAK_SECONDS:
            product()
            count += 1
        return count * flops / (time.perf_counter() - began)

    with torch.no_grad():
        for kind in kinds:
            rate(*kind)  # the first calls make kernels
        fastest = max(kinds, key=lambda kind: rate(*kind))

    @torch.no_grad()
    def turn() -> int:
        seconds = 2 * PEAK_SECONDS
        began, flops = time.perf_counter(), 0.0
        while time.perf_counter() - began < seconds:
            fastest[0]()
            flops += fastest[1]
        return round(flops / flops_an_image)

    return turn


def make(side: str, work: Work, threads: int) -> Turn:
    """The turn of a side."""
    torch.set_num_threads(threads)
    if side == "engine":
        return engine(work, threads)
    if side.startswith("plain"):
        return plain(work, loading=2 if "loading" in side else 0, warm="unwarmed" not in side)
    dtype = torch.bfloat16 if "bfloat16" in side else None
    return peak(work, dtype) if side.startswith("peak") else bare(work, dtype)


def main() -> None:
    """One process of one side."""
    side, name, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
    turn = make(side, WORKS[name], threads)
    print("ready", flush=True)
    sys.stdin.readline()
    began = time.perf_counter()
    images = turn()
    print(json.dumps({"images": images, "seconds": time.perf_counter() - began}), flush=True)


if __name__ == "__main__":
    main()
