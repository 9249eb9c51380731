"""Critics: novel classes are refused, everyone meets the same tasks, and a gene that has learned beats one that has not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from pico import ARCHS, CPU, gratings, random_genotype, spec, within_binomial
from torch.nn import functional as F

from gtl.config import CriticSection, TrainingSection
from gtl.critic import (
    CRITICS,
    CriticTask,
    Gene,
    criticise,
    draw_tasks,
    k_nearest,
    last_features,
    leave_one_out_accuracy,
    nearest_class_mean,
    pooled_features,
    ridge_accuracy,
)
from gtl.data.augment import to_input
from gtl.data.images import ImageSet
from gtl.errors import DataError, NovelClassesError
from gtl.models import ConvNet, build
from gtl.surgery import gather
from gtl.training import train

SECTION = CriticSection(fit_images=10, score_images=15, steps=20)


@pytest.fixture(scope="module")
def val() -> ImageSet:
    return gratings(8, 30, "val", noisy=0.5)


@pytest.fixture(scope="module")
def learned() -> ConvNet:
    """A network that was trained on the train classes."""
    network = build(spec("vgg11", classes=8), 0)
    recipe = TrainingSection(batch_size=32, crop_padding=2)
    train(network, gratings(8, 40, "train", noisy=0.5), recipe, steps=120, seed=1, compute=CPU)
    return network


def whole(network: ConvNet) -> Gene:
    full = network.layout.full()
    return Gene(network.spec, full, gather(network.state_dict(), network.layout, full))


def rows(images: ImageSet) -> list[tuple[str, bytes]]:
    """Class name and bytes of every image."""
    return [
        (images.class_names[label], pixels.numpy().tobytes())
        for label, pixels in zip(images.labels.tolist(), images.images, strict=True)
    ]


def listed(tasks: list[CriticTask]) -> list[tuple[list[tuple[str, bytes]], list[tuple[str, bytes]]]]:
    return [(rows(task.fit), rows(task.score)) for task in tasks]


# --- tasks ---------------------------------------------------------------------------------------------------------


def test_novel_classes_are_refused(val: ImageSet) -> None:
    with pytest.raises(NovelClassesError, match=r"the critic was given the novel classes of gratings"):
        draw_tasks(gratings(4, 30, "novel"), SECTION, 1, 1)
    with pytest.raises(NovelClassesError):
        draw_tasks(replace(val, role="novel"), SECTION, 1, 1)


def test_the_same_seed_sets_the_same_tasks(val: ImageSet) -> None:
    section = SECTION.model_copy(update={"n_way": 3})
    tasks = listed(draw_tasks(val, section, 7, 3))
    assert tasks == listed(draw_tasks(val, section, 7, 3))
    assert tasks[:2] == listed(draw_tasks(val, section, 7, 2)), "asking for more keeps the first"
    assert tasks != listed(draw_tasks(val, section, 8, 3))
    assert len({str(task) for task in tasks}) == 3, "tasks of one seed differ"


@pytest.mark.parametrize("n_way", [None, 2, 5])
def test_fit_and_score_images_are_disjoint_and_balanced(val: ImageSet, n_way: int | None) -> None:
    known = set(rows(val))
    assert len(known) == len(val.labels), "no two images are alike"
    for task in draw_tasks(val, SECTION.model_copy(update={"n_way": n_way}), 3, 4):
        fit, score = set(rows(task.fit)), set(rows(task.score))
        assert not fit & score and fit | score <= known
        assert task.fit.class_names == task.score.class_names and len(set(task.fit.class_names)) == (n_way or 8)
        assert set(task.fit.class_counts.values()) == {10} and set(task.score.class_counts.values()) == {15}
        assert task.fit.role == task.score.role == "val"


def test_too_few_images_are_refused_by_name(val: ImageSet) -> None:
    with pytest.raises(DataError, match=r"class 'val-\d' has 30 images, 31 are needed"):
        draw_tasks(val, CriticSection(fit_images=16, score_images=15), 0, 1)


# --- ridge ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("ridge", [1e-3, 0.1, 10.0])
@pytest.mark.parametrize(("features", "samples"), [(12, 60), (80, 30)])
def test_ridge_is_the_primal_closed_form(seed: int, ridge: float, features: int, samples: int) -> None:
    """(X'X + aI) w = X'y on standardised features and centred one-hot targets, one column a class."""
    draw = np.random.default_rng(seed)
    labels = np.arange(samples) % 4
    centres = 0.7 * draw.standard_normal((4, features))
    fit = centres[labels] + draw.standard_normal((samples, features)) * draw.uniform(0.1, 9, features) + 5
    fit[:, 0] = 3.0  # a dead feature
    score = np.concatenate([centres[labels] + 5 + draw.standard_normal((samples, features)) for _ in range(3)])
    mean, std = fit.mean(0), fit.std(0, ddof=1)
    std[0] = 1.0
    x, z = (fit - mean) / std, (score - mean) / std
    targets = np.eye(4)[labels]
    penalty = ridge * (x**2).sum(1).mean()
    weights = np.linalg.solve(x.T @ x + penalty * np.eye(features), x.T @ (targets - targets.mean(0)))
    predicted = (z @ weights + targets.mean(0)).argmax(1)
    tensors = [torch.from_numpy(array) for array in (fit, labels, score)]
    assert ridge_accuracy(*tensors, torch.from_numpy(predicted), ridge) == 1.0, "every prediction is the same"
    assert ridge_accuracy(*tensors, torch.from_numpy((predicted + 1) % 4), ridge) == 0.0
    half = np.where(np.arange(len(predicted)) % 2, predicted, (predicted + 1) % 4)
    assert ridge_accuracy(*tensors, torch.from_numpy(half), ridge) == 0.5


@pytest.mark.parametrize("ridge", [1e-3, 0.1, 10.0])
@pytest.mark.parametrize(("features", "samples"), [(6, 40), (80, 30)])
def test_leave_one_out_is_a_fit_without_each_image(ridge: float, features: int, samples: int) -> None:
    """N fits, each to all images but one, on features of one scale with one regulariser."""
    draw = np.random.default_rng(features)
    labels = np.arange(samples) % 4
    x = 2.0 * features**-0.5 * draw.standard_normal((4, features))[labels] + draw.standard_normal((samples, features))
    x = x * draw.uniform(0.1, 9, features) + 5
    scaled, targets = x / x.std(0, ddof=1), np.eye(4)[labels]
    penalty = ridge * ((scaled - scaled.mean(0)) ** 2).sum(1).mean()
    right = []
    for left in range(samples):
        rest = np.arange(samples) != left
        mean = scaled[rest].mean(0)
        z, y = scaled[rest] - mean, targets[rest] - targets[rest].mean(0)
        weights = np.linalg.solve(z.T @ z + penalty * np.eye(features), z.T @ y)
        right.append(((scaled[left] - mean) @ weights).argmax() == labels[left])
    found = leave_one_out_accuracy(torch.from_numpy(x), torch.from_numpy(labels), ridge)
    assert found == pytest.approx(np.mean(right)) and 0.3 < found < 1.0


@pytest.mark.parametrize("ridge", [1e-4, 0.1])
def test_leave_one_out_of_noise_is_chance(ridge: float) -> None:
    """Also with more features than images, where centring by all images would tell the left-out one's class."""
    draw, labels = torch.Generator().manual_seed(2), torch.arange(4).repeat_interleave(50)
    noise = torch.randn(200, 500, generator=draw)
    right = round(200 * leave_one_out_accuracy(noise, labels, ridge))
    assert within_binomial(right, 200, 0.25, sigmas=3)


def test_pooled_features_look_at_every_group(val: ImageSet, learned: ConvNet) -> None:
    some = val.take_classes([0, 3])
    features = pooled_features(learned, some, CPU)
    assert features.shape == (60, 4 * sum(learned.widths.values())) and features.dtype == torch.float32
    with torch.no_grad():
        found = learned.eval().activations(to_input(some.images))
    plain = torch.cat([F.adaptive_avg_pool2d(a, 2).flatten(1) for a in found.values()], 1)
    torch.testing.assert_close(features, plain)
    torch.testing.assert_close(last_features(learned, some, CPU), found["conv8"].mean((2, 3)))
    deepest = 4 * sum(list(learned.widths.values())[-2:])
    assert torch.equal(pooled_features(learned, some, CPU, depths=2), features[:, -deepest:])
    assert torch.equal(pooled_features(learned, some, CPU, depths=99), features)


def test_k_nearest_by_hand() -> None:
    """Three to vote, since a class has three: one close neighbour of class 0 loses to two of class 1 a little farther off."""
    fit = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [-1.0, 0.1], [0.9, 0.3], [0.9, -0.3], [0.0, -1.0]])
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    score = torch.tensor([[2.0, 0.0], [-3.0, 0.2], [0.0, -0.5]])
    assert k_nearest(fit, labels, score).tolist() == [1, 0, 1]
    assert k_nearest(fit[[0, 3]], labels[[0, 3]], score[:1]).tolist() == [0], "one image a class: the nearest"


