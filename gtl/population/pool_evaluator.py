"""PoolEvaluator: jobs become calls on a pool of workers, and their results outcomes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

from gtl.errors import ClusterError
from gtl.individual import Evaluation, Job, Outcome
from gtl.population.blobs import BlobStore
from gtl.population.retry import Call, Lost
from gtl.population.worker import compute, live

WRITERS = 8  # genes that are written at once: each write waits for the disk, and workers must not wait for it
T = TypeVar("T")


class Pool(Protocol):
    """Workers that run calls; see RayPool."""

    @property
    def facts(self) -> list[Mapping[str, str]]:
        """What distinct workers said of themselves; at least one."""
        ...

    def run(self, calls: Iterable[Call], fetch: Callable[[str], bytes]) -> Iterator[list[tuple[Call, Any]]]:
        """Calls and their results, or Lost; what arrived together comes together."""
        ...


class PoolEvaluator:
    """Evaluates on a pool. Gives what InProcessEvaluator gives, for any number of workers and in any order.

    Args:
        pool: its workers were prepared by `gtl.population.worker.prepare`.
        genes: the run's blobs: every result is on the disk before its outcome is told.
    """

    def __init__(self, pool: Pool, genes: BlobStore) -> None:
        self._pool = pool
        self._genes = genes

    @property
    def versions(self) -> Mapping[str, str]:
        """Of the first worker."""
        return self._pool.facts[0]

    def evaluate(self, jobs: Iterable[Job]) -> Iterator[Outcome]:
        """Outcomes as they arrive. An individual that no worker survives is an outcome, too."""
        calls = [
            Call(
                key=job.individual,
                kind=_kind(job),
                function=live,
                args=(job.text,),
                blobs=tuple(parent.gene for parent in job.parents),
            )
            for job in jobs
        ]
        with ThreadPoolExecutor(WRITERS, "gtl-writer") as writers:
            for arrived in self._pool.run(calls, self._genes.get_bytes):
                yield from (writers.map if len(arrived) > 1 else map)(self._outcome, arrived)

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """On some worker.

        Raises:
            ClusterError: it cost too many workers.
        """
        name = function.__name__.replace("_", " ")
        (((_, result),),) = self._pool.run([Call(name, name, compute, (function, *args))], self._genes.get_bytes)
        if isinstance(result, Lost):
            raise ClusterError(f"{name}: {result.reason}. Resume the run when the cluster is well again.")
        return result  # type: ignore[no-any-return]

    def _outcome(self, found: tuple[Call, Any]) -> Outcome:
        """Of a call, with its gene on the disk."""
        call, result = found
        if isinstance(result, Lost):
            return Outcome(call.key, "", Evaluation(result.status, reason=result.reason, seconds=result.seconds))
        data, evaluation = result
        return Outcome(call.key, "" if data is None else self._genes.put_bytes(data), evaluation)


def _kind(job: Job) -> str:
    """Jobs that take about as long as each other: a full life must not be given what short heats take."""
    if not job.lives:
        return "criticism"
    return "life" if job.steps is None else f"life of {job.steps} steps"
