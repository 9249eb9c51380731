"""Checkpoints of any origin: what training loops write is read, what would run code or is another network is refused."""

from __future__ import annotations

import hashlib
import os
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from pico import ARCHS, equal, noise, spec, stir
from safetensors.torch import save_file

from gtl.errors import ConfigError
from gtl.learngene.checkpoint import read_checkpoint
from gtl.models import ArchSpec, ConvNet, build, spec_of
from gtl.models.adapters import torchvision_network
from gtl.surgery import GeneTensors, gather


def network(host: ArchSpec) -> ConvNet:
    return stir(build(host, 3), 3)


def tensors_of(net: ConvNet) -> GeneTensors:
    return gather(net.state_dict(), net.layout, net.layout.full())


def saved(folder: Path, document: Any, name: str = "mine.pt") -> Path:
    torch.save(document, folder / name)
    return folder / name


def refused(path: Path, host: ArchSpec, key: str = "") -> str:
    with pytest.raises(ConfigError) as caught:
        read_checkpoint(path, host, key)
    assert "\n" not in str(caught.value)
    return str(caught.value)


WRAPPED = {
    "alone": lambda state: state,
    "state_dict": lambda state: {"state_dict": state, "epoch": 3, "optimizer": {"state": {}, "lr": 0.1}},
    "model": lambda state: {"model": state, "best": torch.tensor(0.9)},
    "twice": lambda state: {"model": {"state_dict": state}},
    "DataParallel": lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
    "compiled": lambda state: {"model": {f"_orig_mod.module.{name}": tensor for name, tensor in state.items()}},
    "with its mean": lambda state: state | {f"ema.{name}": tensor + 1 for name, tensor in state.items()},
}


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("how", WRAPPED)
def test_what_training_loops_write_is_read(how: str, arch: str, tmp_path: Path) -> None:
    host = spec(arch)
    net = network(host)
    path = saved(tmp_path, WRAPPED[how](net.state_dict()))
    found = read_checkpoint(path, spec(arch, classes=9))  # heads may differ
    assert equal(found.tensors, tensors_of(net))
    assert found.source == {"name": "mine.pt", "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    assert any(name.endswith("head.weight") for name in found.ignored)
    assert not any(name.endswith("num_batches_tracked") for name in found.ignored)


def test_safetensors_and_half_precision(tmp_path: Path) -> None:
    host = spec()
    state = {name: tensor.contiguous() for name, tensor in network(host).state_dict().items()}
    save_file(state, tmp_path / "a.safetensors")
    assert read_checkpoint(tmp_path / "a.safetensors", host).ignored == ("head.bias", "head.weight")
    half = read_checkpoint(saved(tmp_path, {n: t.half() for n, t in state.items()}), host).tensors
    assert {tensor.dtype for tensor in half.values()} == {torch.float32}
    assert all(torch.allclose(tensor, state[name], atol=2e-3) for name, tensor in half.items())


def test_torchvisions_vgg11_computes_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = torchvision_network("vgg11_bn", 3).eval()
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean = torch.randn(module.num_features) * 0.1
        elif isinstance(module, torch.nn.Conv2d):
            assert module.bias is not None
            module.bias.data.normal_(0, 0.5)
    host = spec_of("vgg11", num_classes=2)
    wanted = {f"module.{name}": tensor for name, tensor in theirs.state_dict().items() if name.startswith("features")}
    found = read_checkpoint(saved(tmp_path, wanted), host)
    assert found.ignored == ()
    ours = build(host)
    ours.load_state_dict({**ours.state_dict(), **found.tensors})
    inputs = noise(2, 32)
    with torch.no_grad():
        expected = theirs.get_submodule("features")[:28](inputs)  # type: ignore[index]
        assert torch.allclose(ours.eval().activations(inputs)["conv8"], expected, atol=1e-5)
        assert float(expected.std()) > 1e-3


class Bomb:
    """What a hostile file would have the reader make: a call."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_f30_code_is_not_run_and_the_remedy_is_told(tmp_path: Path) -> None:
    host = spec()
    exploded = tmp_path / "exploded"
    state = dict(network(host).state_dict())
    path = saved(tmp_path, {"state_dict": state, "args": Bomb(exploded)})
    assert "without running code" in refused(path, host) and not exploded.exists()
    torch.load(path, weights_only=False)
    assert exploded.exists(), "it would have been run"
    assert "torch.save(network.state_dict(), PATH)" in refused(saved(tmp_path, network(host)), host)
    assert "weights_only=False" not in refused(path, host)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.pt", b"no weights", "cannot be read without running code from it, or is damaged"),
        ("a.pth", b"", "is damaged"),
        ("a.safetensors", b"no weights", "is not a readable safetensors file"),
        ("a", b"PK\3\4", "files that torch.save wrote end in .pt, .pth"),
    ],
)
def test_other_files_are_refused(name: str, content: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    message = refused(tmp_path / name, spec(), "founders.checkpoint")
    assert says in message and message.startswith(f"founders.checkpoint: {tmp_path / name}")


def test_f33_archives_that_grow_are_refused(tmp_path: Path) -> None:
    """torch.save stores what torch.load would also unpack: a bomb, members that share their bytes, a broken archive."""
    host = spec()
    path = saved(tmp_path, dict(network(host).state_dict()))
    with zipfile.ZipFile(path) as archive:
        members = {member.filename: archive.read(member) for member in archive.infolist()}
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as bomb:
        for name, content in members.items():
            bomb.writestr(name, content)
        bomb.writestr("archive/data/99", bytes(1 << 22))
    assert "is compressed" in refused(tmp_path / "bomb.pt", host)
    whole = path.read_bytes()
    directory = whole.rindex(b"PK\1\2")  # the last member says that it is larger than the file
    lying = whole[: directory + 20] + struct.pack("<II", 1 << 30, 1 << 30) + whole[directory + 28 :]
    (tmp_path / "lying.pt").write_bytes(lying)
    assert "is compressed" in refused(tmp_path / "lying.pt", host)
    (tmp_path / "broken.pt").write_bytes(whole[:-30])
    assert "is damaged" in refused(tmp_path / "broken.pt", host)


def test_a_header_of_many_tensors_is_refused(tmp_path: Path) -> None:
    tensors = {f"{'x' * 250}{number}": torch.ones(1) for number in range(4000)}
    save_file(tensors, tmp_path / "many.safetensors")
    assert "more than the limit of 1048576" in refused(tmp_path / "many.safetensors", spec())


def test_a_file_that_is_too_large(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(b"PK")
    os.truncate(tmp_path / "a.pt", (1 << 32) + 1)
    assert "more than the limit of 4294967296" in refused(tmp_path / "a.pt", spec())


def test_files_that_are_not_there(tmp_path: Path) -> None:
    assert refused(tmp_path / "a.pt", spec(), "founders.checkpoint").startswith("founders.checkpoint: there is no file")
    (tmp_path / "b.pt").mkdir()
    assert "cannot be read: not a regular file" in refused(tmp_path / "b.pt", spec())


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ({"epoch": 3, "loss": 0.1}, "holds the keys epoch, loss, not a state dict (looked under state_dict,"),
        ({}, "holds nothing, not a state dict"),
        ([torch.ones(3)], "holds a list, not a state dict"),
        ({"model": {"model": {"model": {"model": {"model": {}}}}}}, "not a state dict"),
        ({"weight": torch.ones(3)}, "has no conv1.conv.weight, the configured vgg11 needs (4, 3, 3, 3)"),
    ],
)
def test_files_without_a_state_dict(document: Any, says: str, tmp_path: Path) -> None:
    assert says in refused(saved(tmp_path, document), spec())


@pytest.mark.parametrize(
    ("arch", "options", "fits"),
    [
        ("vgg11", {"width": 0.125}, "model.arch=vgg11 model.family=64-128-256-512 model.width=0.125."),
        (
            "resnet12",
            {"width": 0.0625, "family": "64-160-320-640"},
            "model.arch=resnet12 model.family=64-160-320-640 model.width=0.0625.",
        ),
    ],
)
def test_another_network_names_tensor_shapes_and_remedy(
    arch: str, options: dict[str, Any], fits: str, tmp_path: Path
) -> None:
    state = build(spec_of(arch, num_classes=2, **options)).state_dict()
    message = refused(saved(tmp_path, {f"module.{n}": t for n, t in state.items()}), spec())
    found = "conv1.conv.weight of shape (8, 3, 3, 3)" if arch == "vgg11" else "no conv1.conv.weight"
    assert found in message and "needs (4, 3, 3, 3)" in message and fits in message
    del state[next(name for name in state if name.endswith("norm.bias"))]
    assert "Set model.arch, model.family and model.width" in refused(saved(tmp_path, state), spec())


def test_networks_that_cannot_be_told_apart_or_diverged(tmp_path: Path) -> None:
    host = spec()
    state = network(host).state_dict()
    both = {f"{who}.{name}": tensor for who in ("teacher", "student") for name, tensor in state.items()}
    assert "holds several networks, under student., teacher.; save" in refused(saved(tmp_path, both), host)
    state["conv3.norm.bias"][1] = float("nan")
    assert "conv3.norm.bias has values that are not finite" in refused(saved(tmp_path, state), host)
