"""A driver as a process of its own: evolve a tiny configuration, or go on with it; with faults, if asked for.

python driver.py RUN [--workers N] [--address A] [--longer] [--set KEY=VALUE] [--fault INDIVIDUAL=WHAT*TIMES] [--stop-at STEP]
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
os.environ["PYTHONPATH"] = os.pathsep.join([*sys.path[:2], os.environ.get("PYTHONPATH", "")])  # for workers

from tiny_run import LONGER, tiny  # noqa: E402

from gtl import engine, storage  # noqa: E402
from gtl.config import Config  # noqa: E402
from gtl.config_file import changed_config  # noqa: E402
from gtl.errors import GtlError  # noqa: E402
from gtl.learngene import founders  # noqa: E402
from gtl.population.observer import Observer, WorkerReport  # noqa: E402


class Telling(Observer):
    """One line for each thing that a test may wait for."""

    def message(self, text: str) -> None:
        print(f"message {text}", flush=True)

    def workers(self, report: WorkerReport) -> None:
        print(f"workers {report.ready} {report.nodes} {report.note}", flush=True)

    def evaluated(self, outcome: object) -> None:
        evaluation = outcome.evaluation  # type: ignore[attr-defined]
        print(f"evaluated {outcome.individual} {evaluation.status} {evaluation.reason}", flush=True)  # type: ignore[attr-defined]

    def asked(self, jobs: object) -> None:
        print("asked", flush=True)

    def generation(self, manager: object) -> None:
        print(f"generation {manager.generation}", flush=True)  # type: ignore[attr-defined]


def main() -> int:
    """As the command line does it: exit codes and one sentence."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--address")
    parser.add_argument("--longer", action="store_true")
    parser.add_argument("--fault", action="append", default=[])
    parser.add_argument("--kill-at", help="kill this process after its nth step on the disk")
    parser.add_argument("--deadline", type=float, default=300.0)
    parser.add_argument("--attempts", type=int, default=3)
    given = parser.parse_args()
    founders.SAVE_EVERY = 0.0 if given.longer else founders.SAVE_EVERY
    if given.fault:
        import faulty

        faulty.inject(given.fault, given.run.parent / f"{given.run.name}-attempts")
    if given.kill_at:
        steps = iter(range(int(given.kill_at), -1, -1))

        def fault(_: str) -> None:
            if next(steps) == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        storage.fault = fault
    print("begun", flush=True)
    try:
        if (given.run / "run.json").exists():
            engine.resume(given.run, workers=given.workers, address=given.address, observer=Telling())
        else:
            engine.evolve(
                configuration(given.longer, given.deadline, given.attempts),
                given.run, workers=given.workers, address=given.address, observer=Telling(),
            )  # fmt: skip
    except GtlError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    return 0


def configuration(longer: bool, deadline: float, attempts: int = 3) -> Config:
    """Of the tiny or the longer run, with one thread a worker."""
    config = LONGER if longer else tiny()
    cluster = {"deadline": deadline, "first_deadline": max(60.0, deadline), "attempts": attempts}
    return changed_config(config, compute={"threads": 1}, cluster=cluster)


if __name__ == "__main__":
    sys.exit(main())