def test_nearest_class_mean_by_hand() -> None:
    fit = torch.tensor([[2.0, 0.0], [4.0, 0.0], [0.0, 1.0], [0.0, 9.0]])
    score = torch.tensor([[9.0, 1.0], [0.1, 0.2], [1.0, 0.9]])
    assert nearest_class_mean(fit, torch.tensor([0, 0, 1, 1]), score).tolist() == [0, 1, 0]
    draw = torch.Generator().manual_seed(0)
    fit, score = torch.randn(20, 5, generator=draw), torch.randn(30, 5, generator=draw)
    labels = torch.arange(4).repeat_interleave(5)
    unit = F.normalize(fit, dim=1).view(4, 5, 5).mean(1)
    expected = [int(((row - unit) ** 2).sum(1).argmin()) for row in F.normalize(score, dim=1)]
    assert nearest_class_mean(fit, labels, score).tolist() == expected


# --- judging -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("kind", sorted(CRITICS))
def test_every_critic_judges_a_part_of_a_network(val: ImageSet, kind: str, arch: str) -> None:
    section = SECTION.model_copy(update={"kind": kind, "steps": 2, "n_way": 4})
    host = spec(arch, classes=2)
    network = build(host, 3)
    genotype = random_genotype(network.widths, 4)
    gene = Gene(host, genotype, gather(network.state_dict(), network.layout, genotype))
    before = {name: tensor.clone() for name, tensor in gene.tensors.items()}
    state = torch.get_rng_state()
    tasks = draw_tasks(val, section, 1, 2)
    scores = criticise(gene, tasks, section, 9, CPU)
    assert len(scores) == 2 and all(0.0 <= score <= 1.0 for score in scores)
    assert scores == criticise(gene, tasks, section, 9, CPU)
    assert all(torch.equal(before[name], tensor) for name, tensor in gene.tensors.items()), "genes are only looked at"
    assert torch.equal(torch.get_rng_state(), state)


