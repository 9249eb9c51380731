"""Whole evolutions, tiny: what comes out, that novel classes stay unseen, and that a resumed run is the same run."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tiny_run import tiny

from gtl import engine
from gtl.config import Config
from gtl.errors import ConfigError, EvolutionError, RunError
from gtl.individual import Job, Outcome
from gtl.learngene import founders
from gtl.learngene.artifact import Learngene
from gtl.lineage import read_rows
from gtl.models import build
from gtl.population.manager import Manager
from gtl.population.observer import Observer
from gtl.population.run import LEARNGENE, read_config, read_lineage, refuse_other_config
from gtl.population.store import RunStore
from gtl.world import load_splits, make_world

SCRIPT = Path(__file__).parent / "tiny_run.py"


class StoppedError(Exception):
    """What stops a run in the middle."""


class Watcher(Observer):
    """Keeps what it sees, and can stop the run at one moment."""

    def __init__(self, stop: Callable[[str], bool] = lambda moment: False) -> None:
        self.stop = stop
        self.moments: list[str] = []
        self.messages: list[str] = []

    def _at(self, moment: str) -> None:
        self.moments.append(moment)
        if self.stop(moment):
            raise StoppedError(moment)

    def message(self, text: str) -> None:
        self.messages.append(text)
        self._at(f"message {text}")

    def asked(self, jobs: Sequence[Job]) -> None:
        self._at(f"asked {len(jobs)}")

    def evaluated(self, outcome: Outcome) -> None:
        self._at(f"evaluated {outcome.individual}")

    def generation(self, manager: Manager) -> None:
        self._at(f"generation {manager.generation}")


def gene_bytes(run: Path) -> bytes:
    return (run / LEARNGENE).read_bytes()


def journal(run: Path) -> list[dict[str, Any]]:
    """Rows without measured times."""
    return [{key: value for key, value in row.items() if key != "time"} for row in read_rows(run / "lineage.jsonl")]


def copied(run: Path, to: Path) -> Path:
    return Path(shutil.copytree(run, to))


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> engine.Result:
    """The tiny run, left alone. Tests work on copies."""
    return engine.evolve(tiny(), tmp_path_factory.mktemp("engine") / "run")


# --- what comes out ------------------------------------------------------------------------------------------------


def test_a_run_gives_a_learngene_within_the_budget(done: engine.Result) -> None:
    gene = Learngene.load(done.run / LEARNGENE)
    assert gene.digest == done.learngene.digest and gene.to_bytes() == gene_bytes(done.run)
    layout = make_world(tiny()).layout
    assert gene.shares["circuit"] == layout.circuit_share(gene.genotype.counts) <= 0.3
    assert gene.shares["circuit_parameters"] == sum(t.numel() for t in gene.tensors.values() if t.dim() == 4)
    assert gene.genotype.sizes == dict(layout.groups) and min(gene.genotype.counts.values()) >= 1
    for life in read_lineage(RunStore.open(done.run)).values():
        assert layout.circuit_share(life.genotype.counts) <= 0.3
    assert [row["phase"] for row in done.logbook] == ["founding", "search", "lives", "lives"]
    assert all(row["best_share"] <= 0.3 for row in done.logbook)


def test_its_provenance_is_enough_to_make_it_again(done: engine.Result, tmp_path: Path) -> None:
    record = done.learngene.provenance
    again = engine.evolve(Config.model_validate(record["config"], strict=False), tmp_path / "again", workers=1)
    assert gene_bytes(again.run) == gene_bytes(done.run)
    assert journal(again.run) == journal(done.run)
    assert record["generations"] == 3 and record["images"]["total"] == sum(
        record["images"][part] for part in ("ancestor", "lives")
    )
    assert record["images"] == {"ancestor": 16 * 21, "lives": 2 * 3 * 3 * 16, "total": 16 * 21 + 288}
    assert record["winner"]["line"][-1]["generation"] == 0
    text = json.dumps(record)
    assert str(done.run) not in text and str(Path.home()) not in text, "no path of this machine"


def test_another_seed_gives_another_gene(done: engine.Result, tmp_path: Path) -> None:
    other = engine.evolve(tiny(seed=1), tmp_path / "other")
    assert other.learngene.digest != done.learngene.digest


@pytest.mark.parametrize(
    "sections",
    [
        {"founders": {"kind": "random"}, "evolution": {"search_generations": 0}},
        {"model": {"arch": "resnet12", "width": 1 / 16}},
        {"critic": {"kind": "short_training", "tasks_change": False}, "life": {"task": "shared", "zero_block": "masked"}},
        {"critic": {"kind": "nearest_class_mean"}, "life": {"inherit": "mask", "gene_update": 0.5}},
    ],
    ids=["random founders", "resnet12", "short training", "nearest class mean"],
)  # fmt: skip
def test_other_choices_run_too(sections: dict[str, Any], tmp_path: Path) -> None:
    result = engine.evolve(tiny(**{"evolution": {"generations": 1}, **sections}), tmp_path / "run")
    assert 0 < result.learngene.shares["circuit"] <= 0.3
    assert Learngene.load(result.run / LEARNGENE).digest == result.learngene.digest


def test_runs_are_numbered_where_no_place_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settled = tiny(evolution={"search_generations": 0, "generations": 1}, life={"steps": 1}, name="my-genes")
    runs = [engine.evolve(settled).run for _ in range(2)]
    assert [str(run) for run in runs] == [f"populations/my-genes/runs/00{n}" for n in (1, 2)]
    assert gene_bytes(runs[0]) == gene_bytes(runs[1])


def test_a_checkpoint_is_an_ancestor_whose_cost_is_not_known(tmp_path: Path) -> None:
    world = make_world(tiny())
    state = {name: tensor.clone() for name, tensor in build(world.host, 5).state_dict().items()}
    save_file(state, tmp_path / "ancestor.safetensors")
    few = {"search_generations": 0, "generations": 1}
    settled = tiny(founders={"checkpoint": str(tmp_path / "ancestor.safetensors")}, evolution=few)
    result = engine.evolve(settled, tmp_path / "run")
    images = result.learngene.provenance["images"]
    assert images["ancestor"] is images["total"] is None and images["lives"] > 0, (
        "what the checkpoint cost is not known"
    )
    assert str(tmp_path) not in json.dumps(result.learngene.provenance)
    (tmp_path / "text.safetensors").write_text("no tensors")
    save_file(build(world.host, 5).state_dict() | {"conv2.conv.weight": torch.ones(1)}, tmp_path / "small.safetensors")
    for name, message in (
        ("absent", "there is no file"),
        ("text", "not a readable safetensors file"),
        ("small", r"conv2.conv.weight of shape \(1,\), the configured vgg11 needs \(16, 8, 3, 3\)"),
    ):
        wrong = tiny(founders={"checkpoint": str(tmp_path / f"{name}.safetensors")}, evolution=few)
        with pytest.raises(ConfigError, match=message):
            engine.evolve(wrong, tmp_path / name)


# --- novel classes -------------------------------------------------------------------------------------------------


def test_novel_images_are_never_loaded() -> None:
    settled = tiny()
    splits = load_splits(settled, ("train", "val"))
    assert set(splits.sets) == {"train", "val"} and len(splits.class_lists["novel"]) == 4
    world = make_world(settled)
    assert {world.train.role, world.val.role} == {"train", "val"}
    seen = {*world.train.class_names, *world.val.class_names}
    assert not seen & set(splits.class_lists["novel"]), "only their names are known"


def test_novel_images_need_not_even_be_images(tmp_path: Path) -> None:
    """An evolution on a folder whose novel files are trash is the one on a folder where they are fine."""
    draw = np.random.default_rng(0)
    for role, classes in (("train", 4), ("val", 3), ("test", 2)):
        for number in range(classes):
            folder = tmp_path / "images" / role / f"{role}-{number}"
            folder.mkdir(parents=True)
            for i in range(11):
                pixels = draw.integers(0, 256, (28, 28, 3), dtype=np.uint8)
                if role == "test":
                    (folder / f"{i}.png").write_bytes(b"trash" + pixels.tobytes()[: 10 + i])
                else:
                    Image.fromarray(pixels).save(folder / f"{i}.png")
    data = {"source": "folder", "root": str(tmp_path / "images"), "images_per_class": None}
    unset = dict.fromkeys(("train_classes", "val_classes", "novel_classes"))
    settled = tiny(data={**data, **unset}, evolution={"search_generations": 0, "generations": 1})
    result = engine.evolve(settled, tmp_path / "run")
    assert result.learngene.provenance["data"]["lists"]["novel"] == ["test-0", "test-1"]
    assert str(tmp_path) not in json.dumps(result.learngene.provenance)


# --- resuming ------------------------------------------------------------------------------------------------------


def test_resuming_a_finished_run_changes_nothing(done: engine.Result, tmp_path: Path) -> None:
    run = copied(done.run, tmp_path / "run")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    watcher = Watcher()
    result = engine.resume(run, observer=watcher)
    assert result.learngene.to_bytes() == gene_bytes(run) == gene_bytes(done.run)
    assert watcher.moments == [], "nothing is trained, no generation made"
    after = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    del before[run / "progress.json"], after[run / "progress.json"]  # says who drives, and since when
    assert after == before


def test_a_run_stopped_after_every_generation_and_within_is_the_same_run(
    done: engine.Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One run that is stopped again and again: while the ancestor trains, between two lives, after a commit."""
    monkeypatch.setattr(founders, "SAVE_EVERY", 0.0)
    run = tmp_path / "run"
    stops = [
        lambda m: m.startswith("message ancestor: step 4"),
        lambda m: m.startswith("message ancestor: step 12"),
        lambda m: m == "evaluated g0000-i0002",
        lambda m: m == "generation 0",
        lambda m: m == "asked 4",
        lambda m: m == "generation 1",
        lambda m: m == "evaluated g0002-i0000",
        lambda m: m == "generation 2",
        lambda m: m == "evaluated g0003-i0001",
        lambda m: m == "generation 3",
    ]
    seen = []
    for number, stop in enumerate(stops):
        watcher = Watcher(stop)
        with pytest.raises(StoppedError):
            if number == 0:
                engine.evolve(tiny(), run, observer=watcher)
            else:
                engine.resume(run, observer=watcher)
        seen += [moment for moment in watcher.moments if moment.startswith("generation")]
        assert not (run / LEARNGENE).exists()
    assert seen == [f"generation {n}" for n in range(4)], "no generation is made twice"
    result = engine.resume(run)
    assert gene_bytes(run) == gene_bytes(done.run)
    assert journal(run) == journal(done.run)
    strip = [{k: v for k, v in row.items() if k != "seconds"} for row in result.logbook]
    assert strip == [{k: v for k, v in row.items() if k != "seconds"} for row in done.logbook]


