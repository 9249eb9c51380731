"""Few-shot evaluation of starts: instinct (no training) and descendants (the same fine-tuning for every start).

A *start* is a way to make a newborn network. Its learning rate is chosen on validation classes, its result is measured
on novel classes, and every start meets the same images with the same seeds, so differences are paired.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from gtl.config import FewShotSection
from gtl.critic import last_features, nearest_class_mean
from gtl.data.episodes import Episode, episodes_digest, sample_episodes
from gtl.data.images import ImageSet, refuse_novel
from gtl.models import ConvNet
from gtl.seeds import derive, rng
from gtl.stats import Estimate, estimate, paired_difference
from gtl.training import Compute, Progress, accuracy, train

# A start: number of classes and a seed -> a newborn network.
Start = Callable[[int, int], ConvNet]
Advance = Callable[[str], None]
Rates = dict[tuple[str, int], float]  # (start, shots) -> learning rate

SCRATCH = "scratch"
SELECTION_SEEDS = 2  # draws of validation images that a learning rate is chosen on
CURVE = (1 / 8, 1 / 3)  # shares of the training after which accuracy is measured


@dataclass(frozen=True)
class StartResult:
    """What one start gave.

    Attributes:
        start: its name.
        shots: training images a class.
        learning_rate: chosen on validation classes.
        accuracies: one per seed, on novel classes.
        gain: paired difference to scratch; None for scratch itself.
        curve: (training step, mean accuracy over the seeds), from birth to the end.
    """

    start: str
    shots: int
    learning_rate: float
    accuracies: tuple[float, ...]
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
            "accuracy": self.accuracy.to_json(),
            "gain": None if self.gain is None else self.gain.to_json(),
            "curve": [list(point) for point in self.curve],
        }


@dataclass(frozen=True)
class InstinctResult:
    """Nearest-class-mean accuracy of newborns that never trained, over episodes (sampler interval)."""

    start: str
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
) -> list[tuple[int, float]]:
    """(step, accuracy on `test`) of a descendant born from `start` while it trains on `fit`: its learning curve.

    Args:
        moments: shares of the training after which accuracy is measured, besides birth and end. Empty: only the end.

    Returns:
        The last entry is the result. Training that diverges scores chance.
    """
    network = start(fit.n_classes, derive(seed, "newborn"))
    recipe = section.training.model_copy(update={"learning_rate": learning_rate})
    curve = [(0, accuracy(network, test, compute))] if moments else []
    due = [max(1, round(share * section.steps)) for share in moments]

    def on_epoch(progress: Progress) -> None:
        if due and progress.step >= due[0]:
            curve.append((progress.step, accuracy(network, test, compute)))
            due[:] = [step for step in due if step > progress.step]

    seed = derive(seed, "fine-tune")
    result = train(network, fit, recipe, steps=section.steps, seed=seed, compute=compute, on_epoch=on_epoch)
    curve.append((section.steps, accuracy(network, test, compute) if result.finite else 1.0 / fit.n_classes))
    return curve


def choose_rates(
    starts: Mapping[str, Start],
    val: ImageSet,
    section: FewShotSection,
    seed: int,
    compute: Compute,
    *,
    advance: Advance = lambda message: None,
) -> Rates:
    """For every start and number of shots, the learning rate whose descendants do best on validation classes.

    Raises:
        NovelClassesError: `val` holds novel classes.
        DataError: a validation class has too few images.
    """
    refuse_novel(val, "the choice of learning rates")
    rates: Rates = {}
    for shots in section.shots:
        test_images = max(1, min(section.test_images, min(val.class_counts.values()) - shots))
        for name, start in starts.items():
            means = []
            for rate in section.learning_rates if len(section.learning_rates) > 1 else ():
                found = []
                for number in range(SELECTION_SEEDS):
                    fit, test = val.draw_per_class(rng(seed, "rate", shots, number), shots, test_images)
                    curve = fine_tune(
                        start, fit, test, section, rate, derive(seed, "rate", number), compute, moments=()
                    )
                    found.append(curve[-1][1])
                means.append(sum(found) / len(found))
            best = max(range(len(means)), key=means.__getitem__) if means else 0
            rates[name, shots] = section.learning_rates[best]
            advance(f"learning rate of {name} for {shots} shots: {rates[name, shots]}")
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
) -> list[StartResult]:
    """Train descendants of every start on the novel classes, with the same images, seeds and budget.

    Args:
        starts: name -> start; must hold SCRATCH, which gains are measured against.
        rates: learning rate of every (start, shots), see `choose_rates`.

    Raises:
        DataError: a class has too few images for the shots and test images asked for.
    """
    results = []
    for shots in section.shots:
        baseline: tuple[float, ...] = ()
        for name in sorted(starts, key=lambda name: name != SCRATCH):  # scratch first
            curves = []
            for number in range(section.seeds):
                fit, test = novel.draw_per_class(rng(seed, "novel images", shots, number), shots, section.test_images)
                rate = rates[name, shots]
                curves.append(fine_tune(starts[name], fit, test, section, rate, derive(seed, "novel", number), compute))
                advance(f"{name}, {shots} shots, seed {number + 1} of {section.seeds}")
            found = tuple(curve[-1][1] for curve in curves)
            baseline = found if name == SCRATCH else baseline
            gain = None if name == SCRATCH else paired_difference(found, baseline)
            results.append(StartResult(name, shots, rate, found, estimate(found), gain, _mean_curve(curves)))
    return results


def _mean_curve(curves: Sequence[Sequence[tuple[int, float]]]) -> tuple[tuple[int, float], ...]:
    """Mean over the seeds at every moment; the moments are the same for all."""
    return tuple(
        (points[0][0], sum(value for _, value in points) / len(points)) for points in zip(*curves, strict=True)
    )


def instinct(
    starts: Mapping[str, Start],
    images: ImageSet,
    *,
    n_way: int,
    n_shot: int,
    n_query: int,
    episodes: int,
    seed: int,
    compute: Compute,
) -> list[InstinctResult]:
    """N-way K-shot nearest-class-mean episodes on the frozen features of newborns: what a network can do unlearned."""
    listed = sample_episodes(images, n_way, n_shot, n_query, episodes, derive(seed, "episodes"))
    digest = episodes_digest(listed)
    results = []
    for name, start in starts.items():
        features = last_features(start(n_way, derive(seed, "newborn")), images, compute)
        found = [_episode_accuracy(features, episode) for episode in listed]
        results.append(InstinctResult(name, n_way, n_shot, estimate(found), digest))
    return results


def _episode_accuracy(features: torch.Tensor, episode: Episode) -> float:
    support, query = torch.from_numpy(episode.support), torch.from_numpy(episode.query)
    labels = torch.arange(len(support), device=features.device)
    fit = features[support.flatten().to(features.device)]
    score = features[query.flatten().to(features.device)]
    found = nearest_class_mean(fit, labels.repeat_interleave(support.shape[1]), score)
    return float((found == labels.repeat_interleave(query.shape[1])).double().mean())
