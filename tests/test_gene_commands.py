"""gtl inspect, diff, merge, shrink: what they say, what they write, and what they leave alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import gtl
from test_cli import CONFIG

from gtl.config_file import load_config
from gtl.learngene.artifact import Learngene
from gtl.learngene.condense import condense
from gtl.models import build, spec_of
from gtl.surgery import gather
from gtl.world import make_world

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def genes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two cuts of one network, a.safetensors and b.safetensors, and a gene of another architecture without records."""
    folder = tmp_path_factory.mktemp("genes")
    (folder / "tiny.yaml").write_text(CONFIG)
    world = make_world(load_config(folder / "tiny.yaml"))
    state = build(world.host, 3).state_dict()
    for name, method in (("a", "l1"), ("b", "random")):
        condense(world, state, method=method, budget=0.3).with_evidence([{"odd": "\x1b[2J"}]).save(
            folder / f"{name}.safetensors"
        )
    network = build(spec_of("resnet12", num_classes=2, width=0.0625), 1)
    full = network.layout.full()
    Learngene("resnet12", full, gather(network.state_dict(), network.layout, full)).save(folder / "c.safetensors")
    return folder


def test_inspect_says_what_a_gene_is(genes: Path, tmp_path: Path, capsys: Capture) -> None:
    picture = tmp_path / "kept.png"
    assert gtl("inspect", genes / "a.safetensors", "--picture", picture) == 0
    shown = capsys.readouterr()
    read = " ".join(shown.out.split())
    for wanted in ("conv8", "as a circuit", "if whole kernels are counted", "MFLOP an image, the whole network",
                   "convolutions on 28 x 28 pixels", "runs alone: yes", "one-shot cut of a checkpoint"):  # fmt: skip
        assert wanted in read, wanted
    assert "\x1b" not in shown.out, "a file moves no cursor"
    assert picture.read_bytes().startswith(b"\x89PNG") and str(picture) in shown.err
    before = picture.read_bytes()
    assert gtl("inspect", genes / "b.safetensors", "--picture", picture) == 74
    assert "exists already" in capsys.readouterr().err and picture.read_bytes() == before
    assert gtl("inspect", genes / "b.safetensors", "--picture", tmp_path / "kept.jpg") == 2
    assert "ends in .png" in capsys.readouterr().err


def test_inspect_json_has_all_of_it(genes: Path, capsys: Capture) -> None:
    assert gtl("inspect", genes / "a.safetensors", "--json", "--pixels", 40) == 0
    found = json.loads(capsys.readouterr().out)
    gene = Learngene.load(genes / "a.safetensors")
    assert found["digest"] == gene.digest and found["shares"] == found["recorded_shares"] == dict(gene.shares)
    assert found["provenance"] == gene.provenance and found["evidence"] == list(gene.evidence)
    assert found["image_size"] == 40 and found["runs_alone"] is True and 0 < found["flops"] < found["network_flops"]
    assert [row["group"] for row in found["groups"]] == list(gene.genotype) == list(found["genotype"])


def test_a_gene_without_records_is_looked_into_as_well(genes: Path, capsys: Capture) -> None:
    assert gtl("inspect", genes / "c.safetensors") == 0
    read = " ".join(capsys.readouterr().out.split())
    assert "made: not recorded how" in read and "no size is recorded" in read and "evidence: none" in read


