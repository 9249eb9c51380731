"""What a dry run says against what runs do: jobs and images exactly, sizes in their order, and nothing is written."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pico import world as pico_world
from tiny_run import tiny

from gtl import engine, planning
from gtl.cli.plan import show_plan
from gtl.config import Config
from gtl.errors import ConfigError, DataError, EvolutionError, GtlError, RunError, StorageError
from gtl.individual import Job
from gtl.life import evaluate_pack
from gtl.models import build
from gtl.planning import Calibration, Peaks, Plan, estimate, jobs
from gtl.planning.calibration import calibrate_apart, line, peak_memory
from gtl.planning.estimate import existing, gene_bytes, makespan
from gtl.population.observer import Observer
from gtl.population.run import read_lineage
from gtl.population.store import RunStore
from gtl.world import make_world

GB = 10**9
PIECES = Calibration("cpu", 1, 5.0, 7.0, 0.5, 3.0, 2.0, 4.0, 0.25, 1.0, 0.95, Peaks(GB, GB // 10, 2 * GB, 3 * GB))


RACING: dict[str, Any] = {
    "evolution": {"population": 7, "crossover": {"average_siblings": False}, "racing": {"heats": (0.34, 0.7), "keep": 0.5}},
    "critic": {"kind": "short_training"},
}  # fmt: skip


class Counting(Observer):
    """Keeps the jobs of every generation."""

    def __init__(self) -> None:
        self.jobs: list[list[Job]] = []

    def asked(self, jobs: Sequence[Job]) -> None:
        self.jobs.append(list(jobs))


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Everything below a folder, with sizes and times of change."""
    found = ((path, path.stat()) for path in folder.rglob("*"))
    return {str(path): (stat.st_size, stat.st_mtime_ns) for path, stat in found}


def plan_of(config: Config) -> Plan:
    return planning.plan(make_world(config))


