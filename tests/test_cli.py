"""The command line: every door once, in process, on a tiny run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import gtl
from PIL import Image
from safetensors.torch import load_file

from gtl import engine, models
from gtl.learngene.artifact import Learngene
from gtl.population.manager import Manager
from gtl.population.observer import Observer

CONFIG = """
name: tiny
data: {source: glyphs, images_per_class: 12, image_size: 28, train_classes: 6, val_classes: 4, novel_classes: 4}
model: {arch: vgg11, width: 0.0625}
founders: {epochs: 2, training: {batch_size: 16}}
gene: {budget: 0.3, initial_share: [0.1, 0.3]}
evolution: {population: 3, search_generations: 1, generations: 1, tournament: {size: 2, elite: 1}}
life: {steps: 4, n_way: 3, training: {batch_size: 16}}
critic: {fit_images: 4, score_images: 6}
fewshot: {shots: [2], test_images: 4, seeds: 2, steps: 4, learning_rates: [0.05], training: {batch_size: 8}}
compute: {precision: float32}
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope="module")
def run(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, made through the command line."""
    out = tmp_path_factory.mktemp("runs") / "one"
    assert gtl("evolve", tiny, "--out", out) == 0
    return out


def test_evolve_leaves_a_gene_and_pictures(run: Path) -> None:
    assert Learngene.load(run / "learngene.safetensors").shares["circuit"] <= 0.3
    for name in ("evolution.png", "channels.png"):
        assert (run / name).read_bytes().startswith(b"\x89PNG")


def test_evolve_json_is_one_document(tiny: Path, tmp_path: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "json"
    assert gtl("evolve", tiny, "--set", "description=again", "--out", out, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["run"] == str(out)
    # the description does not change the gene
    assert document["digest"] == Learngene.load(run / "learngene.safetensors").digest


def test_evolve_refuses_a_used_directory(tiny: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (run / "learngene.safetensors").read_bytes()
    assert gtl("evolve", tiny, "--out", run) == 2
    assert "not empty" in capsys.readouterr().err
    assert (run / "learngene.safetensors").read_bytes() == before


def test_piped_output_is_a_header_and_a_line_a_generation(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gtl("evolve", tiny, "--out", tmp_path / "piped") == 0
    lines = capsys.readouterr().out.splitlines()
    generations = [line for line in lines if "search" in line or "founding" in line or "lives" in line]
    assert len(generations) == 3
    assert len(lines) <= 12


def test_status_of_a_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gtl("status", run, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["finished"] is True
    assert [row["phase"] for row in found["logbook"]] == ["founding", "search", "lives"]
    assert gtl("status", run) == 0
    assert "tiny" in capsys.readouterr().out


def test_status_of_something_else(tmp_path: Path) -> None:
    assert gtl("status", tmp_path) == 2


def test_resume_extends_and_keeps_the_older_gene(
    tiny: Path, tmp_path: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "longer"
    assert gtl("evolve", tiny, "--out", out) == 0
    capsys.readouterr()
    assert gtl("resume", out, "--generations", 2, "--json") == 0
    assert json.loads(capsys.readouterr().out)["generations"] == 3
    older = Learngene.load(out / "learngene-000002.safetensors")
    assert older.digest == Learngene.load(run / "learngene.safetensors").digest
    assert gtl("resume", out, "--generations", 1) == 2


def test_an_extension_that_is_under_way_is_not_finished(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    longer = Path(shutil.copytree(run, tmp_path / "run"))

    class StoppedError(Exception):
        pass

    class Stop(Observer):
        def generation(self, manager: Manager) -> None:
            raise StoppedError

    with pytest.raises(StoppedError):
        engine.resume(longer, generations=3, observer=Stop())
    assert gtl("status", longer, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["finished"], found["generation"], found["generations"]) == (False, 3, 4)


def test_export_writes_gene_and_card_and_overwrites_nothing(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "gene.safetensors"
    assert gtl("export", run, target, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert Learngene.load(target).digest == document["digest"]
    assert "glyphs" in Path(document["card"]).read_text()
    target.write_bytes(b"mine")
    assert gtl("export", run, target) != 0
    assert target.read_bytes() == b"mine"


def test_inspect(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gtl("inspect", run / "learngene.safetensors", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["arch"] == "vgg11"
    assert next(iter(found["genotype"])) == "conv1"
    assert gtl("inspect", run) == 0
    assert "conv8" in capsys.readouterr().out


def test_inherit_writes_a_plain_state_dict(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "child.safetensors"
    words = ("inherit", run, "--arch", "vgg11", "--width", 0.125, "--classes", 5, "-o", out)
    assert gtl(*words, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    network = models.vgg11(5, 0.125)
    network.load_state_dict(load_file(out), strict=True)
    assert report["inherited"] + report["zero_filled"] + report["fresh"] == sum(p.numel() for p in network.parameters())
    gene = Learngene.load(run / "learngene.safetensors")
    rows = torch.from_numpy(gene.genotype["conv1"].kept)
    assert torch.equal(network.get_parameter("conv1.conv.weight")[rows], gene.tensors["conv1.conv.weight"])
    assert gtl(*words) == 74  # an existing file is never overwritten


def test_inherit_starts_networks_of_other_shapes(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "child.safetensors"
    assert gtl("inherit", run, "--arch", "resnet12", "--width", 0.125, "--classes", 5, "-o", out) == 0
    assert "carries on" in capsys.readouterr().out
    models.resnet12(5, 0.125).load_state_dict(load_file(out), strict=True)
    narrow = tmp_path / "narrow.safetensors"
    assert gtl("inherit", run, "--arch", "vgg11", "--width", 0.02, "--classes", 5, "-o", narrow) == 0
    assert "conv8 has room for 10 of" in capsys.readouterr().out
    (tmp_path / "mine.py").write_text(
        "import torchvision\n\ndef small(classes):\n"
        "    return torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1], classes)\n"
    )
    monkeypatch.chdir(tmp_path)
    words = ("--arch", "mine:small", "--classes", 3, "-o", "own.safetensors", "--json")
    assert gtl("inherit", run, *words) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["arch"] == "ResNet" and 0 < report["share"] < 1
    assert load_file("own.safetensors")["fc.weight"].shape[0] == 3


@pytest.mark.parametrize(
    ("arch", "says"),
    [
        (("--arch", "vgg12"), "unknown network 'vgg12'; known are vgg11, resnet12, vgg11_bn"),
        (("--arch", "resnet18", "--width", "0.5"), "resnet18 has no width"),
        (("--arch", "nowhere:net"), "No module named 'nowhere'"),
        (("--arch", "builtins:str"), "builtins:str returned a str, not a torch.nn.Module"),
    ],
)
def test_inherit_refuses_networks_that_there_are_not(
    arch: tuple[str, ...],
    says: str,
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "child.safetensors"
    assert gtl("inherit", run, *arch, "--classes", 5, "-o", out) == 2
    assert says in " ".join(capsys.readouterr().err.split()) and not out.exists()


def test_fewshot_compares_all_starts(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GTL_CACHE", str(tmp_path / "cache"))
    assert gtl("fewshot", run, "--shots", "1,2", "--out", tmp_path / "evidence", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert {row["start"] for row in document["descendants"]} == {"scratch", "pretrained", "one-shot", "learngene"}
    assert {row["shots"] for row in document["descendants"]} == {1, 2}
    assert all(row["accuracy"]["n"] == 2 for row in document["descendants"])
    assert (tmp_path / "evidence" / "descendants.png").exists()
    assert (tmp_path / "evidence" / "saliency.png").read_bytes().startswith(b"\x89PNG")
    assert [row["start"] for row in document["saliency"]["agreement"]] == ["scratch", "one-shot", "learngene"]
    assert all({"class", "image"} == row.keys() for row in document["saliency"]["pictured"])
    assert len(list((tmp_path / "cache").glob("tensors-*"))) == 1


def test_fewshot_overwrites_nothing_and_export_takes_only_this_genes_evidence(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = Path(shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("fewshot-*")))
    words = ("fewshot", own, "--starts", "scratch,learngene")
    assert gtl(*words) == 0
    assert gtl(*words, "--seeds", 3) == 0
    assert sorted(path.name for path in own.glob("fewshot-*")) == ["fewshot-glyphs", "fewshot-glyphs-2"]
    assert gtl(*words, "--out", own / "fewshot-glyphs") == 74
    assert gtl("export", own, tmp_path / "one.safetensors") == 0
    assert len(Learngene.load(tmp_path / "one.safetensors").evidence) == 2
    assert (tmp_path / "one-saliency-glyphs.png").read_bytes() == (own / "fewshot-glyphs" / "saliency.png").read_bytes()
    capsys.readouterr()
    assert gtl("inspect", tmp_path / "one.safetensors") == 0
    assert capsys.readouterr().out.count("descendants on novel classes of glyphs") == 2
    second = own / "fewshot-glyphs-2" / "evidence.json"
    second.write_text(json.dumps({**json.loads(second.read_text()), "learngene": "00" * 32}))
    assert gtl("export", own, tmp_path / "two.safetensors") == 0
    assert len(Learngene.load(tmp_path / "two.safetensors").evidence) == 1, "the other is about another gene"
    (tmp_path / "three-evolution.png").write_bytes(b"mine")
    assert gtl("export", own, tmp_path / "three.safetensors") == 74
    assert not (tmp_path / "three.safetensors").exists(), "all or nothing"
    capsys.readouterr()


def test_fewshot_on_a_users_folder_takes_all_its_classes_as_novel(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    for name in ("a", "b", "c"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(7):
            pixels = rng.integers(0, 255, (30, 30, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{number}.png")
    words = ("fewshot", run / "learngene.safetensors", "--starts", "scratch,learngene", "--json")
    assert gtl(*words, "--data", f"folder:{tmp_path / 'images'}") == 0
    (row, *_) = json.loads(capsys.readouterr().out)["instinct"]
    assert row["n_way"] == 3
    (tmp_path / "images" / "a" / "0.png").write_bytes(b"<html>")
    assert gtl(*words, "--data", f"folder:{tmp_path / 'images'}") == 65
    assert "0.png" in capsys.readouterr().err


def test_other_data_than_the_run_was_begun_with_are_refused(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        "images": rng.integers(0, 255, (14 * 12, 28, 28, 3), dtype=np.uint8),
        "labels": np.repeat(np.arange(14), 12),
        "class_names": np.array([f"class {n}" for n in range(14)]),
    }
    np.savez(tmp_path / "own.npz", **arrays)
    words = ("--set", "data.source=npz", "--set", f"data.root={tmp_path / 'own.npz'}")
    assert gtl("evolve", tiny, *words, "--out", tmp_path / "run") == 0
    gene = tmp_path / "gene.safetensors"
    assert gtl("export", tmp_path / "run", gene) == 0
    arrays["class_names"] = np.array([f"other {n}" for n in range(14)])
    np.savez(tmp_path / "own.npz", **arrays)
    capsys.readouterr()
    assert gtl("resume", tmp_path / "run", "--generations", 2) == 2
    assert "was begun with other classes" in capsys.readouterr().err
    assert gtl("fewshot", gene, "--starts", "scratch,learngene", "--data-root", tmp_path / "own.npz") == 65
    assert "other classes than the gene was evolved on" in capsys.readouterr().err


def test_ctrl_c_says_how_to_go_on(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(engine, "make_world", interrupted)
    assert gtl("evolve", tiny, "--out", tmp_path / "run") == 130
    assert "gtl resume" in capsys.readouterr().err


def test_fewshot_on_other_data(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("fewshot", run, "--data", "digits", "--starts", "scratch,learngene")
    assert gtl(*words) == 0
    printed = capsys.readouterr().out
    assert "learngene" in printed
    assert "scratch" in printed


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("fewshot", "RUN", "--shots", "two"), 2, "positive whole numbers"),
        (("fewshot", "RUN", "--starts", "magic"), 65, "unknown starts"),
        (("fewshot", "RUN", "--data", "nothing"), 65, "no data source"),
        (("fewshot", "RUN", "--shots", "50"), 65, "images"),
        (("compare", "CONFIG", "--starts", "learngen", "--out", "OUT"), 65, "unknown starts"),
        (("compare", "CONFIG", "--shots", "two", "--out", "OUT"), 2, "positive whole numbers"),
        (("inspect", "CONFIG"), 65, "tiny.yaml"),
        (("evolve", "missing.yaml"), 2, "missing.yaml"),
        (("evolve", "CONFIG", "--set", "evolution.populaton=3"), 2, "population"),
        (("evolve", "CONFIG", "--set", "life.n_way=7"), 2, "life.n_way"),
        (("resume", "CONFIG"), 2, "not a run directory"),
        (("resume", "RUN", "--generations", "999999999"), 2, "evolution.generations"),
        (("evolve", "CONFIG", "--set", "compute.device=cuda:99"), 2, "no such GPU"),
        (("evolve", "CONFIG", "--set", "founders.checkpoint=nowhere.safetensors"), 2, "nowhere.safetensors"),
        (("fewshot", "RUN", "--data", "digits", "--shots", "200"), 65, "Ask for fewer"),
        (("fewshot", "RUN", "--shots", "²"), 2, "positive whole numbers"),
        (("export", "RUN", "x.md"), 2, ".safetensors"),
        (("inherit", "RUN", "--arch", "vgg11", "--classes", "3", "-o", ""), 74, "not the name of a file"),
    ],
)
def test_bad_input_ends_in_one_sentence(
    words: tuple[str, ...],
    code: int,
    said: str,
    run: Path,
    tiny: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {"RUN": run, "CONFIG": tiny, "OUT": tiny.parent / "evolved"}
    assert gtl(*(places.get(word, word) for word in words)) == code
    printed = capsys.readouterr()
    assert said in printed.err
    assert "Traceback" not in printed.err
    assert not places["OUT"].exists(), "nothing was evolved for it"


def test_data_and_config_doors(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gtl("data", "list", "--json") == 0
    assert {"glyphs", "digits", "cifar_fs"} <= {row["name"] for row in json.loads(capsys.readouterr().out)}
    assert gtl("data", "show", "digits", "--json") == 0
    assert json.loads(capsys.readouterr().out)["roles"]["novel"]["classes"]["digit 0"] > 100
    assert gtl("config", "show", tiny, "--json") == 0
    assert json.loads(capsys.readouterr().out)["config"]["critic"]["kind"] == "ridge"
    assert gtl("config", "schema") == 0
    assert "properties" in json.loads(capsys.readouterr().out)


def test_the_python_names_stay_what_they_are() -> None:
    import gtl as package

    for _ in range(2):  # a submodule of the same name would take its place after the first look
        for name in ("evolve", "resume", "inherit", "measure"):
            assert callable(getattr(package, name))
