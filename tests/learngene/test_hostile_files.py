"""Hostile learngene files: refused as LearngeneError, at once, with little memory, and nothing of them runs."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, BinaryIO

import numpy as np
import pytest
import safetensors.torch
import torch
from commands import gtl
from gene_files import make_gene, resealed
from hostile_files import hostile, more_hostile, pickles, write
from pico import spec
from test_cli import CONFIG

from gtl.config_file import load_config
from gtl.data import npz
from gtl.errors import ConfigError, DataError, LearngeneError
from gtl.learngene import container
from gtl.learngene.artifact import Learngene
from gtl.learngene.checkpoint import read_checkpoint
from gtl.models import build, gene_layout, spec_of
from gtl.surgery import gather

CANARY = Path("canary")
HOSTILE = hostile(make_gene().to_bytes(), CANARY)
READER = Path(__file__).with_name("limited_reader.py")


def refused(path: Path) -> LearngeneError:
    """Load, expecting a refusal that names the file and allocates little."""
    tracemalloc.start()
    with pytest.raises(LearngeneError) as caught:
        Learngene.load(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert str(path) in str(caught.value) and len(str(caught.value)) < 1500
    assert peak < 32e6, f"{peak / 1e6:.0f} MB"
    return caught.value


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[tuple[str, Path, dict[str, Any]]]]:
    """Way of reading -> (name, path, what became of it) of the 23 files, all read by one process under limits."""
    folder = tmp_path_factory.mktemp("hostile")
    real = {"learngene": folder / "gene.safetensors", "checkpoint": folder / "host.safetensors"}
    make_gene().save(real["learngene"])
    host = build(spec_of("vgg11", num_classes=2, width=0.03125))
    safetensors.torch.save_file(host.state_dict(), real["checkpoint"])
    parts, paths = [], []
    for door, mib, suffix in WAYS.values():
        files = [folder / f"{number}{suffix}" for number in range(len(HOSTILE))]
        for path, content in zip(files, HOSTILE.values(), strict=True):
            write(path, content)
        parts.append({"door": door, "mib": mib, "real": str(real[door]), "files": [str(path) for path in files]})
        paths += files
    command = [sys.executable, str(READER), json.dumps(parts)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert not (folder / CANARY).exists()
    lines = list(zip([*HOSTILE] * 3, paths, map(json.loads, done.stdout.splitlines()), strict=True))
    return {way: lines[23 * number : 23 * (number + 1)] for number, way in enumerate(WAYS)}


# door, MiB that reading may take, suffix; a checkpoint is read whole
WAYS = {
    "as a learngene": ("learngene", 64, ".safetensors"),
    "as a checkpoint": ("checkpoint", 64, ".safetensors"),
    "as a checkpoint of torch": ("checkpoint", 400, ".pt"),
}

# --- hostile files (F31) --------------------------------------------------------------------------------------------


def test_f31_the_23_hostile_files_are_refused_at_once_within_limits(told: dict[str, Any]) -> None:
    assert len(HOSTILE) == len(told["as a learngene"]) == 23
    for name, path, found in told["as a learngene"]:
        assert found["error"] in {"LearngeneError", "GeneMismatchError"}, (name, found)
        assert found["says"].startswith(f"{path}: ") and len(found["says"]) < 1500, (name, found)
        assert found["seconds"] < 0.5 and found["mib"] < 32, (name, found)


@pytest.mark.parametrize("way", ["as a checkpoint", "as a checkpoint of torch"])
def test_f31_the_23_hostile_files_are_refused_as_checkpoints(way: str, told: dict[str, Any]) -> None:
    for name, path, found in told[way]:
        whole = path.stat().st_size >> 20 if way.endswith("torch") else 0  # MiB that may have to be read
        assert found["error"] == "ConfigError" and str(path) in found["says"], (name, found)
        assert found["seconds"] < 0.5 + whole / 100 and found["mib"] < 32 + 2 * whole, (name, found)


def test_f31_more_hostile_files() -> None:
    for name, content in more_hostile(make_gene().to_bytes()).items():
        with pytest.raises(LearngeneError) as caught:
            Learngene.from_bytes(content, "x.safetensors")
        assert str(caught.value).startswith("x.safetensors: "), name
        assert len(str(caught.value)) < 1500, name


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("renamed pickle", "not a safetensors file"),
        ("300 000 tensors", "header length"),
        ("path-like name", "etc/passwd"),
        ("NaN payload", r"tensor conv1.conv.weight .* not finite"),
        ("duplicate keys", "duplicate key 'conv1.conv.weight'"),
        ("hole", r"conv1.norm.bias starts at byte"),
        ("polyglot tail", "tail"),
    ],
)
def test_f31_the_refusal_says_why(name: str, says: str) -> None:
    content = HOSTILE[name]
    assert isinstance(content, bytes)
    with pytest.raises(LearngeneError, match=says):
        Learngene.from_bytes(content)


# --- pickles (F30) --------------------------------------------------------------------------------------------------


def test_f30_pickles_are_recognised() -> None:
    for name in ("torch.save zip", "pickle protocol 4"):
        with pytest.raises(LearngeneError, match="never opens"):
            Learngene.from_bytes(more_hostile(make_gene().to_bytes())[name])


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("form", ["bare", "zip", "older"])
def test_f30_no_door_runs_a_pickle(form: str, suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    canary, evil, config = tmp_path / "canary", tmp_path / f"evil{suffix}", tmp_path / "tiny.yaml"
    evil.write_bytes(pickles(canary)[form])
    config.write_text(CONFIG)
    run = tmp_path / "run"
    run.mkdir()
    (run / "learngene.safetensors").write_bytes(evil.read_bytes())
    with pytest.raises(LearngeneError):
        Learngene.load(evil)
    doors: dict[tuple[object, ...], int] = {
        ("inspect", evil): 65,
        ("inspect", run): 65,
        ("inherit", evil, "--arch", "vgg11", "--classes", 2, "-o", tmp_path / "child.safetensors"): 65,
        ("fewshot", evil): 65,
        ("condense", evil, config, "-o", tmp_path / "gene.safetensors"): 2,
        ("evolve", config, "--set", f"founders.checkpoint={evil}", "--out", tmp_path / "evolved"): 2,
    }
    for words, code in doors.items():
        assert gtl(*words) == code, words
        assert "Traceback" not in capsys.readouterr().err
    assert not canary.exists()
    assert {path.name for path in tmp_path.iterdir()} == {evil.name, config.name, run.name}, (
        "nothing was written either"
    )


def test_f30_these_pickles_do_run(tmp_path: Path) -> None:
    """They are what they claim to be: a reader that trusts them makes the canary."""
    canary = tmp_path / "canary"
    for form, content in pickles(canary).items():
        with suppress(RuntimeError, UnpicklingError):  # it is no checkpoint, but that is seen too late
            torch.load(io.BytesIO(content), weights_only=False)
        assert canary.exists(), form
        canary.unlink()


# --- damaged files (F19) --------------------------------------------------------------------------------------------


def test_f19_every_truncation_is_refused() -> None:
    data = make_gene().to_bytes()
    for length in {*range(0, len(data), 97), *range(20), len(data) - 1}:
        with pytest.raises(LearngeneError):
            Learngene.from_bytes(data[:length])


def test_f19_every_bit_flip_is_refused() -> None:
    data = make_gene().to_bytes()
    length = 8 + int.from_bytes(data[:8], "little")
    draw = np.random.default_rng(5)
    in_header, anywhere = draw.integers(0, length * 8, 400), draw.integers(0, len(data) * 8, 400)
    for bit in (*range(64), *in_header.tolist(), *anywhere.tolist()):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << (bit % 8)
        with pytest.raises(LearngeneError):
            Learngene.from_bytes(bytes(flipped))


def test_foreign_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file({"Encoder/LayerNorm": torch.ones(3)}, path, metadata={"format": "pt"})
    assert "not a learngene" in str(refused(path))


def test_what_is_not_a_file(tmp_path: Path) -> None:
    assert "cannot be opened: No such file" in str(refused(tmp_path / "missing"))
    assert "not a regular file" in str(refused(tmp_path))
    for device in ("/dev/zero", "/dev/tty", "/dev/stdin"):
        if Path(device).exists() and not Path(device).is_file():
            assert "cannot be opened" in str(refused(Path(device)))
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        assert "cannot be opened" in str(refused(tmp_path / "socket"))
    with pytest.raises(LearngeneError, match="cannot be opened"):
        Learngene.load("a\0b")
    make_gene().save(tmp_path / "gene.safetensors")
    (tmp_path / "link").symlink_to("gene.safetensors")
    assert Learngene.load(tmp_path / "link").digest == make_gene().digest
    with pytest.raises(LearngeneError, match="more than the limit of 1000"):
        Learngene.load(tmp_path / "gene.safetensors", limit=1000)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    """By no door: a gene, a checkpoint of either suffix, a configuration, an npz."""
    os.mkfifo(tmp_path / "pipe.safetensors")
    for name in ("pipe.pt", "pipe.yaml", "pipe.npz"):
        (tmp_path / name).symlink_to("pipe.safetensors")
    assert "not a regular file" in str(refused(tmp_path / "pipe.safetensors"))
    for name in ("pipe.safetensors", "pipe.pt"):
        with pytest.raises(ConfigError, match="not a regular file"):
            read_checkpoint(tmp_path / name, spec_of("vgg11", num_classes=2))
    with pytest.raises(ConfigError, match="not a regular file"):
        load_config(tmp_path / "pipe.yaml")
    with pytest.raises(DataError, match="not a regular file"):
        npz.read(tmp_path / "pipe.npz", "npz")


def test_a_file_that_changes_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was checked is what is read, or it is refused: another file under its name, cut off, written over."""
    host = spec(width=48)  # longer than what a stream reads ahead
    layout = gene_layout(host.arch, dict(host.widths))
    gene = Learngene(host.arch, layout.full(), gather(build(host).state_dict(), layout, layout.full()))
    path, other, read_payload = tmp_path / "gene.safetensors", make_gene(), container.read_payload

    def load_while(change: Callable[[], object]) -> Learngene:
        def late(stream: BinaryIO, header: container.Header) -> bytearray:
            change()
            return read_payload(stream, header)

        gene.save(path, overwrite=True)
        with monkeypatch.context() as patch:
            patch.setattr(container, "read_payload", late)
            return Learngene.load(path)

    assert load_while(lambda: other.save(path, overwrite=True)).digest == gene.digest
    assert Learngene.load(path).digest == other.digest
    size = len(gene.to_bytes())
    with pytest.raises(LearngeneError, match=r"gene\.safetensors: cut off: \d+ of \d+ bytes"):
        load_while(lambda: os.truncate(path, size - 9))
    with pytest.raises(LearngeneError, match="sha256 differs"):
        load_while(lambda: path.write_bytes(gene.to_bytes()[:-4] + b"\0\0\0\0"))


def test_f22_unknown_major_and_newer_minor() -> None:
    gene = make_gene()
    with pytest.raises(LearngeneError, match=r"format 2\.0; this gtl reads 1\.x"):
        Learngene.from_bytes(resealed(gene.to_bytes(), lambda d: d.update(format="2.0", novelty=1)))
    newer = resealed(gene.to_bytes(), lambda d: d.update(format="1.7", licence="CC0"))
    assert Learngene.from_bytes(newer).digest == gene.digest