@pytest.fixture(scope="module")
def pieces() -> Calibration:
    """What the tiny run's pieces cost, in a fresh process."""
    return calibrate_apart(tiny(), 1)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calibration that costs no time."""
    monkeypatch.setattr(planning, "calibrate_apart", lambda config, threads: replace(PIECES, threads=threads))


# --- jobs and images -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"founders": {"kind": "random"}, "evolution": {"search_generations": 0, "crossover": {"average_siblings": False}}},
        {"evolution": {"population": 7, "litter": 3, "tournament": {"elite": 2}}, "critic": {"tasks": 2}},
        {"critic": {"kind": "short_training", "tasks_change": False, "final_tasks": 1}},
        {"life": {"steps": 0}, "evolution": {"search_generations": 0}},
        RACING,
        {"founders": {"channels": ("l1",), "allocations": ("uniform",)}, "evolution": {"tournament": {"elite": 3}}},
    ],
    ids=["plain", "random founders", "two elites", "short training", "no steps", "racing", "equal founders"],
)  # fmt: skip
def test_the_plan_is_what_a_run_does(sections: dict[str, Any], tmp_path: Path) -> None:
    config, seen = tiny(**sections), Counting()
    plan = plan_of(config)
    result = engine.evolve(config, tmp_path / "run", observer=seen)
    asked = [job for jobs_ in seen.jobs for job in jobs_]
    assert plan.driven and not plan.at_most
    assert plan.generations == len(seen.jobs) == len(result.logbook)
    assert plan.evaluations == len(asked)
    assert plan.births == len({job.individual for job in asked})
    assert plan.lives == sum(job.lives for job in asked)
    assert plan.finalists >= config.evolution.population
    found = result.learngene.provenance["images"]
    assert {key: plan.images[key] for key in ("ancestor", "lives")} == {
        key: found[key] for key in ("ancestor", "lives")
    }
    shown = plan.to_json()
    assert sum(phase["evaluations"] for phase in shown["phases"].values()) == len(asked)


def test_critics_that_train_cost_images_at_the_end_too() -> None:
    plan = plan_of(tiny(critic={"kind": "short_training", "steps": 2, "final_tasks": 3}))
    assert plan.images["judging"] == (plan.finalists + 2) * 3 * 2 * 20, "20 fit images are less than a batch"
    assert plan_of(tiny()).images["judging"] == 0


def test_a_checkpoint_costs_no_training() -> None:
    plan = plan_of(tiny(founders={"checkpoint": "weights.safetensors"}))
    assert plan.ancestor_steps == plan.images["ancestor"] == 0 and plan.references == 2


def test_patience_makes_it_an_upper_bound(tmp_path: Path) -> None:
    config = tiny(evolution={"generations": 6, "patience": 1, "search_generations": 0}, life={"steps": 1})
    plan, seen = plan_of(config), Counting()
    engine.evolve(config, tmp_path / "run", observer=seen)
    assert plan.at_most and plan.generations == 7 >= len(seen.jobs)


@pytest.mark.parametrize(
    "evolution",
    [
        {},
        {"search_generations": 0, "litter": 1, "crossover": {"average_siblings": False}},
        {"population": 60, "litter": 7, "generations": 9, "tournament": {"elite": 5}},
        RACING["evolution"],
        {"population": 40, "litter": 40, "generations": 3, "tournament": {"elite": 30}},
    ],
)
@pytest.mark.parametrize("tasks_change", [True, False])
def test_the_closed_form_agrees(evolution: dict[str, Any], tasks_change: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny(evolution=evolution, critic={"tasks_change": tasks_change, "kind": "short_training"})
    driven = plan_of(config)
    monkeypatch.setattr(jobs, "DRIVE_LIMIT", 0)
    closed = plan_of(config)
    assert driven.driven and not closed.driven

    def phases(plan: Plan) -> Any:
        return plan.to_json()["phases"]

    assert phases(closed) == phases(driven)
    assert closed.images["lives"] == driven.images["lives"] and closed.evaluations == driven.evaluations
    assert driven.finalists <= closed.finalists <= 2 * driven.finalists + 10
    assert driven.genes <= closed.genes <= 2 * driven.genes + 10
    assert 0.7 * driven.record_bytes < closed.record_bytes < 1.4 * driven.record_bytes


def test_large_plans_are_quick() -> None:
    world = make_world(tiny(evolution={"population": 10_000, "generations": 100, "search_generations": 0}))
    began = time.process_time()
    plan = planning.plan(world, 64)
    assert time.process_time() - began < 2.0
    assert plan.births == 10_000 + 100 * 9_999 and plan.evaluations == 101 * 10_000


# --- time ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2, 3, 7, 100])
def test_makespan_is_that_of_workers_who_take_the_next_job(workers: int) -> None:
    draw = random.Random(workers)
    for _ in range(50):
        kinds = [(draw.randrange(12), draw.random()) for _ in range(3)]
        free = [0.0] * workers
        for count, seconds in kinds:
            for _ in range(count):
                at = free.index(min(free))
                free[at] += seconds
        assert makespan(kinds, workers) == pytest.approx(max(free))
    assert makespan([(0, 1.0)], workers) == 0.0


def test_time_adds_up() -> None:
    world = make_world(tiny())
    plan = planning.plan(world)
    found = planning.duration(plan, world, PIECES)
    averages = sum(each.cuts for each in plan.of("final"))
    life = 4.0 + 3 * 0.25
    assert found.parts["ancestor"] == 7.0 + 16 * 0.5 + 2 * 2 * 3.0
    assert found.parts["search"] == 3 * (2.0 + 1.0) + 1.0
    assert found.parts["lives"] == 2 * (3 * (2.0 + life + 1.0) + 1.0)
    assert found.parts["final"] == averages * 2.0 + plan.finalists * 2 * 1.0
    assert found.low < found.seconds == sum(found.parts.values()) < found.high
    wide = planning.duration(replace(plan, workers=3), world, PIECES)
    assert wide.parts["lives"] == 2 * (2.0 + life + 1.0 + 1.0), "three lives side by side, then the survivor"


def test_rounds_of_a_race_take_one_after_the_other() -> None:
    world = make_world(tiny(**RACING, life={"steps": 10}))
    (lives,) = planning.plan(world).of("lives")
    assert lives.race == ((6, 3), (3, 7), (2, 10)) and lives.criticisms == 1 + 6 + 3 + 2
    expected = 6 * (7.0 + 3 * 0.25) + 1.0 + 3 * (7.0 + 7 * 0.25) + 2 * (7.0 + 10 * 0.25)
    assert planning.duration(planning.plan(world), world, PIECES).parts["lives"] == 2 * expected


def test_a_line_through_two_lengths() -> None:
    lengths = []

    def seconds(steps: int) -> float:
        lengths.append(steps)
        return 5.0 + 0.5 * steps

    assert line(seconds, 300) == (pytest.approx(5.0), pytest.approx(0.5)) and max(lengths) <= 8
    once, step = line(lambda steps: 1.0 + 0.001 * steps, 50)
    assert (once, step) == (pytest.approx(1.0), pytest.approx(0.001))
    assert line(lambda steps: 1.0 / steps, 50)[1] == 0.0, "noise gives no negative time"


@pytest.mark.parametrize("critic", ["ridge", "leave_one_out_ridge", "short_training", "nearest_class_mean"])
@pytest.mark.parametrize("founders", ["ancestor", "random"])
def test_every_kind_of_run_can_be_calibrated(critic: str, founders: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gtl.planning.calibration.SECONDS", 0.05)
    world = pico_world(critic={"kind": critic, "steps": 5}, founders={"kind": founders}, life={"steps": 4})
    found = planning.calibrate(world)
    assert found.life_step >= 0 and found.criticism > 0 and found.reference > 0
    assert (found.ancestor_step + found.ancestor_once > 0) is (founders == "ancestor")
    assert Calibration.from_json(json.loads(json.dumps(found.to_json()))) == found


@pytest.mark.parametrize("pack", [1, 3])
def test_lives_are_tried_in_packs_where_a_run_has_packs(pack: int, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []

    def recorded(members: Sequence[Job], *rest: Any) -> Any:
        tried.append(len(members))
        return evaluate_pack(members, *rest)

    monkeypatch.setattr("gtl.planning.calibration.SECONDS", 0.05)
    monkeypatch.setattr("gtl.planning.calibration.evaluate_pack", recorded)
    found = planning.calibrate(pico_world(compute={"pack": pack}, life={"steps": 4}))
    assert set(tried) == ({pack} if pack > 1 else set()) and found.life_step >= 0


# --- memory --------------------------------------------------------------------------------------------------------


def test_memory_is_that_of_a_fresh_process(pieces: Calibration) -> None:
    world, peaks = make_world(tiny()), pieces.peaks
    images = world.train.images.nbytes + world.val.images.nbytes
    assert images < peaks.data < 2 * images
    assert 50e6 < peaks.loaded <= peaks.worker <= peaks.ancestor < 2 * GB
    assert pieces.threads == 1 and pieces.start > 0 and peaks.gpu == 0
    ballast = torch.zeros(100_000_000)
    assert peak_memory() > 400e6 and ballast.numel() > 0
    assert calibrate_apart(tiny(), 1).peaks.loaded < 1.2 * peaks.loaded, "whatever this process holds"


def test_workers_fit_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "available_memory", lambda: 10 * GB)
    one = planning.memory(PIECES, 1)
    assert one.fits and one.worker == 3.75 * GB - GB // 10 and one.needed == 3.75 * GB
    two, three = planning.memory(PIECES, 2), planning.memory(PIECES, 3)
    assert two.fits and two.room == 2 and two.needed == 2 * one.worker + GB and two.shared == GB // 10
    assert not three.fits and three.room == 2 and three.needed > 10 * GB
    monkeypatch.setattr(estimate, "available_memory", lambda: 0)
    assert planning.memory(PIECES, 1000).fits, "where nothing is known, nothing is refused"


def test_gpus_set_limits_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "available_memory", lambda: 100 * GB)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    found = replace(PIECES, peaks=replace(PIECES.peaks, gpu=2 * GB, gpu_free=6 * GB))
    memory = planning.memory(found, 5)
    assert memory.room == 4 and not memory.fits and memory.gpu_worker > 2 * GB


# --- disk ----------------------------------------------------------------------------------------------------------


def test_disk_is_of_the_order_of_a_run(tmp_path: Path) -> None:
    config = tiny(evolution={"generations": 5})
    world = make_world(config)
    plan, run = planning.plan(world), engine.evolve(config, tmp_path / "run").run
    disk = planning.disk(plan, world, tmp_path / "other")
    manager_files = [*run.glob("gen-*/*"), run / "lineage.jsonl"]
    assert disk.records == pytest.approx(sum(path.stat().st_size for path in manager_files), rel=0.2)
    blobs = [path.stat().st_size for path in (run / "blobs").rglob("*.safetensors")]
    assert disk.ancestor == pytest.approx(max(blobs), rel=0.1)
    genes = sorted(blobs)[:-1]
    assert max(genes) < 1.1 * disk.gene and sum(genes) < disk.genes
    store = RunStore.open(run)
    for life in read_lineage(store).values():
        if (path := store.blobs.path(life.gene)).exists():
            assert gene_bytes(world.layout, life.genotype.counts) == pytest.approx(path.stat().st_size, rel=0.02)
    everything = sum(path.stat().st_size for path in run.rglob("*") if path.is_file())
    assert everything < disk.needed < everything + 2 * estimate.REPORT_BYTES and disk.fits


def test_of_a_long_ancestor_two_saves_lie_on_the_disk_at_once(tmp_path: Path) -> None:
    world = make_world(tiny(founders={"epochs": 1000.0}))
    plan = planning.plan(world)
    short, hour = planning.disk(plan, world, tmp_path, 10.0), planning.disk(plan, world, tmp_path, 3600.0)
    assert short.saved == 0
    network = build(replace(world.host, num_classes=world.train.n_classes))
    state = sum(tensor.nbytes for tensor in network.state_dict().values() if tensor.is_floating_point())
    assert hour.saved / 2 == pytest.approx(state + sum(p.nbytes for p in network.parameters()), rel=0.01)


# --- the door ------------------------------------------------------------------------------------------------------


def test_nothing_is_written_and_nothing_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_world(tiny())  # drawn glyphs are cached by whoever asks first
    before, threads, numbers = tree(tmp_path), torch.get_num_threads(), torch.get_rng_state()
    cache, environment, state = tree(Path(os.environ["GTL_CACHE"])), dict(os.environ), random.getstate()
    show_plan(tiny(), 2, None, False)
    assert tree(tmp_path) == before == {} and tree(Path(os.environ["GTL_CACHE"])) == cache
    assert torch.get_num_threads() == threads and torch.equal(torch.get_rng_state(), numbers)
    assert dict(os.environ) == environment and random.getstate() == state


@pytest.mark.usefixtures("quick")
def test_json_is_one_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    show_plan(tiny(), 3, tmp_path / "run", True)
    shown = json.loads(capsys.readouterr().out)
    assert shown["plan"]["workers"] == 3 and shown["plan"]["lives"] == 6 and shown["fits"] is True
    assert shown["time"]["low"] < shown["time"]["seconds"] < shown["time"]["high"]
    assert {"plan", "time", "memory", "disk", "calibration", "run", "name"} <= set(shown)


@pytest.mark.usefixtures("quick")
def test_the_table_says_it_in_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    show_plan(tiny(evolution={"patience": 1}), 2, tmp_path / "run", False)
    shown = capsys.readouterr().out
    for words in (
        "16 steps, 336 images",
        "at most 4 (1 founding, 1 search, 2 lives)",
        "6 of them with a life",
        "2 workers",
    ):
        assert words in shown
    assert "NOT ENOUGH" not in shown and "busy" not in shown
    monkeypatch.setattr(planning, "calibrate_apart", lambda config, threads: replace(PIECES, share=0.4))
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    monkeypatch.setattr(estimate, "available_memory", lambda: 6 * GB)
    show_plan(tiny(), 2, tmp_path / "run", False)
    shown = capsys.readouterr().out
    assert shown.count("NOT ENOUGH") == 2 and "1 worker would fit here" in shown
    assert "this machine is busy: the trial got 40% of a core" in shown


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("sections", "error", "message"),
    [
        ({"life": {"n_way": 60}}, ConfigError, r"life.n_way = 60"),
        ({"founders": {"checkpoint": "absent.safetensors"}}, ConfigError, "there is no file absent"),
        ({"data": {"source": "npz", "root": "absent.npz"}}, DataError, "absent.npz"),
        ({"data": {"source": "nothing"}}, DataError, "there is no data source"),
        ({"gene": {"budget": 1e-9, "initial_share": (1e-9, 1e-9)}}, ConfigError, "gene.budget"),
    ],
)
def test_what_a_start_refuses_is_refused(
    sections: dict[str, Any], error: type[GtlError], message: str, tmp_path: Path
) -> None:
    config = tiny(**sections)
    with pytest.raises(error, match=message) as dry:
        show_plan(config, None, tmp_path / "run", True)
    with pytest.raises(error) as real:
        engine.evolve(config, tmp_path / "run")
    assert str(dry.value) == str(real.value)


@pytest.mark.usefixtures("quick")
def test_places_that_a_start_refuses_are_refused(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("full", "file"):
        with pytest.raises(RunError) as dry:
            show_plan(tiny(), None, tmp_path / name, True)
        with pytest.raises(RunError) as real:
            RunStore.create(tmp_path / name, config_text="", config_hash="", versions={})
        assert str(dry.value) == str(real.value)
    with pytest.raises(StorageError, match="no folder that you may write to"):
        show_plan(tiny(), None, tmp_path / "file" / "run", True)
    assert existing(tmp_path / "a" / "b") == tmp_path


def test_a_calibration_that_dies_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for code, stderr, message in ((-9, "", "memory was used up"), (1, "Traceback\nRuntimeError: no room\n", "no room")):
        done = subprocess.CompletedProcess([], code, "", stderr)
        monkeypatch.setattr(subprocess, "run", lambda *args, done=done, **options: done)
        with pytest.raises(EvolutionError, match=message) as caught:
            calibrate_apart(tiny(), 1)
        assert str(caught.value).startswith("pico: ")
