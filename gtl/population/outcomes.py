"""What a generation has finished before it is committed: a kill costs the individuals under way, and no others.

``outcomes.jsonl`` is a cache, never the truth. A line counts only if its own hash verifies, it belongs to exactly the job
that is asked for again, and its gene's blob is whole; everything else is evaluated again, with the same result.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import IO, Any, TypeVar

from gtl import storage
from gtl.individual import Evaluation, Job, Outcome, Status
from gtl.population.evaluator import Evaluator
from gtl.population.store import RunStore

FILE = "outcomes.jsonl"
SYNC_EVERY = 1.0  # seconds; a kill loses no line at all, a power cut those of the last second
KEPT = (Status.OK, Status.DIVERGED)  # the others may have been the machine's fault: a resumed run tries them again
T = TypeVar("T")


class RememberingEvaluator:
    """Evaluates what is not finished yet with `evaluator`, and remembers it.

    Args:
        evaluator: does the work.
        store: the run; its lock is held.
    """

    def __init__(self, evaluator: Evaluator, store: RunStore) -> None:
        self._evaluator = evaluator
        self._path = store.path / FILE
        self._blobs = store.blobs

    @property
    def versions(self) -> Mapping[str, str]:
        """Of what computes."""
        return self._evaluator.versions

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """Not remembered."""
        return self._evaluator.call(function, *args)

    def evaluate(self, jobs: Iterable[Job]) -> Iterator[Outcome]:
        """Outcomes: first those that were finished before, then the others as they arrive.

        One generation may come in several calls, such as the heats of a race: the file keeps what all of them finished,
        until a job of another generation is evaluated.
        """
        by_id = {job.individual: job for job in jobs}
        known, lines = self._read(by_id)
        yield from known.values()
        remaining = [job for name, job in by_id.items() if name not in known]
        if not remaining:
            return
        if storage.read_bytes(self._path) != lines:  # of an older generation, or torn
            storage.publish(self._path, lines, overwrite=True)
        with storage.guard(self._path, 4096):
            stream = open(self._path, "ab", buffering=0)  # noqa: SIM115 - closed below, outside the guard
        with stream:
            synced = time.monotonic()
            for outcome in self._evaluator.evaluate(remaining):
                if outcome.evaluation.status in KEPT:
                    with storage.guard(self._path, 4096):
                        stream.write(_line(by_id[outcome.individual], outcome))
                        synced = _sync(stream, synced)
                yield outcome

    def _read(self, jobs: Mapping[str, Job]) -> tuple[dict[str, Outcome], bytes]:
        """Outcomes of these jobs that can be trusted; their lines, and those of other jobs of their generation."""
        found, lines = {}, []
        hashes = {_job_hash(job) for job in jobs.values()}
        generations = {job.generation for job in jobs.values()}
        for line in (storage.read_bytes(self._path) or b"").splitlines():
            with suppress(ValueError, KeyError, TypeError):
                digest, _, text = line.partition(b" ")
                if digest.decode() != hashlib.sha256(text).hexdigest():
                    continue
                record = json.loads(text)
                if record["job"] in hashes:
                    outcome = Outcome(record["individual"], record["gene"], Evaluation.from_json(record["evaluation"]))
                    if outcome.gene and self._blobs.damage(outcome.gene) is not None:
                        continue
                    found[outcome.individual] = outcome
                elif record["generation"] not in generations:
                    continue
                lines.append(line + b"\n")
        return found, b"".join(lines)


def _line(job: Job, outcome: Outcome) -> bytes:
    record = {
        "job": _job_hash(job),
        "generation": job.generation,
        "individual": outcome.individual,
        "gene": outcome.gene,
        "evaluation": outcome.evaluation.to_json(),
    }
    text = json.dumps(record, separators=(",", ":"), allow_nan=False).encode()
    return hashlib.sha256(text).hexdigest().encode() + b" " + text + b"\n"


def _job_hash(job: Job) -> str:
    """sha256 of everything that a job says."""
    return hashlib.sha256(job.text).hexdigest()


def _sync(stream: IO[bytes], last: float) -> float:
    """Force the file to the disk, if that was not done within the last second."""
    if time.monotonic() - last < SYNC_EVERY:
        return last
    os.fsync(stream.fileno())
    return time.monotonic()
