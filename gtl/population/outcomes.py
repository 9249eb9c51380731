"""What a generation has finished before it is committed: a kill costs the individuals under way, and no others.

``outcomes.jsonl`` is a cache, never the truth. A line counts only if its own hash verifies, it belongs to exactly the job
that is asked for again, and its gene's blob is whole; everything else is evaluated again, with the same result.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import IO, Any

from gtl import storage
from gtl.individual import Evaluation, Job, Outcome, Status
from gtl.population.evaluator import AroundEvaluator, Evaluator
from gtl.population.packs import Pack, packs
from gtl.population.store import RunStore

FILE = "outcomes.jsonl"
SYNC_EVERY = 1.0  # seconds; a kill loses no line at all, a power cut those of the last second
KEPT = (Status.OK, Status.DIVERGED)  # the others may have been the machine's fault: a resumed run tries them again


class RememberingEvaluator(AroundEvaluator):
    """Evaluates what is not finished yet with `evaluator`, and remembers it.

    Lives that are trained at once count together: where one of a pack is not finished, all of it is evaluated again, or
    the others would round otherwise than in the run that was left alone.

    Args:
        evaluator: does the work, in the same packs.
        store: the run; its lock is held.
        pack: lives that are trained at once (``compute.pack``).
    """

    def __init__(self, evaluator: Evaluator, store: RunStore, pack: int = 1) -> None:
        super().__init__(evaluator)
        self._path = store.path / FILE
        self._blobs = store.blobs
        self._pack = pack

    def evaluate(self, jobs: Iterable[Job]) -> Iterator[Outcome]:
        """Outcomes: first those that were finished before, then the others as they arrive.

        One generation may come in several calls, such as the heats of a race: the file keeps what all of them finished,
        until a job of another generation is evaluated.
        """
        cut = packs(jobs, self._pack)
        keys = {job.individual: _key(job, pack) for pack in cut for job in pack}
        records = self._read()
        found = {name: outcome for name, key in keys.items() if (outcome := self._outcome(records, key))}
        remaining = [job for pack in cut if not all(job.individual in found for job in pack) for job in pack]
        again = {job.individual for job in remaining}
        yield from (outcome for name, outcome in found.items() if name not in again)
        if not remaining:
            return
        stale = {keys[name] for name in again}
        mine, generation = set(keys.values()), remaining[0].generation
        lines = b"".join(
            line
            for key, (line, record) in records.items()
            if key not in stale and (key in mine or record.get("generation") == generation)
        )
        if storage.read_bytes(self._path) != lines:  # of an older generation, or torn
            storage.publish(self._path, lines, overwrite=True)
        with storage.guard(self._path, 4096):
            stream = open(self._path, "ab", buffering=0)  # noqa: SIM115 - closed below, outside the guard
        with stream:
            synced = time.monotonic()
            for outcome in self._evaluator.evaluate(remaining):
                if outcome.evaluation.status in KEPT:
                    with storage.guard(self._path, 4096):
                        stream.write(_line(keys[outcome.individual], generation, outcome))
                        synced = _sync(stream, synced)
                yield outcome

    def _read(self) -> dict[str, tuple[bytes, dict[str, Any]]]:
        """Lines that are whole, and what they say, by the key of their job."""
        found = {}
        for line in (storage.read_bytes(self._path) or b"").splitlines():
            with suppress(ValueError, KeyError, TypeError):
                digest, _, text = line.partition(b" ")
                if digest.decode() == hashlib.sha256(text).hexdigest():
                    record = json.loads(text)
                    found[str(record["job"])] = (line + b"\n", record)
        return found

    def _outcome(self, records: Mapping[str, tuple[bytes, dict[str, Any]]], key: str) -> Outcome | None:
        """Of a job; None if it cannot be trusted."""
        with suppress(ValueError, KeyError, TypeError):
            _, record = records[key]
            found = Outcome(record["individual"], record["gene"], Evaluation.from_json(record["evaluation"]))
            if not found.gene or self._blobs.damage(found.gene) is None:
                return found
        return None


def _line(key: str, generation: int, outcome: Outcome) -> bytes:
    record = {
        "job": key,
        "generation": generation,
        "individual": outcome.individual,
        "gene": outcome.gene,
        "evaluation": outcome.evaluation.to_json(),
    }
    text = json.dumps(record, separators=(",", ":"), allow_nan=False).encode()
    return hashlib.sha256(text).hexdigest().encode() + b" " + text + b"\n"


def _key(job: Job, pack: Pack) -> str:
    """sha256 of everything that a job says, and of those that it is computed with."""
    texts = [job.text] if len(pack) == 1 else [job.text, *(each.text for each in pack)]
    return hashlib.sha256(b"\n".join(texts)).hexdigest()


def _sync(stream: IO[bytes], last: float) -> float:
    """Force the file to the disk, if that was not done within the last second."""
    if time.monotonic() - last < SYNC_EVERY:
        return last
    os.fsync(stream.fileno())
    return time.monotonic()
