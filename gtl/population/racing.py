"""RacingEvaluator: a generation's lives are tried in short heats, and only the best of them live in full."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import pairwise

from gtl.evolution.racing import rounds, winners
from gtl.individual import Evaluation, Job, Outcome, Status
from gtl.life import World
from gtl.population.evaluator import AroundEvaluator, Evaluator

NOTHING = Evaluation(Status.OK)  # what was spent before the first heat


class RacingEvaluator(AroundEvaluator):
    """Races jobs that live (``evolution.racing``); without heats, and for all other jobs, it is the evaluator given.

    A heat is the same job with fewer steps and a whole schedule over them, so its gene is annealed and as valid as any.
    Who goes on is born again and lives in full: jobs stay pure values, and no half-trained host has to be kept. Every
    job has one outcome: that of its last round, be it good or bad, with the images and seconds of all its rounds, and
    the steps of the last one among its metrics.

    Args:
        evaluator: evaluates each round. Where it remembers, a race that was cut off goes on where it was.
        world: of the run.
    """

    def __init__(self, evaluator: Evaluator, world: World) -> None:
        super().__init__(evaluator)
        self._config = world.config
        self._layout = world.layout

    def evaluate(self, jobs: Iterable[Job]) -> Iterator[Outcome]:
        """One outcome for every job: as they arrive, but lives not before they are out or have lived in full."""
        jobs = list(jobs)
        racers = [job for job in jobs if job.lives]
        others = [job for job in jobs if not job.lives]
        racing = self._config.evolution.racing
        if not racing.heats or not racers:
            yield from self._evaluator.evaluate(jobs)
            return
        score, full = self._config.evolution.score, self._config.life.steps
        spent = dict.fromkeys((job.individual for job in racers), NOTHING)
        for (_, steps), (places, _) in pairwise(rounds(racing, len(racers), full)):
            if len(racers) <= places:  # so many have failed: a heat would decide nothing
                continue
            heat, found = [replace(job, steps=steps) for job in racers], dict[str, Outcome]()
            for outcome in self._evaluator.evaluate([*heat, *others]):
                if outcome.individual in spent:
                    found[outcome.individual] = _summed(outcome, spent, steps)
                else:
                    yield outcome
            spent = {name: outcome.evaluation for name, outcome in found.items()}
            out = racers
            racers, others = winners(racers, spent, places, self._layout, score), []
            goes_on = {job.individual for job in racers}
            yield from (found[job.individual] for job in out if job.individual not in goes_on)
        for outcome in self._evaluator.evaluate([*racers, *others]):
            yield _summed(outcome, spent, full) if outcome.individual in spent else outcome


def _summed(outcome: Outcome, spent: Mapping[str, Evaluation], steps: int) -> Outcome:
    """The outcome of a round, with what the individual had spent before it."""
    last, before = outcome.evaluation, spent[outcome.individual]
    whole = replace(
        last,
        images=before.images + last.images,
        seconds=before.seconds + last.seconds,
        metrics={**last.metrics, "steps": steps},
    )
    return replace(outcome, evaluation=whole)