def test_the_ancestor_goes_on_from_its_last_saved_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(founders, "SAVE_EVERY", 0.0)
    run = tmp_path / "run"
    with pytest.raises(StoppedError):
        engine.evolve(tiny(), run, observer=Watcher(lambda m: m.startswith("message ancestor: step 8")))
    watcher = Watcher(lambda m: m == "asked 4")
    with pytest.raises(StoppedError):
        engine.resume(run, observer=watcher)
    assert watcher.messages[0] == "ancestor: going on from step 8 of 16"
    assert [text.split(",")[0] for text in watcher.messages[1:]] == ["ancestor: step 12 of 16"]


def test_a_damaged_saved_training_is_said_and_done_again(
    done: engine.Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(founders, "SAVE_EVERY", 0.0)
    run = tmp_path / "run"
    with pytest.raises(StoppedError):
        engine.evolve(tiny(), run, observer=Watcher(lambda m: m.startswith("message ancestor: step 8")))
    blob = RunStore.open(run).blobs.path(json.loads((run / "ancestor.json").read_text())["progress"])
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.write_bytes(data)
    watcher = Watcher()
    engine.resume(run, observer=watcher)
    assert "cannot be used" in watcher.messages[0]
    assert gene_bytes(run) == gene_bytes(done.run)


def test_an_ancestor_is_used_again_where_that_is_asked_for(
    done: engine.Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GTL_CACHE", str(tmp_path / "cache"))
    reuse = {"reuse": True}
    first, again, other, longer = (Watcher() for _ in range(4))
    engine.evolve(tiny(founders=reuse), tmp_path / "first", observer=first)
    engine.evolve(tiny(founders=reuse), tmp_path / "again", observer=again)
    assert gene_bytes(tmp_path / "again") != b"" and again.messages == [
        "ancestor: another run has trained the same one, which is used again (founders.reuse)"
    ]
    assert "ancestor: 16 steps of 21 images" in first.messages
    ours, theirs, trained = (
        Learngene.load(run / LEARNGENE) for run in (tmp_path / "again", tmp_path / "first", done.run)
    )
    assert ours.digest == theirs.digest == trained.digest, "it is the same ancestor"
    assert ours.provenance["images"] == trained.provenance["images"], "and it cost as many images"
    assert ours.provenance["config_hash"] == trained.provenance["config_hash"], "which changes no result"
    engine.evolve(tiny(), tmp_path / "other", observer=other)
    assert "ancestor: 16 steps of 21 images" in other.messages, "nobody asked"
    engine.evolve(tiny(founders={**reuse, "epochs": 5.0}), tmp_path / "longer", observer=longer)
    assert "ancestor: 20 steps of 21 images" in longer.messages, "another training, another ancestor"


def test_whoever_goes_on_with_a_run_asks_for_the_same_evolution(done: engine.Result) -> None:
    refuse_other_config(tiny(), done.run)  # what the machine settled is no difference
    refuse_other_config(tiny(name="renamed", compute={"threads": 0}, founders={"reuse": True}), done.run)
    with pytest.raises(
        RunError, match=r"another configuration: seed is 0 there, not 1; life\.steps is 3 there, not 5\. "
    ):
        refuse_other_config(tiny(seed=1, life={"steps": 5}), done.run)
    with pytest.raises(RunError, match=r"compute\.precision is .* there, not (bfloat16|float32)"):
        now = read_config(done.run).compute.precision
        refuse_other_config(tiny(compute={"precision": {"float32": "bfloat16"}.get(now, "float32")}), done.run)


@pytest.mark.parametrize("content", [None, b"\xff\xfe\xfa"])
def test_a_missing_or_unreadable_config_is_a_run_error(
    done: engine.Result, tmp_path: Path, content: bytes | None
) -> None:
    run = copied(done.run, tmp_path / "run")
    (run / "config.yaml").unlink()
    if content is not None:
        (run / "config.yaml").write_bytes(content)
    with pytest.raises(RunError, match=r"config\.yaml cannot be read"):
        engine.resume(run)


def test_an_extended_run_is_the_longer_run(done: engine.Result, tmp_path: Path) -> None:
    run = copied(done.run, tmp_path / "run")
    with pytest.raises(StoppedError):
        engine.resume(run, generations=4, observer=Watcher(lambda m: m == "generation 4"))
    longer = engine.resume(run)  # a stopped extension goes on by itself
    fresh = engine.evolve(tiny(evolution={"generations": 4}), tmp_path / "fresh")
    assert gene_bytes(longer.run) == gene_bytes(fresh.run)
    assert journal(longer.run) == journal(fresh.run)
    assert [row["generation"] for row in longer.logbook] == [0, 1, 2, 3, 4, 5]
    assert (run / "learngene-000003.safetensors").read_bytes() == gene_bytes(done.run), "the shorter run's is kept"
    with pytest.raises(RunError, match="--generations 3 is below the 4"):
        engine.resume(run, generations=3)
    assert gene_bytes(engine.resume(run, generations=4).run) == gene_bytes(fresh.run)


def test_another_configuration_is_refused(done: engine.Result, tmp_path: Path) -> None:
    run = copied(done.run, tmp_path / "run")
    text = (run / "config.yaml").read_text()
    for old, new in (("steps: 3", "steps: 4"), ("seed: 0", "seed: 1"), ("budget: 0.3", "budget: 0.31")):
        assert old in text
        (run / "config.yaml").write_text(text.replace(old, new, 1))
        with pytest.raises(RunError, match="is the run directory of another config"):
            engine.resume(run)
    (run / "config.yaml").write_text(text + "\nnonsense: 1\n")
    with pytest.raises(ConfigError, match="nonsense"):
        engine.resume(run)
    assert gene_bytes(run) == gene_bytes(done.run)
    (run / "config.yaml").write_text(text.replace("name: pico", "name: renamed"))
    assert engine.resume(run).learngene.digest == done.learngene.digest, "a name changes no result"


def test_f22_other_versions_are_said(done: engine.Result, tmp_path: Path) -> None:
    run = copied(done.run, tmp_path / "run")
    info = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**info, "versions": {**info["versions"], "torch": "1.0"}}))
    watcher = Watcher()
    engine.resume(run, observer=watcher)
    assert len(watcher.messages) == 1 and watcher.messages[0].startswith("warning: torch was 1.0")


