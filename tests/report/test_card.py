"""The card: what a reader needs, nothing of the machine, nothing that a stranger's text can break."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from report_samples import make_document, make_learngene, make_provenance, with_classes

import gtl
from gtl.errors import LearngeneError, StorageError
from gtl.report.card import card_markdown, shown_command, write_card

SECTIONS = ("What it is", "How it was made", "Evidence", "Intended use", "Limits", "How to load it")


def test_the_card_says_everything() -> None:
    learngene = make_learngene()
    text = card_markdown(learngene, results=[make_document()], figures=["evolution.png", "channels.png"])
    assert [f"## {section}" for section in SECTIONS] == re.findall(r"^## .*", text, re.MULTILINE)
    front = yaml.safe_load(text.split("---\n")[1])
    assert (
        front["library_name"] == "gtl"
        and front["license"] == "unknown"
        and {"learngene", "vgg11"} <= set(front["tags"])
    )
    for wanted in (
        f"{learngene.shares['circuit_parameters']:,} of 144,216 convolution parameters",
        f"{learngene.shares['kernel_parameters']:,} of 144,216",
        learngene.digest,
        "ef" * 32,
        "cd" * 32,
        "2 train, 1 val, 1 novel",
        "| seed | 7 |",
        "torch 2.15.0",
        "| generations | 9 (",
        "219,136 (80,896 ancestor, 138,240 lives)",
        "average of 2 siblings",
        "+16.0 (+16.0 to +16.0) | 3 |",
        "worse than pretrained",
        "one gene from one run (seed 7)",
        "validation classes",
        "](evolution.png)",
        "](channels.png)",
    ):
        assert wanted in text, wanted


def test_the_card_says_how_far_its_intervals_reach() -> None:
    document = make_document()
    plainly = card_markdown(make_learngene(), results=[document])
    assert "(n = 3 seeds); not repeated evolutions" in plainly and "others like them" not in plainly
    with_classes(document["descendants"], sd=0.01)
    text = card_markdown(make_learngene(), results=[document])
    assert "(n = 3 seeds), those for others like them also other classes; not repeated evolutions" in text
    assert "on others like them (5 classes)" in text


@pytest.mark.parametrize(
    "by_class", [[[0.1, 0.2], [0.3]], [[0.1, 0.2]], 3, [["a", "b"], ["c", "d"]], [[0.1, float("nan")]] * 3]
)
def test_accuracies_by_class_of_another_shape_are_refused(by_class: Any) -> None:
    document = make_document()
    for result in document["descendants"]:
        result["by_class"] = by_class
    with pytest.raises(LearngeneError, match="gtl fewshot --json"):
        card_markdown(make_learngene(), results=[document])


def test_the_card_names_no_folder_and_no_time() -> None:
    text = card_markdown(make_learngene(), results=[make_document()], figures=["evolution.png"])
    assert not re.search(r"/(srv|home|tmp)\b", text)
    assert not re.search(r"\b20\d\d-\d\d|\d\d:\d\d|seconds|minutes", text)
    assert "gtl fewshot learngene.safetensors --data folder:flowers --shots 20" in text
    assert text == card_markdown(make_learngene(), results=[make_document()], figures=["evolution.png"])


def test_text_of_strangers_stays_text() -> None:
    provenance = make_provenance()
    provenance["config"]["name"] = "x\n---\n# <b>"
    provenance["config"]["description"] = "![x](http://a) | <script>\n## Evidence\n```"
    provenance["versions"] = {"a|b": "1\n2", "c": 3}
    text = card_markdown(
        make_learngene(provenance=provenance), results=[{**make_document(), "command": "a '```\n## x'"}]
    )
    assert "<script>" not in text and "<b>" not in text and "![x]" not in text
    assert [f"## {section}" for section in SECTIONS] == re.findall(r"^## .*", text, re.MULTILINE)


@pytest.mark.parametrize(
    "provenance", [{}, {"config": 3, "data": ["x"], "winner": {"parents": 4}, "images": {"total": "many"}}]
)
def test_a_gene_without_records_gets_a_card_too(provenance: dict[str, Any]) -> None:
    text = card_markdown(make_learngene(provenance=provenance, shares={}))
    assert "no record of how it was made" in text and "None yet." in text
    assert [f"## {section}" for section in SECTIONS] == re.findall(r"^## .*", text, re.MULTILINE)


def test_evidence_inside_the_learngene_is_the_default() -> None:
    learngene = make_learngene().with_evidence([make_document(), {"something": "else"}])
    assert card_markdown(learngene) == card_markdown(learngene, results=[make_document()])


@pytest.mark.parametrize(
    "row", [{"data": 1, "descendants": 2}, {**make_document(), "command": "'"}, {**make_document(), "starts": 3}]
)
def test_evidence_of_another_shape_is_refused(row: dict[str, Any]) -> None:
    with pytest.raises(LearngeneError, match="gtl fewshot --json"):
        card_markdown(make_learngene().with_evidence([row]))


@pytest.mark.parametrize("arch,family", [("vgg11", "64-128-256-512"), ("resnet12", "64-160-320-640")])
def test_the_three_lines_load_it(arch: str, family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    provenance = make_provenance()
    provenance["config"]["model"] |= {"arch": arch, "family": family, "width": 0.125}
    for learngene in (make_learngene(arch, family, provenance=provenance), make_learngene(arch, family, provenance={})):
        learngene.save(tmp_path / "learngene.safetensors", overwrite=True)
        (code,) = re.findall(r"```python\n(.*?)```", card_markdown(learngene), re.DOTALL)
        assert len([line for line in code.splitlines() if line]) == 3
        monkeypatch.chdir(tmp_path)
        names: dict[str, Any] = {}
        compiled = compile(code, "card", "exec")
        exec(compiled, names)
        assert isinstance(names["network"], gtl.models.ConvNet)


@pytest.mark.parametrize(
    "words,shown",
    [
        (["/opt/venv/bin/gtl", "fewshot", "/data/x/gene.safetensors"], "gtl fewshot gene.safetensors"),
        (["gtl", "--data=folder:/srv/my flowers"], "gtl '--data=folder:my flowers'"),
        (["gtl", "--set", "data.root=~/images", "--shots", "1,5"], "gtl --set data.root=images --shots 1,5"),
        (["gtl", "populations/glyphs/learngene.safetensors"], "gtl populations/glyphs/learngene.safetensors"),
        (["gtl", r"C:\Users\me\gene.safetensors"], "gtl gene.safetensors"),
        (["gtl", "fewshot", "a=b=/c/d"], "gtl fewshot a=b=d"),
    ],
)
def test_commands_lose_the_folders_of_this_machine(words: list[str], shown: str) -> None:
    assert shown_command(words) == shown


def test_the_card_is_written_beside_the_gene_once(tmp_path: Path) -> None:
    (tmp_path / "descendants-digits.png").write_bytes(b"")
    (tmp_path / "evolution.png").write_bytes(b"")
    (tmp_path / "other.png").write_bytes(b"")
    out = tmp_path / "learngene.safetensors"
    path = write_card(make_learngene(), out)
    text = path.read_text()
    assert path.name == "CARD.md" and text.index("(evolution.png)") < text.index("(descendants-digits.png)")
    assert "other.png" not in text
    assert write_card(make_learngene(), out) == path
    path.write_text("my own words")
    with pytest.raises(StorageError, match="move it away"):
        write_card(make_learngene(), out)
    write_card(make_learngene(), out, overwrite=True, license_id="apache-2.0")
    assert 'license: "apache-2.0"' in path.read_text()
