"""How fast a run goes and when it will be done. By wall clock: jobs of several workers overlap."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from gtl.config import Config
from gtl.evolution.racing import rounds
from gtl.individual import Job, Outcome
from gtl.population.manager import Manager
from gtl.population.observer import WorkerReport

Clock = Callable[[], float]


class Left(NamedTuple):
    """Time left.

    Attributes:
        seconds: None as long as nothing is known.
        bound: ``~`` while no life is done and their time is foretold from what steps took before the run, ``>`` where not
            even that is known, ``<`` where patience may end the run earlier, else "".
    """

    seconds: float | None
    bound: str = ""

    @property
    def text(self) -> str:
        """``12:05``, ``~ 12:05``, ``> 12:05``, ``< 12:05``, or ``-`` if unknown."""
        if self.seconds is None:
            return "-"
        return f"{self.bound} {clock_text(self.seconds)}".lstrip()


class Pace:
    """Counts the jobs of the generation under way, and knows how long those to come will take.

    A job costs *worker-seconds*: wall-clock time times the workers there were. Of whole generations that includes the
    end, when workers stand idle because no job is left, so it foretells whole generations. In the first generation of a
    kind the jobs' own seconds stand in: when the first of eight workers is done, the other seven are nearly done.
    Outcomes that a killed driver left behind arrive at once and say nothing about speed.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._whole = {True: (0.0, 0), False: (0.0, 0)}  # worker-seconds and jobs of whole generations; by lives
        self._own = {True: (0.0, 0), False: (0.0, 0)}  # what jobs say they took, and how many said so
        self._spent = 0.0  # worker-seconds of the generation under way
        self._timed = self._timed_images = 0  # of its jobs those that were done in that time
        self._began = self._last = 0.0
        self._workers = 1
        self.generation = self.jobs = self.told = self.failed = self.images = 0
        self.lives = False
        self.best: float | None = None
        self._rate: float | None = None

    def expect(self, images_per_second: float | None) -> None:
        """How fast one worker trains, as it was timed before the run: by this lives are foretold until one is done."""
        self._rate = images_per_second

    def asked(self, jobs: Sequence[Job]) -> None:
        """A generation begins."""
        self.generation, self.jobs = jobs[0].generation if jobs else 0, len(jobs)
        self.told = self.failed = self.images = 0
        self.lives, self.best = any(job.lives for job in jobs), None
        self._began = self._last = self._clock()
        self._spent, self._timed, self._timed_images = 0.0, 0, 0

    def workers(self, report: WorkerReport) -> None:
        """Workers came or went; time before now was spent by those that were there then."""
        if report.ready != self._workers and self.jobs > self.told:
            self._spend(self._clock())
        self._workers = max(1, report.ready)

    def evaluated(self, outcome: Outcome) -> None:
        """A job is done."""
        evaluation, lives = outcome.evaluation, self.lives
        self._spend(self._clock())
        if evaluation.seconds <= self._last - self._began:  # else it was done before this generation was asked for
            self._timed += 1
            self._timed_images += evaluation.images
            if evaluation.seconds > 0:
                seconds, count = self._own[lives]
                self._own[lives] = seconds + evaluation.seconds, count + 1
        self.told += 1
        if self.told == self.jobs:
            seconds, count = self._whole[lives]
            self._whole[lives] = seconds + self._spent, count + self._timed
        self.images += evaluation.images
        if evaluation.ok:
            self.best = max(self.best or 0.0, evaluation.fitness)
        else:
            self.failed += 1

    def finish(self) -> None:
        """No generation is under way any more."""
        self.jobs = self.told = 0

    @property
    def images_per_second(self) -> float:
        """Training images a second in this generation."""
        if not self._timed:
            return 0.0
        seconds = self._last - self._began
        if self._timed < min(self.jobs, self._workers):  # so far each worker has finished one job at most
            seconds = min(seconds, self._timed * (self._per_job(self.lives) or seconds))
        return self._timed_images / max(1e-9, seconds)

    def left(self, manager: Manager) -> Left:
        """Time left until the last generation is done: for the jobs under way and those to come."""
        evolution, critic = manager.config.evolution, manager.config.critic
        births = (
            evolution.population if critic.tasks_change else max(1, evolution.population - evolution.tournament.elite)
        )
        under_way = self.jobs > self.told
        first = max(manager.generation + 1, self.generation + 1 if self.jobs else 0)
        last = manager.generation if manager.done else last_generation(manager)
        to_come = {False: 0, True: 0}
        for generation in range(first, last + 1):
            to_come[generation > evolution.search_generations] += births
        if not under_way and not any(to_come.values()):
            return Left(0.0)
        seconds, unknown = 0.0, False
        raced = bool(evolution.racing.heats)
        known = {lives: self._per_job(lives, raced and lives) for lives in to_come}
        foretold = None
        if known[True] is None and (to_come[True] or (under_way and self.lives)):
            foretold = known[True] = self._foretold(manager.config, births)
        if under_way:
            each = known[self.lives]
            seconds, unknown = (0.0, True) if each is None else (self._left_now(each, raced and self.lives), False)
        for lives, jobs in to_come.items():
            seconds += jobs * (known[lives] or 0.0)
            unknown |= jobs > 0 and known[lives] is None
        if unknown and seconds == 0.0:
            return Left(None)  # all that is left is of a kind that nothing is known of
        bound = (
            ">" if unknown else "~" if foretold is not None else "<" if evolution.patience and not manager.done else ""
        )
        return Left(seconds, bound)

    def _foretold(self, config: Config, births: int) -> float | None:
        """Seconds for each job of a generation that lives, by `expect`: of whole networks, so for circuits rather long."""
        if self._rate is None:
            return None
        evolution, life = config.evolution, config.life
        lives = evolution.population - evolution.tournament.elite
        steps = sum(count * each for count, each in rounds(evolution.racing, lives, life.steps))
        return steps * life.training.batch_size / self._rate / births / self._workers

    def _left_now(self, each: float, raced: bool) -> float:
        """Of this generation: what it will take, less what it has taken, within what the open jobs allow.

        Args:
            each: seconds for each job.
            raced: lives in a race are not alike: the few that are open last may take most of the time.
        """
        open_ = self.jobs - self.told
        most, least = max(open_, self._workers) * each, max(0, open_ - self._workers) * each
        expected = (open_ + self._timed) * each - (self._clock() - self._began)
        return max(0.0, expected) if raced else min(most, max(least, expected))

    def _per_job(self, lives: bool, raced: bool = False) -> float | None:
        """Wall-clock seconds for each job of a generation, with the workers there are now; None if unknown.

        Args:
            raced: whole generations alone tell: those that are done first are the losers, whose lives were short.
        """
        spent, done = self._whole[lives]
        if raced:
            return spent / done / self._workers if done else None
        now, seconds = (self._timed, self._spent) if lives == self.lives and self.told < self.jobs else (0, 0.0)
        if self._workers == 1:  # nothing overlaps: the jobs of this generation count like all before
            return (spent + seconds) / (done + now) if done + now else None
        own, count = self._own[lives]
        if done:
            each = spent / done
        elif count:
            each = own / count
        else:
            return seconds / now / self._workers if now else None
        # were all jobs under way done now, this generation's would have taken at least so long
        return max(each, seconds / (now + self._workers)) / self._workers

    def _spend(self, now: float) -> None:
        self._spent += (now - self._last) * self._workers
        self._last = now


def last_generation(manager: Manager) -> int:
    """Number of the last generation, unless patience ends the run before."""
    return manager.config.evolution.search_generations + manager.config.evolution.generations


def clock_text(seconds: float) -> str:
    """``0:42``, ``12:05`` or ``3:07:00``."""
    whole = round(seconds)
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
