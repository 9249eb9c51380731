"""ONNX files of genes alone and of descendants, read by onnxruntime."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch
from commands import gtl as run
from gene_files import make_gene
from pico import noise, stir
from safetensors.torch import save_file
from torch import nn

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

from gtl.errors import ConfigError, StorageError  # noqa: E402
from gtl.learngene.onnx_file import TOLERANCE, OnnxReport, export_onnx, gene_alone  # noqa: E402
from gtl.models import build, spec_of  # noqa: E402
from gtl.phenotype import thin_network  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]


def answer(path: Path, images: torch.Tensor) -> torch.Tensor:
    """What another runtime makes of the file."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def test_a_gene_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gene, path = make_gene(), tmp_path / "gene.onnx"
    gene.save(tmp_path / "gene.safetensors")
    assert run("export", tmp_path / "gene.safetensors", "--onnx", path) == 0
    assert "features (batch," in capsys.readouterr().out
    thin = thin_network(gene.arch, gene.genotype, gene.tensors)
    for count in (1, 5):
        images = noise(count, 32, seed=count)
        with torch.no_grad():
            expected = thin.features(images)
        found = answer(path, images)
        assert found.shape == expected.shape == (count, gene.genotype.counts["conv8"])
        torch.testing.assert_close(found, expected, rtol=TOLERANCE, atol=TOLERANCE)
    data = path.read_bytes()
    assert {prop.key: prop.value for prop in onnx.load(path).metadata_props}["learngene"] == gene.digest
    for folder in (str(ROOT), str(Path.home()), sys.prefix, os.path.dirname(torch.__file__)):
        assert folder.encode() not in data, "no path of this machine"
    assert list(tmp_path.iterdir()) != [] and sorted(p.name for p in tmp_path.iterdir()) == [
        "gene.onnx",
        "gene.safetensors",
    ]
    with pytest.raises(StorageError, match="exists already"):
        export_onnx(gene_alone(gene), path, image_size=32)
    assert path.read_bytes() == data


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["vgg11", "resnet12"])
def test_a_descendant(arch: str, tmp_path: Path) -> None:
    network = stir(build(spec_of(arch, num_classes=7, width=0.125), 1), 3).train()
    save_file(network.state_dict(), tmp_path / "trained.safetensors")
    target = tmp_path / "trained.onnx"
    words = ("--arch", arch, "--width", 0.125, "--classes", 7, "--image-size", 28)
    assert run("export", tmp_path / "trained.safetensors", "--onnx", target, *words) == 0
    images = noise(4, 28)
    with torch.no_grad():
        expected = network.eval()(images)
    scale = max(1.0, float(expected.abs().max()))
    assert float((answer(target, images) - expected).abs().max()) <= TOLERANCE * scale


@pytest.mark.slow
def test_a_resnets_gene_alone(tmp_path: Path) -> None:
    gene = make_gene("resnet12", seed=4)
    report = export_onnx(gene_alone(gene), tmp_path / "gene.onnx", image_size=32, output="features")
    assert isinstance(report, OnnxReport) and report.outputs == gene.genotype.counts["stage4.out"]
    images = noise(2, 32)
    with torch.no_grad():
        expected = gene_alone(gene)(images)
    scale = max(1.0, float(expected.abs().max()))
    assert float((answer(tmp_path / "gene.onnx", images) - expected).abs().max()) <= TOLERANCE * scale


class Undecided(nn.Module):
    """Does what its values say: no exporter can follow."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((2, 3)) if float(images.sum()) > 0 else images.amax((2, 3))


class Noisy(nn.Module):
    """Answers differently every time."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((2, 3)) + torch.rand(1)


@pytest.mark.parametrize(
    "network,said", [(Undecided(), "cannot export Undecided"), (Noisy(), "differently from torch")]
)
def test_what_cannot_be_exported_leaves_no_file(network: nn.Module, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        export_onnx(network, tmp_path / "x.onnx", image_size=8)
    assert list(tmp_path.iterdir()) == []
