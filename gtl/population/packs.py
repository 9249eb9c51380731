"""Packs: which lives a worker trains at once. Rounding depends on them, so they hang on the order asked and nothing else."""

from __future__ import annotations

from collections.abc import Iterable

from gtl.individual import Job

Pack = tuple[Job, ...]


def packs(jobs: Iterable[Job], size: int) -> list[Pack]:
    """What is computed at once: lives in the order asked, `size` at a time; every other job by itself.

    Every pack but the last is full. So whoever leaves out whole packs (those that are finished already) and hands on the
    rest in their order hands on the same packs, whoever cuts them again.

    Args:
        size: lives in a pack; the last may have fewer.
    """
    jobs = list(jobs)
    lives = [job for job in jobs if job.lives]
    firsts = {lives[n].individual: tuple(lives[n : n + size]) for n in range(0, len(lives), size)}
    return [firsts.get(job.individual, (job,)) for job in jobs if not job.lives or job.individual in firsts]
