"""Few-shot evaluation of starts: instinct (no training) and descendants (the same fine-tuning for every start).

A *start* is a way to make a newborn network. Its learning rate is chosen on validation classes, its result is measured
on novel classes, and every start meets the same images with the same seeds, so differences are paired.

A descendant is a pure function of an `Arena` and a `Trial`, so trials may run anywhere and in any order (`gtl.trials`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch

from gtl.config import FewShotSection, TrainingSection
from gtl.critic import k_nearest, last_features, nearest_class_mean
from gtl.data.episodes import Episode, episodes_digest, sample_episodes
from gtl.data.images import ImageSet, refuse_novel
from gtl.models import ConvNet
from gtl.seeds import derive, rng
from gtl.stats import Estimate, estimate, paired_difference
from gtl.training import Compute, Progress, TrainingResult, accuracy, hits, train

# A start: number of classes and a seed -> a newborn network, which maps images to logits. It may have an attribute
# `training`, a `Training` that its descendants are trained by, and a `digest`, by which its trials are recognised.
Start = Callable[[int, int], torch.nn.Module]
# One whose newborns also give features, which instinct goes by.
FeatureStart = Callable[[int, int], ConvNet]
Advance = Callable[[str], None]
Rates = dict[tuple[str, int], float]  # (start, shots) -> learning rate

SCRATCH = "scratch"
SELECTION_SEEDS = 2  # draws of validation images that a learning rate is chosen on
CURVE = (1 / 8, 1 / 3)  # shares of the training after which accuracy is measured


class Training(Protocol):
    """How descendants are trained, where it is otherwise than by `gtl.training.train` alone. A value: it can be sent to
    another process."""

    @property
    def digest(self) -> str:
        """Hash of everything that its results depend on, its code included."""

    def train(
        self,
        network: torch.nn.Module,
        images: ImageSet,
        recipe: TrainingSection,
        *,
        steps: int,
        seed: int,
        compute: Compute,
        on_epoch: Callable[[Progress], None] | None = None,
    ) -> TrainingResult:
        """Train `network` in place, by `gtl.training.train` and whatever comes with it; all arguments as there.

        The result counts all images that were trained on, also those that other networks saw.
        """


def training_of(start: Start) -> Training | None:
    """How the descendants of a start are trained; None: by `gtl.training.train`."""
    return getattr(start, "training", None)


@dataclass(frozen=True)
class Trial:
    """One descendant to be trained and tested.

    Attributes:
        purpose: ``rate``: to choose a learning rate on validation classes, only the end is measured; ``novel``: the
            comparison itself, with its learning curve.
        start: name of the start.
        shots: training images a class.
        learning_rate: of the fine-tuning.
        number: of the repetition; the same number means the same images and seeds for every start.
    """

    purpose: Literal["rate", "novel"]
    start: str
    shots: int
    learning_rate: float
    number: int

    def __str__(self) -> str:
        aim = f"learning rate {self.learning_rate:g}, " if self.purpose == "rate" else ""
        return f"{self.start}, {self.shots} shots, {aim}seed {self.number + 1}"


@dataclass(frozen=True)
class Descendant:
    """What became of a descendant.

    Attributes:
        curve: (training step, accuracy), from birth to the end; only the end where nothing else was asked for.
        by_class: accuracy at the end on each class, in the order of the classes.
    """

    curve: tuple[tuple[int, float], ...]
    by_class: tuple[float, ...]

    @property
    def accuracy(self) -> float:
        """Accuracy at the end."""
        return self.curve[-1][1]


@dataclass(frozen=True, eq=False)
class Arena:
    """All that a trial depends on besides itself.

    Attributes:
        starts: by name.
        images: what descendants learn and are tested on.
        section: the protocol; its seeds, shots and learning rates are the trials'.
        seed: of all draws.
        compute: where.
    """

    starts: Mapping[str, Start]
    images: ImageSet
    section: FewShotSection
    seed: int
    compute: Compute

    def trial(self, trial: Trial) -> Descendant:
        """Draw the images, bear the descendant, train it and test it.

        Raises:
            DataError: a class has too few images.
        """
        choosing = trial.purpose == "rate"
        left = min(self.images.class_counts.values()) - trial.shots
        tests = max(1, min(self.section.test_images, left)) if choosing else self.section.test_images
        draw = rng(self.seed, "rate" if choosing else "novel images", trial.shots, trial.number)
        fit, test = self.images.draw_per_class(draw, trial.shots, tests)
        seed = derive(self.seed, trial.purpose, trial.number)
        moments = () if choosing else CURVE
        start = self.starts[trial.start]
        return fine_tune(start, fit, test, self.section, trial.learning_rate, seed, self.compute, moments)


# Runs trials, in any order and anywhere, and gives back what became of them in the order asked for.
Run = Callable[[Arena, Sequence[Trial], Advance], list[Descendant]]


def run_here(arena: Arena, trials: Sequence[Trial], advance: Advance) -> list[Descendant]:
    """One trial after the other, in this process."""
    found = []
    for trial in trials:
        found.append(arena.trial(trial))
        advance(str(trial))
    return found


@dataclass(frozen=True)
class StartResult:
    """What one start gave.

    Attributes:
        start: its name.
        shots: training images a class.
        learning_rate: chosen on validation classes.
        accuracies: one per seed, on novel classes.
        by_class: for each seed the accuracy on every class.
        gain: paired difference to scratch; None for scratch itself.
        curve: (training step, mean accuracy over the seeds), from birth to the end.
    """

    start: str
    shots: int
    learning_rate: float
    accuracies: tuple[float, ...]
    by_class: tuple[tuple[float, ...], ...]
    accuracy: Estimate
    gain: Estimate | None
    curve: tuple[tuple[int, float], ...]

    def to_json(self) -> dict[str, Any]:
        """Plain form."""
        return {
            "start": self.start,
            "shots": self.shots,
            "learning_rate": self.learning_rate,
            "accuracies": list(self.accuracies),
            "by_class": [[round(value, 6) for value in row] for row in self.by_class],
            "accuracy": self.accuracy.to_json(),
            "gain": None if self.gain is None else self.gain.to_json(),
            "curve": [list(point) for point in self.curve],
        }


@dataclass(frozen=True)
class InstinctResult:
    """Accuracy of newborns that never trained, over episodes (sampler interval).

    Attributes:
        method: how features become classes: ``nearest class mean`` or ``k nearest neighbours``.
    """

    start: str
    method: str
    n_way: int
    n_shot: int
    accuracy: Estimate
    episodes_digest: str

    def to_json(self) -> dict[str, Any]:
        """Plain form."""
        return {**vars(self), "accuracy": self.accuracy.to_json()}


def fine_tune(
    start: Start,
    fit: ImageSet,
    test: ImageSet,
    section: FewShotSection,
    learning_rate: float,
    seed: int,
    compute: Compute,
    moments: Sequence[float] = CURVE,
) -> Descendant:
    """A descendant born from `start`, trained on `fit` (in the start's own way, if it has one) and tested on `test`.

    Args:
        moments: shares of the training after which accuracy is measured, besides birth and end. Empty: only the end.

    Returns:
        Training that diverges scores chance.
    """
    network = start(fit.n_classes, derive(seed, "newborn"))
    return bring_up(network, training_of(start), fit, test, section, learning_rate, seed, compute, moments)[0]


def bring_up(
    network: torch.nn.Module,
    training: Training | None,
    fit: ImageSet,
    test: ImageSet,
    section: FewShotSection,
    learning_rate: float,
    seed: int,
    compute: Compute,
    moments: Sequence[float] = CURVE,
) -> tuple[Descendant, TrainingResult]:
    """`fine_tune` of a newborn that is there already, which is trained in place, and how its training ended.

    Args:
        training: None: by `gtl.training.train`.
    """
    recipe = section.training.model_copy(update={"learning_rate": learning_rate})
    curve = [(0, accuracy(network, test, compute))] if moments else []
    due = [max(1, round(share * section.steps)) for share in moments]

    def on_epoch(progress: Progress) -> None:
        if due and progress.step >= due[0]:
            curve.append((progress.step, accuracy(network, test, compute)))
            due[:] = [step for step in due if step > progress.step]

    seed = derive(seed, "fine-tune")
    learn = train if training is None else training.train
    result = learn(network, fit, recipe, steps=section.steps, seed=seed, compute=compute, on_epoch=on_epoch)
    if not result.finite:
        chance = 1.0 / fit.n_classes
        return Descendant((*curve, (section.steps, chance)), (chance,) * fit.n_classes), result
    right, labels = hits(network, test, compute).cpu(), test.labels.cpu()
    counts = torch.bincount(labels, minlength=test.n_classes)
    by_class = torch.bincount(labels[right], minlength=test.n_classes) / counts
    reached = (section.steps, int(right.sum()) / len(labels))
    return Descendant((*curve, reached), tuple(by_class.tolist())), result


def choose_rates(
    starts: Mapping[str, Start],
    val: ImageSet,
    section: FewShotSection,
    seed: int,
    compute: Compute,
    *,
    advance: Advance = lambda message: None,
    run: Run = run_here,
) -> Rates:
    """For every start and number of shots, the learning rate whose descendants do best on validation classes.

    Raises:
        NovelClassesError: `val` holds novel classes.
        DataError: a validation class has too few images.
    """
    refuse_novel(val, "the choice of learning rates")
    candidates = section.learning_rates
    asked = [(name, shots) for shots in section.shots for name in starts]
    if len(candidates) == 1:
        return dict.fromkeys(asked, candidates[0])
    numbers = range(SELECTION_SEEDS)
    trials = [Trial("rate", name, shots, rate, n) for name, shots in asked for rate in candidates for n in numbers]
    found = run(Arena(starts, val, section, seed, compute), trials, advance)
    sums: dict[tuple[str, int], dict[float, float]] = {}
    for trial, descendant in zip(trials, found, strict=True):
        of = sums.setdefault((trial.start, trial.shots), dict.fromkeys(candidates, 0.0))
        of[trial.learning_rate] += descendant.accuracy
    rates = {key: max(candidates, key=of.__getitem__) for key, of in sums.items()}
    for (name, shots), rate in rates.items():
        advance(f"learning rate of {name} for {shots} shots: {rate}")
    return rates


def compare_starts(
    starts: Mapping[str, Start],
    novel: ImageSet,
    section: FewShotSection,
    rates: Rates,
    seed: int,
    compute: Compute,
    *,
    advance: Advance = lambda message: None,
    run: Run = run_here,
) -> list[StartResult]:
    """Train descendants of every start on the novel classes, with the same images, seeds and budget.

    Args:
        starts: name -> start; must hold SCRATCH, which gains are measured against.
        rates: learning rate of every (start, shots), see `choose_rates`.

    Raises:
        DataError: a class has too few images for the shots and test images asked for.
    """
    names = sorted(starts, key=lambda name: name != SCRATCH)  # scratch first
    asked = [(name, shots) for shots in section.shots for name in names]
    trials = [
        Trial("novel", n, shots, rates[n, shots], number) for n, shots in asked for number in range(section.seeds)
    ]
    descendants = iter(run(Arena(starts, novel, section, seed, compute), trials, advance))
    results = []
    baseline: tuple[float, ...] = ()
    for name, shots in asked:
        found = [next(descendants) for _ in range(section.seeds)]
        reached = tuple(descendant.accuracy for descendant in found)
        baseline = reached if name == SCRATCH else baseline
        gain = None if name == SCRATCH else paired_difference(reached, baseline)
        by_class = tuple(descendant.by_class for descendant in found)
        curve = _mean_curve([descendant.curve for descendant in found])
        rate = rates[name, shots]
        results.append(StartResult(name, shots, rate, reached, by_class, estimate(reached), gain, curve))
    return results


def _mean_curve(curves: Sequence[Sequence[tuple[int, float]]]) -> tuple[tuple[int, float], ...]:
    """Mean over the seeds at every moment; the moments are the same for all."""
    return tuple(
        (points[0][0], sum(value for _, value in points) / len(points)) for points in zip(*curves, strict=True)
    )


def instinct(
    starts: Mapping[str, FeatureStart],
    images: ImageSet,
    *,
    n_way: int,
    n_shot: int,
    n_query: int,
    episodes: int,
    seed: int,
    compute: Compute,
) -> list[InstinctResult]:
    """N-way K-shot episodes on the frozen features of newborns: what a network can do without any learning.

    Every start meets the same episodes twice: by nearest class mean, and by k nearest neighbours.
    """
    listed = sample_episodes(images, n_way, n_shot, n_query, episodes, derive(seed, "episodes"))
    digest = episodes_digest(listed)
    results = []
    for name, start in starts.items():
        features = last_features(start(n_way, derive(seed, "newborn")), images, compute)
        for method, classify in CLASSIFIERS.items():
            found = [_episode_accuracy(features, episode, classify) for episode in listed]
            results.append(InstinctResult(name, method, n_way, n_shot, estimate(found), digest))
    return results


# Features and labels to learn from, features to classify -> labels.
Classify = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
CLASSIFIERS: dict[str, Classify] = {"nearest class mean": nearest_class_mean, "k nearest neighbours": k_nearest}


def _episode_accuracy(features: torch.Tensor, episode: Episode, classify: Classify) -> float:
    support, query = torch.from_numpy(episode.support), torch.from_numpy(episode.query)
    labels = torch.arange(len(support), device=features.device)
    fit = features[support.flatten().to(features.device)]
    score = features[query.flatten().to(features.device)]
    found = classify(fit, labels.repeat_interleave(support.shape[1]), score)
    return float((found == labels.repeat_interleave(query.shape[1])).double().mean())
