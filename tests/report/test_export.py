"""gtl export: a folder that can be passed on, from a gene's file; and what it refuses."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import gtl as run
from report_samples import make_document, make_learngene, make_provenance

from gtl.config_file import config_hash, load_config
from gtl.errors import ConfigError
from gtl.learngene.artifact import Learngene
from gtl.report.card import card_markdown
from gtl.report.run import export_gene


def measured(**changes: Any) -> Learngene:
    """A gene with evidence of its own."""
    gene = make_learngene()
    return gene.with_evidence([{**make_document(shots=(1, 20)), "learngene": gene.digest, **changes}])


def front(text: str) -> dict[str, Any]:
    found = yaml.safe_load(text.split("---\n")[1])
    assert isinstance(found, dict)
    return found


def test_a_file_becomes_a_folder_with_a_card(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gene = measured()
    gene.save(tmp_path / "gene.safetensors")
    out = tmp_path / "mine"
    words = ("export", tmp_path / "gene.safetensors", "--out", out, "--license", "mit")
    assert run(*words, "--json") == 0
    assert json.loads(capsys.readouterr().out)["card"] == str(out / "CARD.md")
    assert (out / "learngene.safetensors").read_bytes() == gene.to_bytes()
    assert front((out / "CARD.md").read_text())["license"] == "mit"
    assert run(*words) == 0, "equal files are left as they are"
    (out / "CARD.md").write_text("my own words")
    assert run(*words) == 74 and (out / "CARD.md").read_text() == "my own words"
    assert run("export", out, tmp_path / "again.safetensors") == 0  # a folder is a source, too
    assert "licence is unknown" in capsys.readouterr().err


def test_a_card_shows_no_pictures_of_another_gene(tmp_path: Path) -> None:
    (tmp_path / "evolution.png").write_bytes(b"of another")
    _, card, pictures = export_gene(make_learngene(), tmp_path / "learngene.safetensors")
    assert "evolution.png" not in card.read_text() and pictures == []


def test_the_front_matter_states_what_was_measured() -> None:
    provenance = make_provenance()
    provenance["data"]["source"] = "cifar_fs"
    gene = make_learngene(provenance=provenance)
    document = {**make_document(shots=(1, 20)), "learngene": gene.digest}
    found = front(card_markdown(gene, results=[document], license_id="cc-by-4.0"))
    assert (found["datasets"], found["metrics"], found["license"]) == (["cifar_fs"], ["accuracy"], "cc-by-4.0")
    (index,) = found["model-index"]
    assert index["name"] == "glyphs"
    one, twenty = index["results"]
    assert one["dataset"]["type"] == twenty["dataset"]["type"] == "flowers_a-b"
    assert twenty["task"]["type"] == "image-classification"
    (metric,) = twenty["metrics"]
    assert (metric["type"], metric["value"]) == ("accuracy", 0.575)
    assert (
        "20 images a class" in metric["name"] and "n = 3" in metric["name"] and "0.415 from scratch" in metric["name"]
    )
    assert "1 image a class" in one["metrics"][0]["name"]


def test_the_front_matter_claims_nothing_else() -> None:
    gene = make_learngene()
    found = front(card_markdown(gene, results=[make_document()]))  # measured with another gene
    assert not {"model-index", "metrics", "datasets"} & set(found) and found["license"] == "unknown"
    text = card_markdown(gene, results=[make_document()])
    assert "Measured with another gene** (digest `cdcdcdcdcdcdcdcd`)" in text
    assert "Measured with another gene" not in card_markdown(measured())


def test_the_hubs_own_reader_understands_the_card() -> None:
    hub = pytest.importorskip("huggingface_hub")
    card = hub.ModelCard(card_markdown(measured()))
    assert card.data.model_name == "glyphs" and len(card.data.eval_results) == 2


def test_names_of_strangers_cannot_break_the_front_matter() -> None:
    provenance = make_provenance()
    provenance["config"]["name"] = 'a"\n---\nlicense: mit\u2028: [\x85'
    gene = make_learngene(provenance=provenance)
    document = {**make_document(), "learngene": gene.digest, "data": {"source": "\n- x: {", "classes": "ab"}}
    found = front(card_markdown(gene, results=[document]))
    assert found["model-index"][0]["name"] == "a-----license-mit" and found["license"] == "unknown"
    assert found["model-index"][0]["results"][0]["dataset"]["type"] == "x"


@pytest.mark.parametrize("licence", ["", "my own", "mit\nlibrary_name: x", "a" * 80, "-"])
def test_a_licence_that_is_none(licence: str, tmp_path: Path) -> None:
    make_learngene().save(tmp_path / "gene.safetensors")
    with pytest.raises(ConfigError, match="is no identifier"):
        export_gene(make_learngene(), tmp_path / "mine/learngene.safetensors", license_id=licence)
    assert list((tmp_path / "mine").iterdir()) == []


def test_the_card_tells_the_lineage_and_how_to_make_it_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    provenance = make_provenance()
    provenance["winner"]["line"] = [{"id": f"g{n:04d}-i0000"} for n in range(11, -1, -1)]
    gene = make_learngene(provenance=provenance)
    text = card_markdown(gene)
    assert "| lineage | g0000-i0000 → g0001-i0000 → g0002-i0000 → g0003-i0000 → 4 more → g0008-i0000 → " in text
    assert "gtl config show learngene.safetensors > config.yaml\ngtl evolve config.yaml --out again\n" in text
    gene.save(tmp_path / "learngene.safetensors")
    assert run("config", "show", tmp_path / "learngene.safetensors") == 0
    (tmp_path / "config.yaml").write_text(capsys.readouterr().out)
    again = load_config(tmp_path / "config.yaml")
    assert (again.name, again.data.source) == ("glyphs", "glyphs")
    assert again.model_dump(mode="json") == provenance["config"]
    assert run("config", "show", tmp_path / "learngene.safetensors", "--set", "seed=3", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["config"]["seed"] == 3 and shown["hash"] != config_hash(again)
    provenance["cut"] = {"channels": "taylor", "allocation": "searched"}
    text = card_markdown(make_learngene(provenance=provenance))
    assert "gtl condense CHECKPOINT config.yaml --method taylor --allocation searched -o again.safetensors" in text
    provenance["cut"]["channels"] = "l1; rm -r ."
    assert "rm -r" not in card_markdown(make_learngene(provenance=provenance)).partition("```\ngtl config")[2]
    make_learngene(provenance={}).save(tmp_path / "bare.safetensors")
    assert run("config", "show", tmp_path / "bare.safetensors") == 2
    assert "does not record its configuration" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words,code,said",
    [
        ((), 2, "say where to"),
        (("a.safetensors", "--out", "b"), 2, "say where to"),
        (("a.md",), 2, ".safetensors"),
        (("a.safetensors", "--arch", "vgg11"), 2, "goes with --onnx"),
        (("--onnx", "a.onnx", "--arch", "vgg11"), 2, "needs --classes"),
    ],
)
def test_bad_words(
    words: tuple[str, ...], code: int, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_learngene().save(tmp_path / "gene.safetensors")
    assert run("export", tmp_path / "gene.safetensors", *words) == code
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    "package,words,remedy",
    [
        ("huggingface_hub", ("pull", "me/flowers"), "pip install 'gtl[hub]'"),
        ("huggingface_hub", ("push", "FOLDER", "me/flowers"), "pip install 'gtl[hub]'"),
        ("onnxruntime", ("export", "FOLDER", "--onnx", "x.onnx"), "pip install 'gtl[onnx]'"),
    ],
)
def test_without_the_extra(
    package: str,
    words: tuple[str, ...],
    remedy: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    export_gene(make_learngene(), tmp_path / "mine/learngene.safetensors")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not there
    assert run(*(tmp_path / "mine" if word == "FOLDER" else word for word in words)) == 2
    assert remedy in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
