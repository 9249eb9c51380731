"""The process that chaos.py kills: it evolves a small configuration, or goes on with it, and tells all that it does.

python benchmarks/chaos_driver.py RUN EVENTS [--workers N] [--hold COUNT STEP]

EVENTS gets one line for everything that happens, written at once and in one piece: it outlives its writer. With --hold the
driver stands still right after it has done that storage step for the COUNTth time, to be killed there.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "tests")]
os.environ["PYTHONPATH"] = os.pathsep.join([*sys.path[:2], os.environ.get("PYTHONPATH", "")])  # for workers

from tiny_run import tiny  # noqa: E402

from gtl import engine, storage  # noqa: E402
from gtl.config import Config  # noqa: E402
from gtl.config_file import changed_config  # noqa: E402
from gtl.errors import GtlError  # noqa: E402
from gtl.individual import Evaluation, Job, Outcome  # noqa: E402
from gtl.learngene import founders  # noqa: E402
from gtl.learngene.container import canonical_json  # noqa: E402
from gtl.life import World  # noqa: E402
from gtl.population import evaluator, pool_evaluator, worker  # noqa: E402
from gtl.population.observer import Observer  # noqa: E402
from gtl.population.outcomes import RememberingEvaluator  # noqa: E402

HELD = 120.0  # seconds: whoever asked for it kills much sooner
TEMPORARY = re.compile(r"\.tmp\.[0-9a-f]{12}")


def configuration() -> Config:
    """Every phase of a run, in seconds: an ancestor of eight parts, search, three generations with lives, finalists."""
    config = tiny(
        founders={"epochs": 8.0},
        evolution={"population": 5, "search_generations": 1, "generations": 3, "tournament": {"elite": 2}},
        life={"steps": 12},
    )
    return changed_config(config, compute={"threads": 1})


def tell(events: Path, *words: object) -> None:
    """One line, by the clock that all processes of a machine share."""
    line = " ".join(str(word) for word in (f"{time.monotonic():.6f}", *words)).replace("\n", " ")
    descriptor = os.open(events, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        os.write(descriptor, line.encode() + b"\n")
    finally:
        os.close(descriptor)


def digest(job: Job) -> str:
    """Names one evaluation: an individual that survives meets the critic of every generation."""
    return hashlib.sha256(canonical_json(job.to_json()).encode()).hexdigest()[:16]


class Told(Observer):
    """Tells what a user would see."""

    def __init__(self, events: Path) -> None:
        self.events = events

    def message(self, text: str) -> None:
        tell(self.events, "message", text)

    def generation(self, manager: Any) -> None:
        tell(self.events, "generation", manager.generation)


def remembering(events: Path) -> type[RememberingEvaluator]:
    """The evaluator of the main loop; finalists, of which no observer hears, are told as well."""

    class Remembering(RememberingEvaluator):
        def evaluate(self, jobs: Iterable[Job]) -> Iterator[Outcome]:
            asked = list(jobs)
            names = {job.individual: digest(job) for job in asked}
            tell(events, "asked", asked[0].generation, len(asked))
            for outcome in super().evaluate(asked):
                tell(events, "finished", names[outcome.individual], outcome.evaluation.status)
                yield outcome

    return Remembering


def attempt(events: Path, job: Job, *rest: Any, **options: Any) -> Any:
    """An evaluation in this process, marked as begun."""
    tell(events, "began", digest(job))
    return _attempt(job, *rest, **options)


def live(events: str, world: World, plain_job: bytes, *parents: bytes) -> tuple[bytes | None, Evaluation]:
    """The same in a worker of Ray."""
    tell(Path(events), "began", digest(Job.from_json(json.loads(plain_job))))
    return worker.live(world, plain_job, *parents)


def announcing(events: Path, count: int, where: str) -> Any:
    """A fault hook that tells every step, and stands still after one of them."""
    left = count

    def fault(name: str) -> None:
        nonlocal left
        name = TEMPORARY.sub("", name)
        tell(events, "step", name)
        if name == where:
            left -= 1
            if left == 0:
                tell(events, "held", name)
                time.sleep(HELD)

    return fault


_attempt = evaluator.attempt


def main() -> int:
    """Evolve or resume, told step by step."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("events", type=Path)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--hold", nargs=2, default=("0", ""))
    given = parser.parse_args()
    founders.SAVE_EVERY = 0.0  # after every epoch
    engine.RememberingEvaluator = remembering(given.events)  # type: ignore[misc]
    evaluator.attempt = partial(attempt, given.events)  # type: ignore[assignment]
    pool_evaluator.live = partial(live, str(given.events))  # type: ignore[assignment]
    storage.fault = announcing(given.events, int(given.hold[0]), given.hold[1])
    tell(given.events, "begun")
    try:
        if (given.run / "run.json").exists():
            engine.resume(given.run, workers=given.workers, observer=Told(given.events))
        else:
            engine.evolve(configuration(), given.run, workers=given.workers, observer=Told(given.events))
    except GtlError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    tell(given.events, "ended")
    return 0


if __name__ == "__main__":
    import chaos_driver  # workers find its functions under this name, and not as __main__'s

    sys.exit(chaos_driver.main())
