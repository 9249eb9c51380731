"""Racing (successive halving): who lives how long. All of a generation live a short heat; only the best live in full."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from gtl.config import RacingSection, ScoreSection
from gtl.evolution.fitness import raw_score
from gtl.individual import Evaluation, Individual, Job
from gtl.layout import ChannelLayout


def rounds(section: RacingSection, lives: int, whole: int) -> list[tuple[int, int]]:
    """``(lives, steps of each)`` of the heats that `lives` children run, and at last of the full lives.

    A heat after which all would go on is left out: it would decide nothing.

    Args:
        section: heats, and the share that goes on after each: rounded, at least one.
        lives: how many children live in this generation.
        whole: optimiser steps of a full life.
    """
    found = []
    for steps in section.steps(whole):
        places = max(1, round(section.keep * lives))
        if places < lives:
            found.append((lives, steps))
            lives = places
    return [*found, (lives, whole)]


def winners(
    jobs: Iterable[Job], found: Mapping[str, Evaluation], places: int, layout: ChannelLayout, section: ScoreSection
) -> list[Job]:
    """The jobs that go on after a heat: those with the best score, in the order in which they were asked for.

    The score is the newborn's as selection sees it, with the gene's size in it: otherwise a heat would prefer genes that
    selection then drops. Of equals those go on that were asked for first. What failed does not go on.

    Args:
        found: evaluation of every job, by individual.
        places: at most so many go on.
    """
    runners = [(Individual(j.individual, j.generation, j.genotype, evaluation=found[j.individual]), j) for j in jobs]
    able = [(raw_score(individual, layout, section), job) for individual, job in runners if individual.ok]
    best = sorted(able, key=lambda pair: -pair[0])[:places]  # stable: equals stay as they were asked for
    chosen = {job.individual for _, job in best}
    return [job for _, job in runners if job.individual in chosen]
