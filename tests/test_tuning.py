"""Which way to compute is timed once, kept, written into the run, and left to whoever set it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pico import CPU
from tiny_run import tiny

from gtl import engine, tuning
from gtl.config import ComputeSection, Config
from gtl.config_file import config_hash, load_config, parse_config
from gtl.data.cache import cache_dir
from gtl.errors import ConfigError, EvolutionError
from gtl.life import World
from gtl.measurement import compute_changes
from gtl.population.observer import Observer
from gtl.population.run import LEARNGENE, read_config
from gtl.population.workforce import Workforce, settle
from gtl.tuning import CALIBRATION, Choice, Tuning, Work, candidates_of, images_of_lives, least, measured, timed, tune
from gtl.world import make_world

LAST, PLAIN = Choice("float32", "channels_last"), Choice("float32", "contiguous")
HALF, HALF_PLAIN = Choice("bfloat16", "channels_last"), Choice("bfloat16", "contiguous")
ALONE = Workforce(1)
OPEN = {"device": "cpu", "precision": "auto", "memory_format": "auto"}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test starts on a machine that remembers nothing, with bfloat16 as if its hardware had it."""
    monkeypatch.setenv("GTL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tuning, "fast_bfloat16", lambda device: True)
    return tmp_path / "cache"


@pytest.fixture
def any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """The smallest runs are worth timing."""
    monkeypatch.setattr(tuning, "WORTHWHILE", 1)


class Clockwork:
    """In place of `measured`: given seconds, by choice; counts how often it is asked."""

    def __init__(self, seconds: Mapping[Choice, float]) -> None:
        self.seconds, self.asked = seconds, 0

    def __call__(self, work: Work, candidates: Sequence[Choice]) -> dict[Choice, float]:
        self.asked += 1
        return {choice: self.seconds[choice] for choice in candidates}


@pytest.fixture
def clockwork(monkeypatch: pytest.MonkeyPatch) -> Clockwork:
    """Contiguous float32 is the fastest by far."""
    found = Clockwork({HALF: 2.0, HALF_PLAIN: 3.0, LAST: 1.5, PLAIN: 1.0})
    monkeypatch.setattr(tuning, "measured", found)
    return found


def open_world(**sections: Any) -> World:
    """A tiny world that leaves everything open, on one thread."""
    return make_world(settle(tiny(**{"compute": {**OPEN, "threads": 1}, **sections}), 1)[0])


def work(**changes: Any) -> Work:
    return replace(Work.of(open_world()), **changes)


# --- what is chosen ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ({HALF: 1.0, LAST: 1.0}, HALF),
        ({HALF: 1.0, LAST: 0.93}, HALF),  # 7.5 %: noise
        ({HALF: 1.08, LAST: 1.0}, LAST),
        ({HALF: 1.0, LAST: 0.5, PLAIN: 0.4}, PLAIN),
        ({LAST: 1.0, PLAIN: 2.0}, LAST),
    ],
)
def test_the_usual_way_is_left_only_for_a_clearly_faster_one(seconds: dict[Choice, float], chosen: Choice) -> None:
    found = Tuning(seconds, 32, "key")
    assert found.chosen == chosen
    assert found.rates[chosen] == 32 / seconds[chosen]


def test_candidates_are_what_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    def candidates(**keys: Any) -> list[Choice]:
        return candidates_of(ComputeSection(device="cpu", **keys))

    assert candidates() == [HALF, HALF_PLAIN, LAST, PLAIN], "the usual one first"
    assert candidates(precision="float32") == [LAST, PLAIN]
    assert candidates(memory_format="contiguous") == [HALF_PLAIN, PLAIN]
    assert candidates(precision="bfloat16", memory_format="contiguous") == [HALF_PLAIN]
    monkeypatch.setattr(tuning, "fast_bfloat16", lambda device: False)
    assert candidates() == [LAST, PLAIN], "emulated bfloat16 is no candidate"
    assert candidates(precision="bfloat16") == [HALF, HALF_PLAIN], "but who sets it gets it"


