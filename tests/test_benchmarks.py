"""Benchmarks of descendants' shapes and of critics: what they measure with, and that they run and go on where they stopped."""

from __future__ import annotations

import argparse
import json
import math
import pickle
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from pico import CPU, gratings, spec
from scipy import optimize, stats
from sklearn.linear_model import LogisticRegression

from gtl.config import CriticSection, FewShotSection
from gtl.critic import CriticTask, Gene, criticise, draw_tasks, pooled_features
from gtl.data.request import DataRequest
from gtl.data.sources import load
from gtl.learngene.artifact import Learngene
from gtl.models import build
from gtl.planning.jobs import plan
from gtl.surgery import gather
from gtl.world import make_world

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import ablations
import critics
import critics_variants
import glyph_folder
import shapes
from critics_genes import ALL_ALLOCATIONS, LARGEST, SMALLEST, WHOLE, Plan
from critics_ranks import Resampled, spearman
from shapes_networks import SHAPES, Inherited, Shape, SmallResNet, build_network

# --- shapes --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def genes() -> list[Learngene]:
    return [Learngene.load(path) for path in shapes.GENES]


def test_the_residual_networks_are_torchvisions() -> None:
    theirs = torchvision.models.resnet18(num_classes=3)
    theirs.conv1, theirs.maxpool = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False), torch.nn.Identity()
    ours = SmallResNet((2, 2, 2, 2), 1.0, 3)
    ours.load_state_dict(theirs.state_dict())
    pixels = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(ours.eval()(pixels), theirs.eval()(pixels))


def test_every_shape_inherits_from_both_genes(genes: list[Learngene]) -> None:
    assert len(set(SHAPES)) >= 12
    for shape in SHAPES:
        for gene in genes:
            network, report = Inherited(shape, gene).born(5)
            assert report is not None and report.inherited > 0
            counted = report.inherited + report.zero_filled + report.identity + report.fresh
            assert counted == sum(parameter.numel() for parameter in network.parameters())
        assert network(torch.zeros(2, 3, 28, 28)).shape == (2, 5)


def test_the_same_seed_bears_the_same_newborn(genes: list[Learngene]) -> None:
    for name in ("vgg6", "resnet10", "vgg11"):
        one, other = (build_network(name, 0.125, 3, 7).state_dict() for _ in range(2))
        assert all(torch.equal(one[key], other[key]) for key in one)
        assert any(
            not torch.equal(one[key], each) for key, each in build_network(name, 0.125, 3, 8).state_dict().items()
        )


def test_starts_are_told_apart_also_in_another_process(genes: list[Learngene]) -> None:
    starts = [Inherited(shape, gene) for shape in SHAPES[:2] for gene in (None, *genes)]
    assert len({start.digest for start in starts}) == len(starts)
    assert [pickle.loads(pickle.dumps(start)).digest for start in starts] == [start.digest for start in starts]
    assert Shape("vgg4", 0.25).convolutions == 4 and Shape("resnet18", 0.5).convolutions == 17


def test_shapes_runs_and_goes_on_where_it_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--quick", "--genes", str(shapes.GENES[0])]
    assert shapes.main([*words, "--out", str(tmp_path / "one.json")]) == 0
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert [json.loads(line)["name"] for line in lines[:2]] == [
        f"{name} from {shapes.GENES[0].parent.name}" for name in shapes.QUICK
    ]
    assert lines[2].startswith("| descendant |") and len(lines) == 6
    assert shapes.main([*words, "--out", str(tmp_path / "two.json")]) == 0
    assert ", seed 1" not in capsys.readouterr().err, "nothing is trained again"
    one, two = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "two"))
    assert one["figures"] == two["figures"] and "RECORD" in one["command"] and str(tmp_path) not in str(one)


