"""gtl descend: one descendant, trained as asked for, and what is written about it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from commands import gtl
from pico import random_genotype, spec
from safetensors.torch import load_file
from test_cli import CONFIG

import gtl as package
from gtl.descending import STARTS, descend
from gtl.errors import ConfigError, EvolutionError, LearngeneError
from gtl.learngene.artifact import Learngene
from gtl.models import ArchSpec, build, spec_of
from gtl.surgery import gather
from gtl.training import accuracy
from gtl.transfer_section import TransferSection


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    folder = tmp_path_factory.mktemp("descend")
    (folder / "tiny.yaml").write_text(CONFIG)
    assert gtl("evolve", folder / "tiny.yaml", "--out", folder / "run") == 0
    return folder / "run"


@pytest.fixture(scope="module")
def gene(run: Path) -> Learngene:
    return Learngene.load(run / "learngene.safetensors")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GTL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_descendant_is_written_with_its_report(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Taught by the run's own ancestor; what is written is the plain thin network, and does what the report says."""
    out = tmp_path / "child.safetensors"
    words = (
        "descend",
        run,
        "--start",
        "compact",
        "--transfer",
        "hkt",
        "--mixer",
        "learnable",
        "--taps",
        "conv6,pooled",
    )
    assert gtl(*words, "--shots", 3, "--steps", 5, "--seed", 2, "-o", out, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert (
        document == json.loads((tmp_path / "child.json").read_text()) and document["descendant"] == "child.safetensors"
    )
    counts = Learngene.load(run / "learngene.safetensors").genotype.counts
    assert document["network"]["widths"] == counts and document["shots"] == 3
    assert document["transfer"]["mixer"] == "learnable" and document["transfer"]["taps"] == ["conv6", "pooled"]
    assert document["training"]["images"] == 2 * 5 * 8, "the descendant's and its parent's"
    spec = ArchSpec("vgg11", tuple(counts.items()), len(document["network"]["classes"]))
    network = build(spec)
    network.load_state_dict(load_file(out), strict=True)
    assert document["network"]["parameters"] == sum(p.numel() for p in network.parameters())
    again = descend(
        Learngene.load(run / "learngene.safetensors"), shots=3, steps=5, seed=2, start="compact", transfer="hkt",
        options={"mixer": "learnable", "taps": ("conv6", "pooled")}, parent=run,
    )  # fmt: skip
    assert {**again.report, "descendant": "child.safetensors"} == document
    assert all(torch.equal(network.state_dict()[name], tensor) for name, tensor in again.network.state_dict().items())


def test_people_read_a_sentence(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "child.safetensors"
    assert gtl("descend", run, "--data", "digits", "--shots", 2, "--steps", 2, "-o", out) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert (
        "parameters for 10 classes; report in child.json" in printed and "held-out images of these classes" in printed
    )
    before = out.read_bytes()
    assert gtl("descend", run, "-o", out) == 74
    out.unlink()
    assert gtl("descend", run, "-o", out) == 74, "the report of an older one"
    assert "child.json exists already" in capsys.readouterr().err and before


def test_starts_and_sizes(gene: Learngene) -> None:
    few = {"data": "digits", "shots": 2, "steps": 2, "test_images": 3}
    found = {start: descend(gene, start=start, **few) for start in STARTS}
    sizes = {start: result.report["network"]["widths"] for start, result in found.items()}
    assert sizes["learngene"] == sizes["scratch"] == gene.genotype.sizes
    assert sizes["compact"] == sizes["compact-scratch"] == gene.genotype.counts
    assert len({float(result.network.state_dict()["conv1.conv.weight"].sum()) for result in found.values()}) == 4
    report = found["compact"].report
    assert report["transfer"] is None and report["test_images"] == 3 and len(report["by_class"]) == 10


def test_a_checkpoint_may_be_the_parent(gene: Learngene, tmp_path: Path) -> None:
    network = build(spec_of("vgg11", num_classes=7, width=0.0625), 3)
    torch.save(network.state_dict(), tmp_path / "parent.pt")
    few = {"data": "digits", "shots": 2, "steps": 3, "test_images": 3, "start": "compact-scratch"}
    plain = descend(gene, **few)
    for kind in ("hkt", "distillation"):
        taught = descend(gene, transfer=kind, parent=tmp_path / "parent.pt", **few)
        assert not torch.equal(taught.network.head.weight, plain.network.head.weight)  # type: ignore[union-attr]
        assert taught.report["curve"][0] == plain.report["curve"][0], "the same newborn"


def test_the_accuracy_is_on_other_images_of_these_classes(gene: Learngene, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def looked(network: torch.nn.Module, images: object, compute: object) -> float:
        seen.append(images)
        return accuracy(network, images, compute)  # type: ignore[arg-type]

    monkeypatch.setattr("gtl.fewshot.accuracy", looked)
    result = descend(gene, "digits", shots=2, steps=2, test_images=3, role="novel")
    (test,) = {id(each): each for each in seen}.values()
    assert test.class_counts == dict.fromkeys(result.report["network"]["classes"], 3)  # type: ignore[attr-defined]
    assert result.report["data"]["images"] != test.digest  # type: ignore[attr-defined]


def test_a_training_that_diverges_says_so(gene: Learngene) -> None:
    huge = replace(gene, tensors={name: 1e30 * tensor.abs() for name, tensor in gene.tensors.items()})
    with pytest.raises(EvolutionError, match=r"the training diverged .* lower the learning rate, now 0.05"):
        descend(huge, "digits", shots=2, steps=1, test_images=2)


def test_a_gene_without_a_configuration_needs_data() -> None:
    network = build(spec())
    genotype = random_genotype(network.layout.groups, 1, 0.5)
    bare = Learngene("vgg11", genotype, gather(network.state_dict(), network.layout, genotype))
    with pytest.raises(LearngeneError, match="say which data the descendant is to learn"):
        descend(bare)
    assert descend(bare, "digits", shots=2, steps=1, test_images=2).report["fine_tuning"] == {"rule": "plain"}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"start": "magic"}, "there is no start 'magic'; choose one of learngene, scratch, compact"),
        ({"transfer": "osmosis"}, "there is no transfer 'osmosis'; choose one of none, hkt, distillation"),
        ({"transfer": "hkt"}, "the transfer hkt needs a parent"),
        ({"parent": "parent.pt"}, "a parent teaches nothing without a transfer"),
        ({"transfer": "hkt", "parent": "nowhere.pt"}, "there is no file nowhere.pt"),
        ({"fine_tuning": "magic"}, "unknown fine-tuning rule 'magic'; known are plain"),
        ({"options": {"mixer": "blender"}}, r"transfer.mixer: .* got \"blender\""),
        ({"options": {"mixers": "static"}}, r"transfer.mixers"),
        ({"learning_rate": -1.0}, "fewshot.training.learning_rate"),
        ({"shots": 0}, "fewshot.shots"),
    ],
)
def test_what_cannot_be_is_refused(gene: Learngene, options: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        descend(gene, "digits", **{"shots": 2, "steps": 1, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize("rule", ["child-tuning-free", "child-tuning-driven", "subnetwork-annealing", "weight-mixup"])
def test_a_rule_trains_the_descendant(gene: Learngene, rule: str) -> None:
    plain, found = (
        descend(gene, "digits", shots=4, steps=2, test_images=2, fine_tuning=name) for name in ("plain", rule)
    )
    assert found.report["fine_tuning"] == {"rule": rule, **TransferSection().options_of(rule)}
    ours, theirs = found.network.state_dict(), plain.network.state_dict()
    assert ours.keys() == theirs.keys()
    assert any(not torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_rule_and_its_options_may_stand_in_the_configuration(gene: Learngene) -> None:
    asked = {"fine_tuning": "child-tuning-driven", "child_tuning_driven": {"share": 0.2, "images": 4}}
    found = descend(gene, "digits", shots=4, steps=1, test_images=2, options=asked)
    assert found.report["fine_tuning"] == {"rule": "child-tuning-driven", "share": 0.2, "images": 4}
    plain = descend(gene, "digits", shots=4, steps=1, test_images=2, options=asked, fine_tuning="plain")
    assert plain.report["fine_tuning"] == {"rule": "plain"}, "what is said in the call comes before the configuration"


def test_rules_and_transfers_exclude_each_other(gene: Learngene, run: Path) -> None:
    with pytest.raises(ConfigError, match="both say how to train; take one of them"):
        descend(gene, "digits", transfer="hkt", parent=run, fine_tuning="weight-mixup")


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("--role", "all"), 2, "there is no role 'all'; choose one of train, val, novel"),
        (("-o", "child.pt"), 2, "not the name of a state dict"),
        (("-o", "nowhere/child.safetensors"), 74, "Make the folder first"),
        (("--transfer", "hkt", "--taps", "stage1"), 2, "the child has no such stage"),
        (("--shots", "900"), 65, "has 12 images, 901 are needed"),
    ],
)
def test_bad_words_end_in_one_sentence(
    words: tuple[str, ...],
    code: int,
    says: str,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    given = words if "-o" in words else (*words, "-o", "child.safetensors")
    assert gtl("descend", run, *given) == code
    printed = " ".join(capsys.readouterr().err.split())
    assert says in printed and "Traceback" not in printed
    assert list(tmp_path.glob("*.safetensors")) == []


def test_compare_takes_options_of_transfer_alone(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = (
        "compare",
        run / "learngene.safetensors",
        "--starts",
        "compact-scratch,compact-hkt",
        "--workers",
        1,
        "--json",
    )
    assert gtl(*words, "--set", "transfer.mixer=static") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["starts"]["compact HKT"]["transfer"]["mixer"] == "static"
    assert {row["start"] for row in document["descendants"]} == {"scratch", "compact scratch", "compact HKT"}
    assert gtl(*words, "--set", "seed=3") == 2
    assert "only transfer.* can be changed" in capsys.readouterr().err


def test_descend_takes_options_of_transfer_alone(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("descend", run, "--data", "digits", "--shots", 2, "--steps", 4, "-o", tmp_path / "child.safetensors")
    rule = ("--set", "transfer.fine_tuning=weight-mixup", "--set", "transfer.weight_mixup.held_out=0.5")
    assert gtl(*words, "--set", "transfer.weight_mixup.held_out=1.5") == 2
    assert "transfer.weight_mixup.held_out" in capsys.readouterr().err
    assert gtl(*words, "--set", "seed=3") == 2
    assert gtl(*words, *rule) == 0
    said = json.loads((tmp_path / "child.json").read_text())["fine_tuning"]
    assert said["rule"] == "weight-mixup" and said["held_out"] == 0.5 and said["every"] == 5


def test_python_has_it() -> None:
    assert package.descend is descend and "descend" in dir(package)