class Turns:
    """A way whose turns take given seconds, on a clock that all ways share."""

    def __init__(self, clock: list[float], seconds: Sequence[float]) -> None:
        self.clock, self.left, self.taken = clock, list(seconds), 0

    def __call__(self) -> float:
        self.taken += 1
        found = self.left.pop(0) if len(self.left) > 1 else self.left[0]
        self.clock[0] += found
        return found


def run_turns(**seconds: Sequence[float]) -> tuple[dict[str, float], dict[str, int]]:
    clock = [0.0]
    names = {"last": LAST, "plain": PLAIN, "half": HALF}
    turns = {names[name]: Turns(clock, values) for name, values in seconds.items()}
    found = least(turns, lambda: clock[0])
    return {n: found[names[n]] for n in seconds}, {n: turns[names[n]].taken for n in seconds}


def test_times_are_minima_in_turns() -> None:
    found, taken = run_turns(last=[0.3, 0.1, 0.2], plain=[0.12, 0.9, 0.11, 0.2])
    assert found == {"last": 0.1, "plain": 0.11}, "a disturbed turn is forgotten"
    assert abs(taken["last"] - taken["plain"]) <= 1 and taken["last"] > tuning.ROUNDS


def test_what_is_clearly_slower_is_left_alone() -> None:
    _, taken = run_turns(last=[0.1], plain=[0.11], half=[0.2])
    assert taken["half"] == tuning.ROUNDS < taken["last"] == taken["plain"]
    _, taken = run_turns(last=[0.1], plain=[0.2])
    assert taken == {"last": tuning.ROUNDS, "plain": tuning.ROUNDS}, "nothing left to decide"


def test_large_hosts_get_two_steps_each() -> None:
    _, taken = run_turns(last=[50.0], plain=[51.0], half=[90.0])
    assert taken == {"last": 2, "plain": 2, "half": 2}


# --- what is remembered --------------------------------------------------------------------------------------------


def test_a_choice_is_remembered(clockwork: Clockwork, cache: Path) -> None:
    first = timed(work(), [HALF, LAST, PLAIN])
    assert (first.chosen, first.cached, clockwork.asked) == (PLAIN, False, 1)
    clockwork.seconds = {HALF: 1.0, LAST: 9.0, PLAIN: 9.0}  # another time it would come out otherwise
    again = timed(work(), [HALF, LAST, PLAIN])
    assert again == replace(first, cached=True) and clockwork.asked == 1
    assert [path.name for path in cache.glob("tuning*")] == [f"tuning-{first.key}.json"]


CHANGES: dict[str, Any] = {
    "arch": "resnet12", "widths": (("conv1", 3),), "n_way": 3, "image_size": 32, "batch": 17, "crop_padding": 2,
    "mirror": True, "device": "cuda:1", "hardware": "abacus", "threads": 2, "torch": "1.0",
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_other_work_is_timed_anew(clockwork: Clockwork, name: str) -> None:
    assert set(CHANGES) == set(asdict(work())), "everything that it depends on"
    changed = work(**{name: CHANGES[name]})
    assert changed != work()
    keys = {timed(each, [LAST, PLAIN]).key for each in (work(), changed)}
    assert len(keys) == clockwork.asked == 2


def test_another_format_or_other_candidates_are_timed_anew(
    clockwork: Clockwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed(work(), [LAST, PLAIN])
    timed(work(), [HALF, LAST, PLAIN])
    monkeypatch.setattr(tuning, "FORMAT", tuning.FORMAT + 1)
    timed(work(), [LAST, PLAIN])
    assert clockwork.asked == 3


def other_times(data: bytes) -> bytes:
    return data.replace(b"1.5", b"0.1")


def unsigned(data: bytes) -> bytes:
    """Whole and plausible, but with nothing that says so."""
    return json.dumps(json.loads(data)["record"]).encode()


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-30], lambda data: b"", lambda data: b"\xff\x00", lambda data: b"[1]", other_times, unsigned]
)  # fmt: skip
def test_a_damaged_cache_is_ignored_and_replaced(
    clockwork: Clockwork, cache: Path, damage: Callable[[bytes], bytes]
) -> None:
    first = timed(work(), [LAST, PLAIN])
    (path,) = cache.glob("tuning*")
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert path.read_bytes() != whole
    assert timed(work(), [LAST, PLAIN]) == first and clockwork.asked == 2
    assert path.read_bytes() == whole


