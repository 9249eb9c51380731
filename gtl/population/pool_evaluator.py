"""PoolEvaluator: jobs become calls on a pool of workers, and their results outcomes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol, TypeVar

from gtl.errors import ClusterError
from gtl.individual import Evaluation, Job, Outcome
from gtl.population.blobs import BlobStore
from gtl.population.retry import Call, Lost
from gtl.population.worker import compute, live

T = TypeVar("T")


class Pool(Protocol):
    """Workers that run calls; see RayPool."""

    @property
    def facts(self) -> list[Mapping[str, str]]:
        """What distinct workers said of themselves; at least one."""
        ...

    def run(self, calls: Iterable[Call], fetch: Callable[[str], bytes]) -> Iterator[tuple[Call, Any]]:
        """Calls and their results, or Lost."""
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
                kind="life" if job.lives else "criticism",
                function=live,
                args=(job,),
                blobs=tuple(parent.gene for parent in job.parents),
            )
            for job in jobs
        ]
        for call, result in self._pool.run(calls, self._genes.get_bytes):
            if isinstance(result, Lost):
                yield Outcome(call.key, "", Evaluation(result.status, reason=result.reason, seconds=result.seconds))
                continue
            data, evaluation = result
            yield Outcome(call.key, "" if data is None else self._genes.put_bytes(data), evaluation)

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """On some worker.

        Raises:
            ClusterError: it cost too many workers.
        """
        name = function.__name__.replace("_", " ")
        ((_, result),) = self._pool.run([Call(name, name, compute, (function, *args))], self._genes.get_bytes)
        if isinstance(result, Lost):
            raise ClusterError(f"{name}: {result.reason}. Resume the run when the cluster is well again.")
        return result  # type: ignore[no-any-return]
