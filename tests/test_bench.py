"""gtl bench: rates follow from what was measured, operations from the network, and the fastest way can be typed."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pico import world as pico_world
from rich.console import Console
from tiny_run import tiny

from gtl.cli.bench import _choices
from gtl.cli.bench import bench as command
from gtl.config import ComputeSection
from gtl.config_file import changed_config, dump_config, load_config
from gtl.machine import cores
from gtl.planning import Calibration, Peaks, Way
from gtl.planning.bench import pace, peak_flops_with, step_flops, undisturbed_ancestor, ways
from gtl.tuning import WORTHWHILE, Choice, Tuning
from gtl.world import make_world

PIECES = Calibration("cpu", 1, 5.0, 7.0, 0.5, 3.0, 2.0, 4.0, 0.25, 1.0, 0.95, Peaks(1, 1, 1, 1))


def test_rates_are_those_of_all_workers() -> None:
    world = pico_world(life={"steps": 40, "training": {"batch_size": 20}}, critic={"tasks": 3})
    found = pace(Way("float32", 2, 1), world, [PIECES, PIECES], peak=1e6)
    assert found.images_per_second == 2 * 20 / PIECES.life_step
    assert found.lives_per_hour == pytest.approx(3600 * 2 / (2.0 + 4.0 + 3 * 1.0 + 40 * 0.25))
    assert found.peak_share == pytest.approx(step_flops(world, 20) / 0.25 / 1e6)


def test_the_ancestor_is_taken_from_the_way_in_which_it_trains_alone() -> None:
    world = pico_world()
    crowded = replace(PIECES, ancestor_once=70.0, ancestor_step=5.0)
    paces = [pace(Way("float32", n, 1), world, [each] * n, 1e6) for n, each in ((2, crowded), (1, PIECES))]
    found = undisturbed_ancestor(paces)
    assert [each.way.workers for each in found] == [2, 1]
    assert {(each.calibration.ancestor_once, each.calibration.ancestor_step) for each in found} == {(7.0, 0.5)}
    assert [each.lives_per_hour for each in found] == [each.lives_per_hour for each in paces]


@pytest.mark.parametrize("arch", ["vgg11", "resnet12"])
def test_operations_of_a_step(arch: str) -> None:
    """By hand: two for a multiplication and an addition, thrice the forward pass, whose first layer has no input gradient."""
    world, batch = pico_world(arch), 5
    layout, size = world.layout, world.train.image_size
    pixels = {"vgg11": [1, 1 / 4, 1 / 16, 1 / 16, 1 / 64, 1 / 64, 1 / 256, 1 / 256],
              "resnet12": [4.0**-i for i in range(4) for _ in range(4)]}[arch]  # fmt: skip
    forward = [
        2 * batch * size**2 * share * math.prod(layout.shapes[name])
        for name, share in zip(layout.convolutions, pixels, strict=True)
    ]
    reads_image = [layout.shapes[name][1] == 3 for name in layout.convolutions]
    head = 2 * batch * math.prod(layout.shapes["head.weight"][1:]) * world.config.life.n_way
    expected = sum(each * (2 if image else 3) for each, image in zip(forward, reads_image, strict=True)) + 3 * head
    assert step_flops(world, batch) == pytest.approx(expected)


def test_the_peak_is_measured_with_the_threads_asked_for_and_leaves_them_alone() -> None:
    before = torch.get_num_threads()
    assert peak_flops_with(ComputeSection(device="cpu", threads=before + 1, precision="float32")) > 1e8
    assert torch.get_num_threads() == before


def test_ways_of_a_cpu() -> None:
    before = torch.get_num_threads()
    settled = tiny(evolution={"population": 64}, compute={"threads": before + 1})
    found = ways(settled)
    assert {way.memory_format for way in found} == {"channels_last"}
    plain = ways(changed_config(settled, compute={"memory_format": "contiguous"}))
    assert plain == [replace(way, memory_format="contiguous") for way in found]
    assert "--set compute.memory_format=contiguous" in plain[0].settings()
    assert {way.precision for way in found} >= {"float32"}
    assert {(way.workers, way.threads) for way in found} == {(1, cores()), (min(cores(), 64), 1)}
    assert torch.get_num_threads() == before


def test_the_choice_is_shown_with_its_candidates() -> None:
    usual, other = Choice("float32", "channels_last"), Choice("float32", "contiguous")
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(_choices(tiny(compute={"threads": 1}), Tuning({usual: 0.5, other: 0.25}, 100, "key")))
    short = f"lives on fewer than {WORTHWHILE:,} images are too few for that: they compute in float32, channels_last"
    lines = console.export_text().splitlines()
    assert [line.split() for line in lines if line.startswith("│")] == [
        ["│", "float32", "│", "contiguous", "│", "400", "│", "chosen", "│"],
        ["│", "float32", "│", "channels_last", "│", "200", "│", "│"],
    ]
    assert short in " ".join(line.strip() for line in lines), "and that this run is too short to choose"
    set_ = tiny(compute={"precision": "bfloat16", "memory_format": "contiguous"})
    assert _choices(set_, None) == "gtl evolve computes in bfloat16, contiguous: there is nothing to choose"


@pytest.mark.slow
def test_what_it_advises_can_be_typed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text(dump_config(tiny(compute={"precision": "auto"})))
    files = sorted(tmp_path.rglob("*"))
    command(path, None, json_=True)
    found = json.loads(capsys.readouterr().out)
    assert sorted(tmp_path.rglob("*")) == files, "nothing is written"
    rates = [way["lives_per_hour"] for way in found["ways"]]
    assert rates == sorted(rates, reverse=True) and min(rates) > 0
    candidates = found["calibration"]["candidates"]
    assert any(found["calibration"]["chosen"].items() <= each.items() for each in candidates)
    assert len(candidates) in (2, 4) and all(each["images_per_second"] > 0 for each in candidates)
    assert {way["memory_format"] for way in found["ways"]} == {found["calibration"]["chosen"]["memory_format"]}
    assert all(0 < way["peak_share"] < 1.5 for way in found["ways"]), found["ways"]
    words = found["fastest"].split()
    assert words[:3] == ["gtl", "evolve", str(path)]
    settled = load_config(path, [words[n + 1] for n, word in enumerate(words) if word == "--set"])
    for key in ("precision", "threads", "memory_format"):
        assert getattr(settled.compute, key) == found["ways"][0][key]
    assert make_world(settled).compute.device.type == "cpu" and found["time"]["seconds"] > 0