def test_the_seed_only_matters_where_a_host_is_drawn(val: ImageSet, learned: ConvNet) -> None:
    gene, tasks = whole(learned), draw_tasks(val, SECTION, 1, 3)
    for kind in CRITICS:
        section = SECTION.model_copy(update={"kind": kind})
        same = criticise(gene, tasks, section, 1, CPU) == criticise(gene, tasks, section, 2, CPU)
        assert same is (kind != "short_training")


@pytest.mark.parametrize(
    ("kind", "lead"),
    [("ridge", 0.25), ("leave_one_out_ridge", 0.25), ("nearest_class_mean", 0.15), ("short_training", 0.08)],
)
def test_a_learned_gene_beats_random_ones(val: ImageSet, learned: ConvNet, kind: str, lead: float) -> None:
    """The ridge critic, by far; the others, here, too."""
    section, tasks = SECTION.model_copy(update={"kind": kind}), draw_tasks(val, SECTION, 3, 2)
    mean = np.mean(criticise(whole(learned), tasks, section, 5, CPU))
    randoms = [
        np.mean(criticise(whole(build(spec("vgg11", classes=8), seed)), tasks, section, 5, CPU)) for seed in (1, 2, 3)
    ]
    assert mean > np.mean(randoms) + lead
    if kind == "ridge":
        assert mean > max(randoms) + 0.1


@pytest.mark.parametrize("kind", ["ridge", "leave_one_out_ridge"])
def test_what_does_not_reach_the_end_counts_only_with_all_depths(val: ImageSet, learned: ConvNet, kind: str) -> None:
    """The last layer is dead, and nothing else."""
    gene, tasks = whole(learned), draw_tasks(val, SECTION, 3, 2)
    dead = {n: torch.zeros_like(t) if n.startswith("conv8.") else t for n, t in gene.tensors.items()}
    assert any(n.startswith("conv8.") for n in dead)
    gene = replace(gene, tensors=dead)
    everywhere, at_the_end = (
        np.mean(criticise(gene, tasks, SECTION.model_copy(update={"kind": kind, "depths": depths}), 5, CPU))
        for depths in (None, 1)
    )
    assert at_the_end == pytest.approx(1 / 8) and everywhere > 3 / 8


def test_a_dead_gene_scores_chance_and_is_no_error(val: ImageSet) -> None:
    """No group shows anything: every feature is constant."""
    gene = whole(build(spec("vgg11", classes=8), 1))
    dead = replace(gene, tensors={name: torch.zeros_like(tensor) for name, tensor in gene.tensors.items()})
    for kind in CRITICS:
        section = SECTION.model_copy(update={"kind": kind, "steps": 1})
        (score,) = criticise(dead, draw_tasks(val, section, 1, 1), section, 1, CPU)
        assert score == pytest.approx(1 / 8, abs=0.1 if kind == "short_training" else 1e-9)
