"""gtl condense: from a checkpoint to a learngene that all other commands read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from commands import gtl
from test_cli import CONFIG

from gtl.config_file import load_config
from gtl.learngene.artifact import Learngene
from gtl.learngene.founders import ancestor_tensors, check_checkpoint
from gtl.models import build, spec_of
from gtl.report.card import write_card
from gtl.world import make_world


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration and a checkpoint of its network, as a training loop leaves it."""
    path = tmp_path_factory.mktemp("condense")
    (path / "tiny.yaml").write_text(CONFIG)
    network = build(spec_of("vgg11", num_classes=7, width=0.0625), 3)
    torch.save({"model": {f"module.{n}": t for n, t in network.state_dict().items()}, "epoch": 3}, path / "mine.pt")
    return path


def test_condense_and_read_it_everywhere(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "gene.safetensors"
    words = ("condense", folder / "mine.pt", folder / "tiny.yaml", "--method", "taylor", "--budget", 0.2, "-o", out)
    assert gtl(*words) == 0
    shown = capsys.readouterr()
    assert "conv8" in shown.out and "whole kernels" in shown.out and "the whole network" in shown.out
    assert "left out: module.head.bias, module.head.weight" in shown.err
    gene = Learngene.load(out)
    assert gene.shares["circuit"] <= 0.2 and gene.provenance["checkpoint"]["name"] == "mine.pt"
    assert str(tmp_path) not in json.dumps(gene.provenance) and str(folder) not in json.dumps(gene.provenance)

    assert gtl("inspect", out) == 0
    read = " ".join(capsys.readouterr().out.split())
    assert "one-shot cut of a checkpoint" in read and "training images unknown" in read and "channels by taylor" in read
    child = tmp_path / "child.safetensors"
    assert gtl("inherit", out, "--arch", "vgg11", "--width", 0.0625, "--classes", 4, "-o", child) == 0
    capsys.readouterr()
    assert gtl("fewshot", out, "--starts", "scratch,learngene", "--out", tmp_path / "evidence") == 0
    assert "unknown" in capsys.readouterr().out
    document = json.loads((tmp_path / "evidence" / "evidence.json").read_text())
    assert document["images"] is None and {row["start"] for row in document["descendants"]} == {"scratch", "learngene"}
    assert "unknown" in write_card(gene.with_evidence([document]), out).read_text()
    assert gtl("fewshot", out) == 65
    assert "compare --starts scratch,learngene" in capsys.readouterr().err


def test_condense_json_and_a_search(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("gtl.learngene.allocation_search.search_allocation.__kwdefaults__", FEW)
    out = tmp_path / "gene.safetensors"
    words = ("condense", folder / "mine.pt", folder / "tiny.yaml", "--allocation", "searched", "-o", out)
    assert gtl(*words, "--set", "seed=4", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    gene = Learngene.load(out)
    assert document["digest"] == gene.digest and document["counts"] == gene.genotype.counts
    assert document["cut"]["evaluations"] > 3 and document["cut"]["budget"] == 0.3
    assert gene.provenance["seed"] == 4
    before = out.read_bytes()
    assert gtl(*words) == 74
    assert "exists already" in capsys.readouterr().err and out.read_bytes() == before
    assert gtl(*words[:-1], tmp_path / "again.safetensors") == 0
    assert "the search judged" in capsys.readouterr().out


FEW = {"starts": 3, "generations": 1, "children": 3, "say": lambda text: None}


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("CHECKPOINT", "CONFIG", "--method", "l2"), 2, "unknown method 'l2'"),
        (("CHECKPOINT", "CONFIG", "--allocation", "late"), 2, "unknown allocation 'late'"),
        (("CHECKPOINT", "CONFIG", "--budget", "2"), 2, "gene.budget"),
        (("CHECKPOINT", "CONFIG", "--budget", "0.000001"), 2, "gene.budget = 1e-06"),
        (("CHECKPOINT", "CONFIG", "--set", "model.width=0.125"), 2, "model.width=0.0625"),
        (("absent.pt", "CONFIG"), 2, "there is no file absent.pt"),
        (("CONFIG", "CONFIG"), 2, "not a readable safetensors file"),
        (("CHECKPOINT", "absent.yaml"), 2, "absent.yaml"),
        (("CHECKPOINT", "CONFIG", "-o", "gene.pt"), 2, "ends in .safetensors"),
        (("CHECKPOINT", "CONFIG", "-o", "nowhere/gene.safetensors"), 74, "Make the folder first"),
    ],
)
def test_what_cannot_be_condensed_ends_in_one_sentence(
    words: tuple[str, ...],
    code: int,
    said: str,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    places = {"CHECKPOINT": folder / "mine.pt", "CONFIG": folder / "tiny.yaml"}
    out = () if "-o" in words else ("-o", "gene.safetensors")
    assert gtl("condense", *(places.get(word, word) for word in words), *out) == code
    printed = capsys.readouterr()
    assert said in printed.err and "Traceback" not in printed.err
    assert not list(tmp_path.iterdir())


def test_a_pt_file_is_an_ancestor_too(folder: Path) -> None:
    world = make_world(load_config(folder / "tiny.yaml", [f"founders.checkpoint={folder / 'mine.pt'}"]))
    check_checkpoint(world)
    tensors, images = ancestor_tensors(world)
    state = torch.load(folder / "mine.pt", weights_only=True)["model"]
    assert images == 0 and all(torch.equal(tensor, state[f"module.{name}"]) for name, tensor in tensors.items())