def test_glyphs_in_a_folder_are_the_glyphs(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    assert glyph_folder.main([str(folder), "--images", "2"]) == 0
    found = load(DataRequest("folder", root=str(folder)), ("novel",))
    theirs = load(DataRequest("glyphs", images_per_class=2), ("novel",))
    sets = (found["novel"], theirs["novel"])
    drawn, given = (
        {name.split()[0]: each.images[each.labels == n] for n, name in enumerate(each.class_names)} for each in sets
    )
    assert drawn.keys() == given.keys() and all(torch.equal(drawn[name], given[name]) for name in given)
    with pytest.raises(SystemExit):
        glyph_folder.main([str(folder)])


# --- critics: genes and ranks --------------------------------------------------------------------------------------


def test_the_plan_varies_size_allocation_and_origin() -> None:
    origins = Plan().origins()
    assert len(origins) == len(set(origins)) == 48 and origins == Plan().origins()
    assert {origin.allocation for origin in origins} == set(ALL_ALLOCATIONS)
    assert {origin.ancestor for origin in origins} == {1 / 16, 1 / 4, WHOLE} and {o.lives for o in origins} == {0, 1, 2}
    shares = [origin.share for origin in origins]
    assert min(shares) == pytest.approx(SMALLEST) and max(shares) == pytest.approx(LARGEST)
    for origin in origins:
        if origin.lives:
            assert any(vars(other) == {**vars(origin), "lives": 0} for other in origins), "also there without its lives"


def test_learning_rates_of_descendants_can_be_asked_for() -> None:
    searched = Learngene.load(critics.HERE.parent / "populations" / critics.GENES["vgg11"] / critics.LEARNGENE)
    asked = argparse.Namespace(quick=False, data="nowhere", rates=[0.03, 0.1], epochs=12.0)
    settled = critics.config(searched, asked)
    assert settled.fewshot.learning_rates == (0.03, 0.1) and settled.founders.epochs == 12
    asked.rates = None
    assert critics.config(searched, asked).fewshot.learning_rates == FewShotSection().learning_rates


def test_rank_correlation_is_spearmans() -> None:
    draw = np.random.default_rng(0)
    values, truth = draw.integers(0, 6, (3, 20)).astype(float), draw.standard_normal((3, 20))
    values[2] = 1.0
    found = spearman(values, truth)
    assert found[2] == 0.0, "what does not vary ranks nothing"
    for row in range(2):
        assert found[row] == pytest.approx(stats.spearmanr(values[row], truth[row]).statistic)


def test_intervals_are_over_genes_and_differences_are_paired() -> None:
    draw = np.random.default_rng(1)
    truth = draw.standard_normal((2, 60))
    good, poor = (Resampled.of(truth + noise * draw.standard_normal((2, 60)), truth) for noise in (0.5, 3.0))
    perfect = Resampled.of(truth, truth)
    assert perfect.interval.low == pytest.approx(1.0) and perfect.interval.value == pytest.approx(1.0)
    assert 0.7 < good.interval.low < good.interval.value < good.interval.high < 1.0
    assert good.over(poor).low > 0 and good.over(good).high == 0.0


# --- critics: heads ------------------------------------------------------------------------------------------------


def data(samples: int = 60, features: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    draw, labels = torch.Generator().manual_seed(3), torch.arange(3).repeat_interleave(samples // 3)
    centres = torch.randn(3, features, generator=draw)
    return 0.8 * centres[labels] + torch.randn(samples, features, generator=draw), labels


def test_logistic_regression_is_scikit_learns() -> None:
    for features in (8, 100):
        rows, labels = data(90, features)
        order = torch.randperm(90, generator=torch.Generator().manual_seed(0))
        fit, score = order[:45], order[45:]
        found = critics_variants.logistic(rows[fit], labels[fit], rows[score], labels[score], strength=0.01)
        x, z = critics_variants.standardised(rows[fit], rows[score])
        penalty = 0.01 * float((x**2).sum(1).mean())
        theirs = LogisticRegression(C=1 / penalty, tol=1e-8, max_iter=5000).fit(x.numpy(), labels[fit].numpy())
        assert found == pytest.approx(theirs.score(z.numpy(), labels[score].numpy()))


def test_log_evidence_is_the_largest_marginal_likelihood() -> None:
    rows, labels = data(30, 5)
    found = critics_variants.log_evidence(rows[::2], labels[::2], rows[1::2], labels[1::2])
    rows, labels = torch.cat([rows[::2], rows[1::2]]), torch.cat([labels[::2], labels[1::2]])
    x = ((rows - rows.mean(0)) / rows.std(0)).double().numpy()
    best = []
    for label in range(3):
        y = (labels == label).double().numpy()
        y = y - y.mean()

        def missed(logs: np.ndarray, y: np.ndarray = y) -> float:
            alpha, beta = np.exp(logs)
            return -stats.multivariate_normal.logpdf(y, np.zeros(30), np.eye(30) / beta + x @ x.T / alpha)

        best.append(-optimize.minimize(missed, np.zeros(2), method="Nelder-Mead").fun / 30)
    assert found == pytest.approx(np.mean(best), abs=1e-3)


def test_explained_variance_ranks_finer_than_accuracy() -> None:
    rows, labels = data(60, 20)
    half = torch.arange(60) % 2 == 0
    parts = rows[half], labels[half], rows[~half], labels[~half]
    found = critics_variants.explained_variance(*parts, strength=0.1)
    assert 0.0 < found < 1.0
    noise = torch.randn(30, 20, generator=torch.Generator().manual_seed(0))
    assert critics_variants.explained_variance(noise, parts[1], noise.flip(0), parts[3], strength=0.1) < found
    dead = torch.zeros_like(rows)
    assert critics_variants.explained_variance(dead[half], parts[1], dead[~half], parts[3], strength=0.1) == 0.0


@pytest.mark.parametrize("arch", ["vgg11", "resnet12"])
def test_the_default_is_the_librarys(arch: str) -> None:
    network = build(spec(arch), 1)
    full = network.layout.full()
    gene = Gene(spec(arch), full, gather(network.state_dict(), network.layout, full))
    section = CriticSection(fit_images=4, score_images=8)
    (task,) = draw_tasks(gratings(4, 20, "val", noisy=0.5), section, 1, 1)
    found = critics_variants.judge(gene, task, CPU)
    assert found.keys() == critics_variants.VARIANTS.keys()
    assert all(math.isfinite(value) and seconds > 0 for value, seconds in found.values())
    for name, kind in (
        (critics_variants.DEFAULT, "ridge"),
        (critics_variants.OF_ALL, "leave_one_out_ridge"),
        ("nearest class mean, last features", "nearest_class_mean"),
    ):
        (value,) = criticise(gene, [task], section.model_copy(update={"kind": kind}), 1, CPU)
        assert found[name][0] == value
    features = critics_variants.extract(gene.network, task.fit, CPU)
    taken, _ = features.taken(critics_variants.VARIANTS[critics_variants.DEFAULT])
    assert torch.equal(taken, pooled_features(gene.network, task.fit, CPU))


def test_a_dead_gene_is_no_error() -> None:
    network = build(spec(), 1)
    full = network.layout.full()
    tensors = {
        name: torch.zeros_like(tensor)
        for name, tensor in network.state_dict().items()
        if name in network.layout.inherited
    }
    images = gratings(4, 12, "val")
    task = CriticTask(*images.draw_per_class(np.random.default_rng(0), 4, 8))
    found = critics_variants.judge(Gene(spec(), full, tensors), task, CPU)
    assert all(math.isfinite(value) for value, _ in found.values())


def test_critics_runs_and_goes_on_where_it_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert critics.main(["--quick", "--out", str(tmp_path / "one.json")]) == 0
    out = capsys.readouterr().out
    assert critics.main(["--quick", "--out", str(tmp_path / "two.json")]) == 0
    again = capsys.readouterr()
    assert again.out == out and "judged" not in again.err and "training" not in again.err
    one = json.loads((tmp_path / "one.json").read_text())
    names = [figure["name"] for figure in one["figures"]]
    assert names[0] == "vgg11: genes"
    wanted = {*critics_variants.VARIANTS, *critics.COUNTED, critics.SHORT, critics.SHARE, critics.TRUTH}
    assert {name.removeprefix("vgg11: ") for name in names[1:]} == wanted
    assert len(one["figures"][0]["genes"]) == one["figures"][0]["n"] == 5


# --- ablations -----------------------------------------------------------------------------------------------------


def test_every_variant_spends_the_images_of_the_whole_evolution() -> None:
    base = (*ablations.QUICK, "life.steps=3200")  # steps are whole numbers
    whole, *others = ablations.VARIANTS
    settled = {each.name: ablations.settled(each, base, 6 * 120) for each in ablations.VARIANTS}
    assert len(settled) == len(ablations.VARIANTS), "names are told apart"
    data = make_world(settled[whole.name])
    spent = {name: sum(plan(replace(data, config=config)).images.values()) for name, config in settled.items()}
    for each in others:
        assert spent[each.name] == pytest.approx(spent[whole.name], rel=0.01), each.name
        assert each.against in spent
        changed = settled[each.name].model_dump()
        changed["life"]["steps"] = 3200
        assert changed != settled[whole.name].model_dump(), f"{each.name} changes nothing"


def test_intervals_of_variants_are_those_of_randomised_blocks() -> None:
    draw = np.random.default_rng(1)
    spread, variants, seeds, held = 0.7, 6, 3, 0
    for _ in range(400):
        blocks = 5 * draw.standard_normal(seeds)  # what a seed does to all variants cancels
        table = blocks + spread * draw.standard_normal((variants, seeds))
        held += abs((table[1] - table[0]).mean()) <= ablations.half_width(table.tolist())
    assert 0.91 < held / 400 < 0.98, "95 % of the intervals of two equal variants hold zero"


@pytest.mark.slow
def test_ablations_run_and_go_on_where_they_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--quick", "--seeds", "2", "--out", str(tmp_path)]
    assert ablations.main(words) == 0
    first = capsys.readouterr().out
    genes = sorted(tmp_path.glob("*/learngene.safetensors"))
    assert len(genes) == 6
    genes[0].unlink()  # as if it had been stopped there
    assert ablations.main(words) == 0
    assert capsys.readouterr().out == first
    record = json.loads((tmp_path / ablations.RECORD).read_text())
    figures = {figure["name"]: figure for figure in record["figures"]}
    assert len(figures) == 3 and all(figure["n"] == 2 for figure in figures.values())
    spent = {figure["images"] for figure in figures.values()}
    assert max(spent) - min(spent) < 0.1 * max(spent), "critics and whole steps make small differences"
