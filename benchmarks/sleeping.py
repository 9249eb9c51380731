"""Lives that only sleep: what runs in the workers of `scaling.py` where the driver is measured. Imports no torch."""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from gtl.individual import Evaluation, Job, Status


def prepare(_: Any) -> tuple[Mapping[str, str], None]:
    """Such a worker needs no world, and says nothing of itself."""
    return {}, None


def drawn(job: Job, low: float, high: float) -> float:
    """Seconds that a job's life sleeps: uniform, and the job's own wherever and whenever it is drawn."""
    return random.Random(job.seed).uniform(low, high)


def live(low: float, high: float, size: int, _: None, plain_job: bytes, *parents: bytes) -> tuple[bytes, Evaluation]:
    """Sleep; then a made-up gene of `size` bytes, and whether torch is here, which it should not be."""
    job = Job.from_json(json.loads(plain_job))
    seconds = drawn(job, low, high)
    time.sleep(seconds)
    draw = random.Random(job.seed + 1)
    found = {"torch": float("torch" in sys.modules), "fetched": float(sum(map(len, parents)))}
    return draw.randbytes(size), Evaluation(Status.OK, draw.random(), found, images=1, seconds=seconds)


def sleeper(low: float, high: float, size: int) -> Any:
    """`live` with its numbers, to stand in for `gtl.population.worker.live`."""
    return partial(live, low, high, size)


def wake(_: None) -> None:
    """Something for every worker to do while others are still starting."""
    time.sleep(0.05)
