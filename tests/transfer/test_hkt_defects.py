"""The benchmark of HKT's defects: it runs, and each figure is the difference that it names."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pico import CPU, gratings, noise, spec

from gtl.models import build

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import hkt_defects


def test_every_defect_has_its_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--quick", "--seeds", "2", "--device", "cpu", "--out", str(tmp_path / "record.json")]
    assert hkt_defects.main(words) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["figures"] == lines and "RECORD" in record["command"]
    assert len(lines) == 7 and all(line["n"] == 2 and len(line["95 % interval"]) == 2 for line in lines)
    assert all(line["name"].startswith("glyphs: ") for line in lines)


@pytest.mark.slow
def test_outcomes_come_out_of_their_seed() -> None:
    setup, images = replace(hkt_defects.QUICK, fit=6, test=4, steps=4), gratings(3, 12, size=28)
    one, again = (vars(hkt_defects.outcome(setup, images, 1, CPU)) for _ in range(2))
    assert {**one, "seconds": None} == {**again, "seconds": None} and min(one["seconds"]) > 0


def test_the_other_normalisation_is_the_released_codes() -> None:
    """What was normalised as ImageNet is when a network learns, and as CIFAR-10 is when it is tested."""
    network = build(spec("vgg11"), 1).eval()
    (mean, std), (other_mean, other_std) = (
        (torch.tensor(m).view(3, 1, 1), torch.tensor(s).view(3, 1, 1))
        for m, s in (hkt_defects.IMAGENET, hkt_defects.CIFAR)
    )
    inputs = noise()
    pixels = inputs * 0.25 + 0.5
    mistaken = (pixels - other_mean) / other_std * std + mean  # the pixels that the network takes them for
    found = hkt_defects.OtherNorm(network)(inputs)
    torch.testing.assert_close(found, network((mistaken - 0.5) / 0.25), rtol=1e-4, atol=1e-5)
