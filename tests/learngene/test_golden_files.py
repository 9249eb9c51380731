"""Three learngenes of format 1.0, kept as they were written: every later gtl reads this in them, and writes the same bytes.

They are of a run, of a run with a few-shot comparison as evidence, and of a cut checkpoint. If a test here fails, the format
has changed: do not write the files anew, read them as they are.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from gtl.learngene.artifact import Learngene
from gtl.learngene.inherit import inherit
from gtl.models import build, spec_of

FOLDER = Path(__file__).with_name("golden")
TOLD: dict[str, dict[str, Any]] = json.loads((FOLDER / "golden.json").read_text("utf-8"))


def test_there_are_three_small_ones() -> None:
    files = sorted(path.name for path in FOLDER.glob("*.safetensors"))
    assert files == sorted(TOLD) and len(files) == 3
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 100_000
    assert {told["arch"] for told in TOLD.values()} == {"vgg11", "resnet12"}
    assert any(told["evidence"] for told in TOLD.values())
    assert any(len(told["provenance"]["winner"].get("line", ())) > 1 for told in TOLD.values())
    assert any("checkpoint" in told["provenance"] for told in TOLD.values())


@pytest.mark.parametrize("name", TOLD)
def test_a_golden_file_is_read_as_it_was_written(name: str) -> None:
    told, data = TOLD[name], (FOLDER / name).read_bytes()
    assert hashlib.sha256(data).hexdigest() == told["file_sha256"], "a golden file was changed; bring the old one back"
    gene = Learngene.load(FOLDER / name)
    assert (gene.arch, gene.digest) == (told["arch"], told["digest"])
    assert {group: [mask.size, mask.kept.tolist()] for group, mask in gene.genotype.items()} == told["groups"]
    assert list(gene.genotype) == list(told["groups"])
    assert dict(gene.shares) == told["shares"] and dict(gene.provenance) == told["provenance"]
    assert list(gene.evidence) == told["evidence"]
    assert {n: [list(t.shape), hashed(t), t.flatten()[0].item()] for n, t in gene.tensors.items()} == told["tensors"]


@pytest.mark.parametrize("name", TOLD)
def test_a_golden_file_is_written_again_byte_for_byte(name: str, tmp_path: Path) -> None:
    Learngene.load(FOLDER / name).save(tmp_path / name)
    assert (tmp_path / name).read_bytes() == (FOLDER / name).read_bytes()


@pytest.mark.parametrize("name", TOLD)
def test_the_safetensors_library_reads_the_same(name: str) -> None:
    tensors = safetensors.torch.load_file(FOLDER / name)
    told = TOLD[name]
    kept = {group: tensors.pop(f"kept.{group}").tolist() for group in told["groups"]}
    assert kept == {group: indices for group, (_, indices) in told["groups"].items()}
    assert {n: [list(t.shape), hashed(t)] for n, t in tensors.items()} == {n: t[:2] for n, t in told["tensors"].items()}


@pytest.mark.parametrize("name", TOLD)
def test_a_golden_gene_can_still_be_inherited(name: str) -> None:
    gene = Learngene.load(FOLDER / name)
    network = build(spec_of(gene.arch, num_classes=3, width=0.125), 1)
    report = inherit(network, gene)
    assert report.inherited > 0 and torch.isfinite(network.eval()(torch.ones(1, 3, 28, 28))).all()


def hashed(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()
