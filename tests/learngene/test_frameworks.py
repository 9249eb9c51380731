"""Descendants in training frameworks: plain state dicts in, the framework's checkpoints back."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pico import equal, noise, spec, stir
from safetensors.torch import save_file
from torch import nn

import gtl
from gtl.errors import ConfigError
from gtl.learngene.checkpoint import load_network, read_checkpoint
from gtl.models import ConvNet, build, spec_of

PAGE = Path(__file__).resolve().parents[2] / "docs/sharing.md"


class Wrapper(nn.Module):
    """What a framework's module looks like from outside: the network under a name, and tensors of its own."""

    def __init__(self, name: str, network: nn.Module) -> None:
        super().__init__()
        self.add_module(name, network)
        self.loss = nn.CrossEntropyLoss(weight=torch.ones(3))


def checkpoint_of(module: nn.Module, folder: Path) -> Path:
    """A file with the structure of a Lightning checkpoint, after one step."""
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    next(module.parameters()).sum().backward()
    optimizer.step()
    torch.save(
        {
            "epoch": 9,
            "global_step": 1240,
            "pytorch-lightning_version": "2.5.0",
            "state_dict": module.state_dict(),
            "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 10}}}},
            "callbacks": {},
            "optimizer_states": [optimizer.state_dict()],
            "lr_schedulers": [],
            "hyper_parameters": {"lr": 0.1},
        },
        folder / "epoch=9.ckpt",
    )
    return folder / "epoch=9.ckpt"


@pytest.mark.parametrize("name", ["network", "model"])
@pytest.mark.parametrize("arch", ["vgg11", "resnet12"])
def test_a_frameworks_checkpoint_comes_back(name: str, arch: str, tmp_path: Path) -> None:
    network = stir(build(spec(arch), 1), 2)
    path = checkpoint_of(Wrapper(name, network), tmp_path)
    again = Wrapper(name, build(spec(arch), 7))
    again.load_state_dict(torch.load(path, weights_only=True)["state_dict"], strict=True)
    inner = again.get_submodule(name)
    assert equal(inner.state_dict(), network.state_dict())
    found = read_checkpoint(path, spec(arch))
    assert equal(found.tensors, {key: network.state_dict()[key] for key in found.tensors})
    assert set(found.ignored) == {f"{name}.head.weight", f"{name}.head.bias", "loss.weight"}
    whole = build(spec(arch), 8)
    load_network(whole, path)
    assert equal(whole.state_dict(), network.state_dict())


def test_the_example_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = next(
        block for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL) if "lightning" in block
    )
    monkeypatch.setitem(sys.modules, "lightning", SimpleNamespace(LightningModule=nn.Module))
    monkeypatch.chdir(tmp_path)
    network = gtl.models.vgg11(num_classes=20, width=0.25, seed=3)
    save_file(network.state_dict(), "descendant.safetensors")
    names: dict[str, Any] = {}
    compiled = compile(code, "page", "exec")
    exec(compiled, names)
    module = names["Flowers"]()
    assert equal(module.network.state_dict(), network.state_dict())
    loss = module.training_step((noise(4, 32), torch.arange(4)), 0)
    loss.backward()
    module.configure_optimizers().step()
    assert not torch.equal(module.network.head.weight, network.head.weight)
    path = checkpoint_of(module, tmp_path)
    host = spec_of("vgg11", num_classes=3, width=0.25)
    found = read_checkpoint(path, host)
    assert equal(found.tensors, {key: module.network.state_dict()[key] for key in found.tensors})


@pytest.mark.parametrize(
    "change,said",
    [
        (lambda state: state.pop("head.weight"), "head.weight is missing"),
        (lambda state: state.update({"conv3.conv.bias": torch.zeros(4)}), "conv3.conv.bias is (4,), needed is no such"),
        (lambda state: state.update({"head.bias": torch.zeros(5)}), "head.bias is (5,), needed is (3,)"),
        (lambda state: state.clear(), "conv1.conv.weight is missing"),
    ],
)
def test_another_networks_state_dict_is_refused(change: Any, said: str, tmp_path: Path) -> None:
    network: ConvNet = build(spec(), 1)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    state = dict(build(spec(), 2).state_dict())
    change(state)
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(ConfigError) as refused:
        load_network(network, tmp_path / "other.safetensors")
    assert said in str(refused.value)
    assert equal(network.state_dict(), before)
