"""PoolEvaluator: jobs become calls on a pool of workers, and their results outcomes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

from gtl.errors import ClusterError
from gtl.individual import Evaluation, Job, Outcome
from gtl.population.blobs import BlobStore
from gtl.population.packs import Pack, packs
from gtl.population.retry import Call, Lost
from gtl.population.worker import compute, live, live_pack

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
        pack: lives that a worker trains at once (``compute.pack``).
    """

    def __init__(self, pool: Pool, genes: BlobStore, pack: int = 1) -> None:
        self._pool = pool
        self._genes = genes
        self._pack = pack

    @property
    def versions(self) -> Mapping[str, str]:
        """Of the first worker."""
        return self._pool.facts[0]

    def evaluate(self, jobs: Iterable[Job]) -> Iterator[Outcome]:
        """Outcomes as they arrive. An individual that no worker survives is an outcome, too."""
        by_key = {pack[0].individual: pack for pack in packs(jobs, self._pack)}
        calls = [_call(pack) for pack in by_key.values()]
        with ThreadPoolExecutor(WRITERS, "gtl-writer") as writers:
            for arrived in self._pool.run(calls, self._genes.get_bytes):
                results = [each for call, result in arrived for each in _results(by_key[call.key], result)]
                yield from (writers.map if len(results) > 1 else map)(self._outcome, results)

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

    def _outcome(self, found: tuple[Job, tuple[bytes | None, Evaluation]]) -> Outcome:
        """Of a job, with its gene on the disk."""
        job, (data, evaluation) = found
        return Outcome(job.individual, "" if data is None else self._genes.put_bytes(data), evaluation)


def _call(pack: Pack) -> Call:
    """One call for all that is computed at once; it bears its first individual's name."""
    alone = len(pack) == 1
    return Call(
        key=pack[0].individual,
        kind=_kind(pack[0]) if alone else f"pack of {len(pack)}, each a {_kind(pack[0])}",
        function=live if alone else live_pack,
        args=(pack[0].text if alone else tuple(job.text for job in pack),),
        blobs=tuple(gene for job in pack for gene in job.genes),
        individuals=len(pack),
    )


def _kind(job: Job) -> str:
    """Jobs that take about as long as each other: a full life must not be given what short heats take."""
    if not job.lives:
        return "criticism"
    return "life" if job.steps is None else f"life of {job.steps} steps"


def _results(pack: Pack, result: Any) -> Iterator[tuple[Job, tuple[bytes | None, Evaluation]]]:
    """Gene and evaluation of every member; what is lost is lost for all of them."""
    if isinstance(result, Lost):
        seconds = result.seconds / len(pack)
        result = ((None, Evaluation(result.status, reason=result.reason, seconds=seconds)),) * len(pack)
    elif len(pack) == 1:
        result = (result,)
    return zip(pack, result, strict=True)