@pytest.mark.parametrize("seconds", [[], [1.0], [1.0, 0.0], [1.0, "2"], [1.0, None], None, [1.0, math.inf]])
def test_times_that_cannot_be_are_ignored(clockwork: Clockwork, cache: Path, seconds: Any) -> None:
    first = timed(work(), [LAST, PLAIN])
    name = f"tuning-{first.key}.json"
    record = tuning.read_cached(name)
    assert record is not None
    tuning.write_cached(name, {**record, "seconds": seconds})
    assert timed(work(), [LAST, PLAIN]) == first and clockwork.asked == 2


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(
    clockwork: Clockwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GTL_CACHE", str(tmp_path / "file"))
    assert [timed(work(), [LAST, PLAIN]).chosen for _ in range(2)] == [PLAIN, PLAIN]
    assert clockwork.asked == 2


def test_of_two_runs_that_time_at_once_both_take_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    def overtaken(work: Work, candidates: Sequence[Choice]) -> dict[Choice, float]:
        monkeypatch.setattr(tuning, "measured", Clockwork({LAST: 1.0, PLAIN: 9.0}))
        assert timed(work, candidates).chosen == LAST
        return {LAST: 9.0, PLAIN: 1.0}

    monkeypatch.setattr(tuning, "measured", overtaken)
    assert timed(work(), [LAST, PLAIN]).chosen == LAST


# --- real steps ----------------------------------------------------------------------------------------------------


def test_real_steps_are_timed_on_the_threads_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    before, seen = torch.get_num_threads(), []
    learn = tuning.learn

    def watched(network: Any, inputs: torch.Tensor, labels: torch.Tensor, descent: Any, step: int, compute: Any) -> Any:
        plain = inputs.is_contiguous()
        assert plain == (compute.memory_format is torch.contiguous_format)
        seen.append((torch.get_num_threads(), compute.autocast, plain, *inputs.shape, int(labels.max())))
        return learn(network, inputs, labels, descent, step, compute)

    monkeypatch.setattr(tuning, "learn", watched)
    monkeypatch.setattr(tuning, "SECONDS", 0.05)
    own = work(threads=before + 1)
    found = measured(own, [HALF, HALF_PLAIN, LAST, PLAIN])
    assert list(found) == [HALF, HALF_PLAIN, LAST, PLAIN] and all(0 < value < 60 for value in found.values())
    assert torch.get_num_threads() == before
    assert {each[0] for each in seen} == {before + 1}
    assert {each[1:3] for each in seen} == {
        (dtype, plain) for dtype in (torch.bfloat16, None) for plain in (True, False)
    }
    assert {each[3:] for each in seen} == {(16, 3, 28, 28, 3)}, "the life's batches and classes"


def test_a_process_of_its_own_times_the_same() -> None:
    found = tuning._measured_apart(work(), [LAST, PLAIN])
    assert list(found) == [LAST, PLAIN] and all(0 < value < 60 for value in found.values())
    with pytest.raises(EvolutionError, match="abacus"):
        tuning._measured_apart(work(arch="abacus"), [LAST, PLAIN])


# --- what a run makes of it ----------------------------------------------------------------------------------------


def test_small_runs_compute_the_usual_way(clockwork: Clockwork) -> None:
    world = open_world(life={"steps": 3, "training": {"batch_size": 16}})
    assert images_of_lives(world.config) == 2 * (4 - 1) * 3 * 16
    found, tuned = tune(world, ALONE)
    assert tuned is None and clockwork.asked == 0
    assert (found.config.compute.precision, found.config.compute.memory_format) == ("bfloat16", "channels_last")
    assert found.compute == replace(CPU, autocast=torch.bfloat16)
    long = open_world(life={"steps": tuning.WORTHWHILE // (6 * 16) + 1, "training": {"batch_size": 16}})
    assert tune(long, ALONE)[1] is not None and clockwork.asked == 1
    assert tune(world, ALONE, small_too=True)[1] is not None


@pytest.mark.usefixtures("any_size")
def test_lives_without_steps_are_not_timed(clockwork: Clockwork) -> None:
    found, tuned = tune(open_world(life={"steps": 0}), ALONE, small_too=True)
    assert tuned is None and clockwork.asked == 0 and found.config.compute.precision == "bfloat16"


@pytest.mark.usefixtures("any_size")
@pytest.mark.parametrize(
    ("keys", "chosen"),
    [
        ({}, PLAIN),
        ({"precision": "bfloat16"}, HALF),
        ({"memory_format": "channels_last"}, LAST),
        ({"precision": "bfloat16", "memory_format": "contiguous"}, HALF_PLAIN),  # the slowest; it was asked for
    ],
)
def test_what_is_set_is_never_touched(clockwork: Clockwork, keys: dict[str, str], chosen: Choice) -> None:
    world = open_world(compute={**OPEN, "threads": 1, **keys})
    found, tuned = tune(world, ALONE)
    compute = found.config.compute
    assert Choice(compute.precision, compute.memory_format) == chosen  # type: ignore[arg-type]
    assert (tuned is None) == (len(keys) == 2) and clockwork.asked == (tuned is not None)
    same = {"compute": world.config.compute}
    assert found.config.model_copy(update=same) == world.config, "nothing else changes"
    assert found.compute.memory_format is getattr(
        torch, chosen.memory_format.replace("contiguous", "contiguous_format")
    )
    assert found.compute.autocast is (torch.bfloat16 if chosen.precision == "bfloat16" else None)


@pytest.mark.usefixtures("any_size")
def test_a_cluster_is_left_to_its_workers(clockwork: Clockwork) -> None:
    world = open_world()
    assert tune(world, Workforce(2, "auto")) == (world, None) and clockwork.asked == 0
    assert world.config.compute.precision == "auto"
    driver = make_world(world.config, computes=False)
    found, _ = tune(driver, Workforce(2))
    assert found.config.compute.memory_format == "contiguous" and found.compute is driver.compute


@pytest.mark.usefixtures("any_size")
def test_a_run_starts_even_if_nothing_could_be_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(work: Work, candidates: Sequence[Choice]) -> dict[Choice, float]:
        raise torch.OutOfMemoryError("too large")

    monkeypatch.setattr(tuning, "measured", fail)
    said: list[str] = []
    found, tuned = tune(open_world(), ALONE, said.append)
    assert tuned is None and found.config.compute.precision == "bfloat16"
    assert said == ["warning: no way to compute could be timed, so it is bfloat16, channels_last: too large"]


class Hears(Observer):
    """Keeps the messages."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)


def files(run: Path) -> dict[str, bytes]:
    """What two equal runs have in common: their configuration, their genes, the learngene."""
    blobs = {str(path.relative_to(run)): path.read_bytes() for path in (run / "blobs").rglob("*.safetensors")}
    return {**blobs, **{name: (run / name).read_bytes() for name in ("config.yaml", LEARNGENE)}}


@pytest.mark.usefixtures("any_size")
def test_a_run_keeps_its_choice(clockwork: Clockwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is in the configuration, resume does not choose again, and it is the run with the choice written out."""
    hears = Hears()
    result = engine.evolve(tiny(compute=OPEN), tmp_path / "run", workers=1, observer=hears)
    record = json.loads((result.run / CALIBRATION).read_text())
    assert record["chosen"] == asdict(PLAIN) and record["cached"] is False
    assert record["candidates"][0] == {**asdict(HALF), "images_per_second": 8.0} and len(record["candidates"]) == 4
    assert (cache_dir() / f"tuning-{record['key']}.json").is_file()
    assert hears.messages[0].startswith("computes in float32, contiguous; images/s: float32, contiguous 16; ")
    kept = read_config(result.run)
    assert (kept.compute.precision, kept.compute.memory_format) == ("float32", "contiguous")
    assert json.loads((result.run / "run.json").read_text())["config_hash"] == config_hash(kept)

    monkeypatch.setenv("GTL_CACHE", str(tmp_path / "other cache"))
    clockwork.seconds = {choice: 1.0 if choice == HALF else 9.0 for choice in clockwork.seconds}
    longer = engine.resume(result.run, generations=3)
    assert clockwork.asked == 1 and json.loads((result.run / CALIBRATION).read_text()) == record
    assert longer.learngene.provenance["config"]["compute"]["memory_format"] == "contiguous"

    explicit = {**OPEN, "precision": "float32", "memory_format": "contiguous"}
    written = engine.evolve(tiny(compute=explicit), tmp_path / "written", workers=1)
    engine.resume(written.run, generations=3)
    assert clockwork.asked == 1 and not (written.run / CALIBRATION).exists()
    assert files(written.run) == files(result.run) and len(files(result.run)) > 3


def test_a_real_choice_is_one_of_the_real_candidates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing stands in for anything here."""
    monkeypatch.undo()
    monkeypatch.setattr(tuning, "WORTHWHILE", 1)
    monkeypatch.setenv("GTL_CACHE", str(tmp_path / "cache"))
    runs = [engine.evolve(tiny(compute=OPEN), tmp_path / name, workers=1).run for name in ("one", "two")]
    one, two = (json.loads((run / CALIBRATION).read_text()) for run in runs)
    assert (one["cached"], two["cached"]) == (False, True)
    assert {**one, "cached": True} == two
    assert len(one["candidates"]) == len(candidates_of(ComputeSection(device="cpu")))
    assert all(10 < each["images_per_second"] < 1e7 for each in one["candidates"])
    compute = read_config(runs[0]).compute
    assert one["chosen"] == {"precision": compute.precision, "memory_format": compute.memory_format}
    assert files(runs[0]) == files(runs[1])


# --- what the user sets --------------------------------------------------------------------------------------------


def test_values_that_are_none_are_refused(tmp_path: Path) -> None:
    for key, value, allowed in (
        ("precision", "float16", "one of auto, float32, bfloat16"),
        ("memory_format", "nhwc", "one of auto, contiguous, channels_last"),
    ):
        with pytest.raises(ConfigError, match=rf'compute.{key} = "{value}": must be {allowed}'):
            parse_config(f"name: x\ndata: {{source: glyphs}}\ncompute: {{{key}: {value}}}\n", "c.yaml")
    path = tmp_path / "c.yaml"
    path.write_text("name: x\ndata: {source: glyphs}\n")
    settled: Config = load_config(path, ["compute.precision=float32", "compute.memory_format=contiguous"])
    assert (settled.compute.precision, settled.compute.memory_format) == ("float32", "contiguous")


def test_a_gene_is_measured_in_its_precision_where_the_machine_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from gtl import measurement

    anywhere = {"device": "auto", "threads": 0, "memory_format": "auto"}
    half = ComputeSection(device="cuda:3", threads=7, precision="bfloat16", memory_format="contiguous")
    said: list[str] = []
    monkeypatch.setattr(measurement, "fast_bfloat16", lambda device: True)
    assert compute_changes(half, said.append) == anywhere and not said
    monkeypatch.setattr(measurement, "fast_bfloat16", lambda device: False)
    for precision in ("float32", "auto"):
        assert compute_changes(half.model_copy(update={"precision": precision}), said.append) == anywhere and not said
    assert compute_changes(half, said.append) == {**anywhere, "precision": "float32"}
    assert said == ["the gene was evolved in bfloat16, which this machine has not in hardware: measuring in float32"]