def test_diff_of_two_cuts(genes: Path, capsys: Capture) -> None:
    words = ("diff", genes / "a.safetensors", genes / "b.safetensors")
    assert gtl(*words, "--images", "glyphs") == 0
    read = " ".join(capsys.readouterr().out.split())
    assert "Jaccard" in read and "48 val images of glyphs in batches of 48" in read and "other ancestors" not in read
    assert gtl(*words, "--images", "glyphs", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ancestor"] == "same" and 0 < found["jaccard"] < 1 and not found["equal"]
    assert all(row["kernels"] == 0 for row in found["groups"] if row["kernels"] is not None), "cut from one network"
    assert len(found["likeness"]) == 8
    assert gtl(*words) == 0
    assert "CKA" not in capsys.readouterr().out


def test_diff_of_a_gene_with_itself(genes: Path, capsys: Capture) -> None:
    assert gtl("diff", genes / "a.safetensors", genes / "a.safetensors") == 0
    assert "they are the same gene" in capsys.readouterr().out


def test_diff_of_other_architectures_says_what_compares(genes: Path, capsys: Capture) -> None:
    words = ("diff", genes / "a.safetensors", genes / "c.safetensors")
    assert gtl(*words) == 0
    read = " ".join(capsys.readouterr().out.split())
    assert "do not compare: a learngene of vgg11 and one of resnet12" in read and "give --images SOURCE" in read
    assert gtl(*words, "--images", "glyphs") == 0
    assert "stage4.out" in capsys.readouterr().out


@pytest.mark.parametrize("how", ["union", "intersection", "better"])
def test_merge_writes_a_gene_without_evidence(how: str, genes: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "merged.safetensors"
    words = ("merge", genes / "a.safetensors", genes / "b.safetensors", "--how", how, "-o", out)
    assert gtl(*words, "--images", "glyphs") == 0
    read = " ".join(capsys.readouterr().out.split())
    assert "evidence does not carry over" in read and ("better: " in read) == (how == "better")
    merged = Learngene.load(out)
    parents = {Learngene.load(genes / f"{name}.safetensors").digest for name in "ab"}
    assert {parent["digest"] for parent in merged.provenance["parents"]} == parents and not merged.evidence
    assert merged.provenance["derived"]["norms"]["role"] == "train"
    assert gtl("inspect", out) == 0
    assert "mind: evidence does not carry over" in " ".join(capsys.readouterr().out.split())
    before = out.read_bytes()
    assert gtl(*words) == 74 and out.read_bytes() == before
    again = tmp_path / "again.safetensors"
    assert gtl("merge", genes / "b.safetensors", genes / "a.safetensors", "--how", how, "-o", again, "--json") == 0
    capsys.readouterr()
    assert Learngene.load(again).genotype == merged.genotype


def test_shrink_writes_a_gene_within_the_budget(genes: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "small.safetensors"
    assert gtl("shrink", genes / "a.safetensors", "--budget", 0.1, "-o", out, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    small = Learngene.load(out)
    assert found["digest"] == small.digest and small.shares["circuit"] <= 0.1 and not found["unchanged"]
    assert found["derived"]["budget"] == 0.1 and found["parents"] == [Learngene.load(genes / "a.safetensors").digest]
    same = tmp_path / "same.safetensors"
    assert gtl("shrink", out, "--budget", 0.5, "-o", same) == 0
    assert "within the budget already" in capsys.readouterr().out and same.read_bytes() == out.read_bytes()
    taylor = tmp_path / "taylor.safetensors"
    words = ("shrink", genes / "a.safetensors", "--budget", 0.1, "--method", "taylor", "-o", taylor)
    assert gtl(*words) == 2
    assert gtl(*words, "--images", "glyphs") == 0
    assert "mind: " in capsys.readouterr().out
    child = tmp_path / "child.safetensors"
    assert gtl("inherit", taylor, "--arch", "vgg11", "--width", 0.0625, "--classes", 4, "-o", child) == 0


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("merge", "A", "B", "--how", "sum", "-o", "out.safetensors"), 2, "--how 'sum': known are union"),
        (("merge", "A", "C", "-o", "out.safetensors"), 65, "gtl diff A B --images SOURCE"),
        (("merge", "A", "B", "-o", "out.pt"), 2, "ends in .safetensors"),
        (("merge", "A", "B", "-o", "nowhere/out.safetensors"), 74, "Make the folder first"),
        (("merge", "A", "B", "--images", "digits", "-o", "out.safetensors"), 65, "there are no train classes"),
        (("merge", "A", "B", "--images", "nothing", "-o", "out.safetensors"), 65, "no data source 'nothing'"),
        (("shrink", "A", "--budget", "0", "-o", "out.safetensors"), 2, "budget 0 is outside"),
        (("shrink", "A", "--budget", "0.1", "--method", "l2", "-o", "out.safetensors"), 2, "--method 'l2'"),
        (("diff", "A", "B", "--images", "digits"), 65, "there are no val classes"),
        (("diff", "A", "absent.safetensors"), 65, "absent.safetensors"),
        (("inspect", "."), 65, "is no run directory"),
        (("inherit", "A", "--arch", "vgg11", "--classes", "3", "-o", "out.pt"), 2, "ends in .safetensors"),
        (("inherit", "A", "--arch", "vgg11", "--classes", "3", "-o", "nowhere/out.safetensors"), 74, "Make the folder"),
        (
            ("inherit", "A", "--arch", "os:getcwd", "--classes", "3", "-o", "out.safetensors"),
            2,
            "number of classes alone",
        ),
        (
            ("inherit", "A", "--arch", "os:path", "--classes", "3", "-o", "out.safetensors"),
            2,
            "number of classes alone",
        ),
    ],
)
def test_what_cannot_be_done_ends_in_one_sentence(
    words: tuple[str, ...],
    code: int,
    said: str,
    genes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:
    monkeypatch.chdir(tmp_path)
    known = {name.upper(): genes / f"{name}.safetensors" for name in "abc"}
    assert gtl(*(known.get(word, word) for word in words)) == code
    printed = capsys.readouterr()
    assert said in printed.err and "Traceback" not in printed.err
    assert not list(tmp_path.iterdir())
