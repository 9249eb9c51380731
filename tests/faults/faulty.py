"""Faults on purpose, inside real worker processes: `inject` puts them into the lives of chosen individuals.

A fault is written ``INDIVIDUAL=WHAT`` or ``INDIVIDUAL=WHAT*TIMES``; it strikes in the first TIMES attempts (by default in
every one). A file in a folder counts the attempts, since the process that could remember them is gone; a log beside the
folder says on which node each began.
"""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from gtl.individual import Evaluation, Job
from gtl.life import World
from gtl.population import pool_evaluator, worker


def inject(faults: Sequence[str], folder: Path) -> None:
    """From now on lives of this process's pools strike these faults."""
    parsed = {}
    for fault in faults:
        name, _, what = fault.partition("=")
        what, _, times = what.partition("*")
        parsed[name] = (what, int(times or 10**9))
    folder.mkdir(parents=True, exist_ok=True)
    pool_evaluator.live = partial(live, parsed, str(folder))


def live(
    faults: dict[str, tuple[str, int]], folder: str, world: World, plain_job: bytes, *parents: bytes
) -> tuple[bytes | None, Evaluation]:
    """`worker.live`, unless a fault is due."""
    job = Job.from_json(json.loads(plain_job))
    what, times = faults.get(job.individual, faults.get("*", ("", 0)))
    path = Path(folder) / job.individual
    attempts = path.stat().st_size if path.exists() else 0
    with path.open("ab") as stream:
        stream.write(b".")
    with open(f"{folder}.log", "ab", buffering=0) as stream:
        stream.write(f"{job.individual} {node()}\n".encode())
    if attempts < times:
        if what == "diverge":
            world = wild(world)
        else:
            Path(f"{folder}-{job.individual}.pid").write_text(str(os.getpid()))
            strike(what)
    return worker.live(world, plain_job, *parents)


def node() -> str:
    """The node of Ray's that this process is on."""
    import ray

    return str(ray.get_runtime_context().get_node_id())


def wild(world: World) -> World:
    """The same world, where lives learn far too fast: losses and weights become inf and NaN."""
    training = world.config.life.training.model_copy(update={"learning_rate": 1e9})
    life = world.config.life.model_copy(update={"training": training})
    return replace(world, config=world.config.model_copy(update={"life": life}))


def strike(what: str) -> None:
    """Let it happen in this process."""
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif what.startswith("kill@"):  # so many seconds later, wherever the life is by then
        threading.Timer(float(what.removeprefix("kill@")), os.kill, (os.getpid(), signal.SIGKILL)).start()
    elif what == "stop":  # not even Ray's own threads answer any more
        os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(3600)
    elif what == "hang":
        time.sleep(3600)
    elif what == "memory":
        raise MemoryError("no room for another tensor")
    elif what == "raise":
        raise RuntimeError("a bug in this life")
    elif what == "delay":
        time.sleep(random.random() * 0.3)
    elif what.startswith("sleep"):
        time.sleep(float(what.removeprefix("sleep")))
    elif what.startswith("allocate"):
        hoard = [bytearray(os.urandom(1 << 20)) * 64 for _ in range(int(what.removeprefix("allocate")) // 64)]
        time.sleep(30)
        del hoard
    elif what:
        raise ValueError(what)