# --- refusals and failures -----------------------------------------------------------------------------------------


def test_what_cannot_work_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for sections, message in (
        ({"life": {"n_way": 7}}, r"life\.n_way = 7: glyphs has 6 train class"),
        ({"critic": {"fit_images": 10}}, "the smallest val class of glyphs has 14"),
        ({"gene": {"budget": 0.0005, "initial_share": (0.0005, 0.0005)}}, r"gene\.budget = 0\.0005"),
    ):
        with pytest.raises(ConfigError, match=message):
            engine.evolve(tiny(**sections), run)
        assert not run.exists()
    run.mkdir()
    (run / "thesis.txt").write_text("mine")
    with pytest.raises(RunError, match=r"is not empty \(thesis.txt\)"):
        engine.evolve(tiny(), run)
    with pytest.raises(RunError, match="is not a run directory"):
        engine.resume(run)
    with pytest.raises(RunError, match="is not a run directory"):
        engine.resume(tmp_path / "nowhere")


def test_f24_a_run_whose_lives_all_diverge_ends_with_the_cause(tmp_path: Path) -> None:
    calm = tiny(evolution={"search_generations": 0})
    training = calm.life.training.model_copy(update={"learning_rate": 1e9})  # refused in a file
    wild = calm.model_copy(update={"life": calm.life.model_copy(update={"training": training})})
    with pytest.raises(EvolutionError, match=r"generation 1: 3 of 4 individuals failed .*training diverged"):
        engine.evolve(wild, tmp_path / "run")
    latest = RunStore.open(tmp_path / "run").latest()
    assert latest is not None and latest[0] == 0, "what was committed stays"


