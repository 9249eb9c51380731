"""The snippet of docs/without-gtl.md, run where gtl cannot be imported, against gtl.inherit."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import torch
from gene_files import make_gene
from pico import equal, noise, stir
from safetensors.torch import load_file, save_file

import gtl
from gtl.learngene.artifact import Learngene
from gtl.models import ArchSpec, ConvNet, build

PAGE = Path(__file__).resolve().parents[2] / "docs/without-gtl.md"
BEFORE = """
import sys

class NoGtl:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "gtl":
            raise ImportError("gtl is blocked")

sys.meta_path.insert(0, NoGtl())
try:
    import gtl
except ImportError:
    pass
else:
    sys.exit("gtl could be imported")
import torch
torch.manual_seed(0)
"""
AFTER = """
from safetensors.torch import load_file, save_file

assert not [name for name in sys.modules if name.partition(".")[0] == "gtl"]
torch.manual_seed(0)
save_file(vgg11(sizes, num_classes=20).state_dict(), "same-before.safetensors")
save_file(network.state_dict(), "same-after.safetensors")
images = load_file("images.safetensors")["images"]
save_file({"logits": network.eval()(images).detach()}, "logits.safetensors")

wider = vgg11([size + 3 for size in sizes], num_classes=5)
save_file(wider.state_dict(), "wider-before.safetensors")
insert(wider, gene, kept)
save_file(wider.state_dict(), "wider-after.safetensors")

class Tensors(dict):
    state_dict = dict.copy
    load_state_dict = dict.update

residual = Tensors(load_file("residual-before.safetensors"))
insert(residual, *read("residual.safetensors")[:2])
save_file(residual, "residual-after.safetensors")
"""


def network_of(gene: Learngene, extra: int, classes: int) -> ConvNet:
    return build(ArchSpec(gene.arch, tuple((g, size + extra) for g, size in gene.genotype.sizes.items()), classes))


def test_the_page_does_what_gtl_does(tmp_path: Path) -> None:
    (snippet,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len([line for line in snippet.splitlines() if line.strip()]) <= 40
    gene, residual = make_gene("vgg11", seed=2), make_gene("resnet12", seed=3)
    gene.save(tmp_path / "learngene.safetensors")
    residual.save(tmp_path / "residual.safetensors")
    images = noise(size=32)
    save_file({"images": images}, tmp_path / "images.safetensors")
    save_file(stir(network_of(residual, 2, 4), 5).state_dict(), tmp_path / "residual-before.safetensors")
    done = subprocess.run(
        [sys.executable, "-I", "-c", BEFORE + snippet + AFTER],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    networks = {}
    for name, inherited, extra, classes in (
        ("same", gene, 0, 20),
        ("wider", gene, 3, 5),
        ("residual", residual, 2, 4),
    ):
        networks[name] = network_of(inherited, extra, classes)
        networks[name].load_state_dict(load_file(tmp_path / f"{name}-before.safetensors"), strict=True)
        report = gtl.inherit(networks[name], inherited)
        assert report.inherited > 0
        found = load_file(tmp_path / f"{name}-after.safetensors")
        state = networks[name].state_dict()
        assert equal(dict(sorted(found.items())), dict(sorted(state.items()))), name
    with torch.no_grad():
        expected = networks["same"].eval()(images)
    torch.testing.assert_close(load_file(tmp_path / "logits.safetensors")["logits"], expected)