# --- signal 9 ------------------------------------------------------------------------------------------------------


def start(run: Path) -> subprocess.Popen[str]:
    """The script on this run directory, up to the moment when the evolution begins."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
    }  # a second thread gains nothing here, and waits where cores are few
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), str(run)], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None and process.stdout.readline() == "begun\n"
    return process


def kill_after(run: Path, seconds: float, appeared: str = "") -> str:
    """Start or resume in a new process and kill it, so long after a file appeared; what it had reached by then."""
    process = start(run)
    while appeared and process.poll() is None and not (run / appeared).exists():
        time.sleep(0.005)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
    if process.wait() == 0:
        return "the end"
    assert process.returncode == -signal.SIGKILL
    if not (run / "run.json").exists():
        shutil.rmtree(run, ignore_errors=True)  # as the error message says
        return "nothing"
    generations = len(list(run.glob("gen-*")))
    return f"{generations} generations" if generations else "the ancestor's training"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_f4_signal_9_at_five_random_moments(tmp_path: Path) -> None:
    """Killed, resumed in a new process: the same learngene, byte for byte. The first moment is while the ancestor trains."""
    alone = tmp_path / "alone"
    began = time.monotonic()
    process = start(alone)
    founded = 0.0
    while process.poll() is None:
        if not founded and (alone / "gen-000000").exists():
            founded = time.monotonic() - began
        time.sleep(0.01)
    assert process.returncode == 0
    whole = time.monotonic() - began
    draw = random.Random()
    reached = []
    for number in range(5):
        run = tmp_path / f"killed-{number}"
        moment = draw.uniform(0.0, 0.2 * founded if number == 0 else whole)
        while (at := kill_after(run, moment, "ancestor.json" if number == 0 else "")) == "the end":
            shutil.rmtree(run)  # it was faster this time
            moment *= draw.uniform(0.3, 0.9)
        reached.append(f"{at} ({moment:.3f} s)")
        assert start(run).wait() == 0
        assert gene_bytes(run) == gene_bytes(alone), reached
        assert journal(run) == journal(alone), reached
    assert reached[0].startswith("the ancestor's training"), reached
    print(f"killed at {', '.join(reached)} of {whole:.2f} s")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_f4_a_run_killed_again_and_again_gets_there(tmp_path: Path) -> None:
    alone, run = tmp_path / "alone", tmp_path / "run"
    began = time.monotonic()
    assert start(alone).wait() == 0
    whole = time.monotonic() - began
    draw = random.Random()
    reached = [kill_after(run, draw.uniform(0.1, 0.5) * whole) for _ in range(6)]
    assert start(run).wait() == 0
    assert gene_bytes(run) == gene_bytes(alone), reached
    assert journal(run) == journal(alone)
    assert not list(run.rglob("*.tmp.*")), "leftovers are swept"
