"""The learngene file: what is saved is what is loaded, equal genes are equal bytes, and nothing hostile gets in."""

from __future__ import annotations

import errno
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from gene_files import edited, make_gene, resealed, safetensors_of, split, with_tensors

from gtl import storage
from gtl.errors import GeneMismatchError, LearngeneError, StorageError
from gtl.genotype import ChannelMask, Genotype
from gtl.learngene import container
from gtl.learngene.artifact import Learngene


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A tmpfs of `size`; the test is skipped where it cannot be mounted."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "gtl-test", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("mounting a tmpfs needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


# --- what is saved is what is loaded ------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ["vgg11", "resnet12"])
def test_round_trip(arch: str, tmp_path: Path) -> None:
    gene = make_gene(arch)
    gene.save(tmp_path / "gene.safetensors")
    loaded = Learngene.load(tmp_path / "gene.safetensors")
    assert (loaded.arch, loaded.genotype) == (gene.arch, gene.genotype)
    assert list(loaded.genotype) == list(gene.genotype) and list(loaded.tensors) == list(gene.tensors)
    assert all(torch.equal(loaded.tensors[name], tensor) for name, tensor in gene.tensors.items())
    assert (loaded.shares, loaded.provenance, loaded.evidence) == (gene.shares, gene.provenance, gene.evidence)
    assert loaded.digest == gene.digest and loaded.to_bytes() == gene.to_bytes()


def test_equal_genes_have_equal_bytes() -> None:
    gene = make_gene()
    backwards = dict(reversed(list(gene.tensors.items())))
    strided = {name: t.movedim(0, -1).contiguous().movedim(-1, 0) for name, t in backwards.items()}
    same = Learngene(
        gene.arch,
        Genotype.from_json(gene.genotype.to_json()),
        strided,
        dict(reversed(gene.shares.items())),
        dict(reversed(gene.provenance.items())),
        [dict(reversed(row.items())) for row in gene.evidence],
    )
    assert same.to_bytes() == gene.to_bytes()


def test_digest_is_the_gene_and_not_its_records() -> None:
    gene = make_gene()
    more = gene.with_evidence([{"accuracy": 0.7}])
    assert more.digest == gene.digest and more.to_bytes() != gene.to_bytes()
    assert list(more.evidence) == [*gene.evidence, {"accuracy": 0.7}]
    tensors = {name: tensor.clone() for name, tensor in gene.tensors.items()}
    tensors["conv8.norm.bias"][0] += 1e-3
    assert Learngene(gene.arch, gene.genotype, tensors).digest != gene.digest
    wider = gene.genotype.replace(conv1=ChannelMask(60, gene.genotype["conv1"].kept))
    assert Learngene(gene.arch, wider, gene.tensors).digest != gene.digest


def test_a_gene_owns_its_content() -> None:
    rows: list[dict[str, Any]] = [{"n": 1}]
    tensors = {name: tensor.clone() for name, tensor in make_gene().tensors.items()}
    gene = Learngene("vgg11", make_gene().genotype, tensors, evidence=rows)
    before = gene.to_bytes()
    rows[0]["n"] = 2
    tensors["conv1.conv.weight"].zero_()
    assert gene.to_bytes() == before


def test_safetensors_reads_ours_and_writes_the_same_layout() -> None:
    gene = make_gene()
    data, tensors = safetensors_of(gene)
    assert all(torch.equal(tensors[name], tensor) for name, tensor in gene.tensors.items())
    assert tensors["kept.conv3"].tolist() == gene.genotype["conv3"].kept.tolist()
    mixed = {
        **{name: tensor for name, tensor in tensors.items() if "norm" in name},
        "a": torch.zeros((), dtype=torch.int64),
        "b": torch.ones(3, dtype=torch.bfloat16),
        "c": torch.ones(3, dtype=torch.float16),
        "d": torch.ones(3, dtype=torch.uint8),
    }
    assert container.encode(mixed) == safetensors.torch.save(mixed)
    decoded = container.decode(container.encode(mixed))
    assert all(
        torch.equal(decoded[name], tensor) and decoded[name].shape == tensor.shape for name, tensor in mixed.items()
    )
    rewritten = safetensors.torch.save(tensors, split(data)[0]["__metadata__"])  # metadata in any order
    assert Learngene.from_bytes(rewritten).to_bytes() == data


def test_the_documented_way_to_read_it_without_gtl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = Path(__file__).parents[2] / "docs" / "learngene-format.md"
    code = re.search(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    assert code is not None
    monkeypatch.chdir(tmp_path)
    gene = make_gene("resnet12")
    gene.save("learngene.safetensors")
    found: dict[str, Any] = {}
    exec(code[1], found)
    assert set(found["tensors"]) == set(gene.tensors)
    assert {group: kept.tolist() for group, kept in found["kept"].items()} == {
        group: mask.kept.tolist() for group, mask in gene.genotype.items()
    }


def test_kept_tensor_is_int32_and_alignment_holds() -> None:
    data = make_gene().to_bytes()
    header, _ = split(data)
    assert int.from_bytes(data[:8], "little") % 8 == 0
    assert {v["dtype"] for n, v in header.items() if n.startswith("kept.")} == {"I32"}


def test_records_must_be_json() -> None:
    for bad in (
        {"x": float("nan")},
        {"x": np.float32(1)},
        {"x": "\ud800"},
        {"x": 2**70},
        {1: 1, "1": 2},
        {"x": {1, 2}},
    ):
        with pytest.raises(LearngeneError, match="plain JSON"):
            make_gene(provenance=bad)
    deep: dict[str, Any] = {}
    for _ in range(100_000):
        deep = {"x": deep}
    with pytest.raises(LearngeneError, match="plain JSON"):
        make_gene(provenance=deep)
    with pytest.raises(LearngeneError, match="numbers"):
        make_gene(shares={"circuit": "small"})
    with pytest.raises(LearngeneError, match="list of JSON objects"):
        make_gene(evidence=[[1]])


def test_records_too_long_for_a_reader_are_refused_when_written() -> None:
    with pytest.raises(LearngeneError, match="too large"):
        make_gene(provenance={"log": "x" * container.MAX_HEADER}).to_bytes()
    with pytest.raises(LearngeneError, match="too large"):
        make_gene(provenance={"log": [0] * (container.MAX_MARKS - 100)}).to_bytes()


# --- saving -------------------------------------------------------------------------------------------------------


def test_save_overwrites_nothing(tmp_path: Path) -> None:
    path, gene = tmp_path / "gene.safetensors", make_gene()
    gene.save(path)
    stamp = path.stat().st_mtime_ns, path.stat().st_ino
    gene.save(path)  # equal: left alone
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == stamp
    other = make_gene(seed=1)
    with pytest.raises(StorageError, match="overwrite=True"):
        other.save(path)
    assert Learngene.load(path).digest == gene.digest
    other.save(path, overwrite=True)
    assert Learngene.load(path).digest == other.digest
    assert [p.name for p in tmp_path.iterdir()] == ["gene.safetensors"]


def test_save_where_it_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"missing.gene.safetensors .*Make the folder"):
        make_gene().save(tmp_path / "missing" / "gene.safetensors")
    with pytest.raises(StorageError, match="is there already"):
        make_gene().save(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="Not a directory"):
        make_gene().save(tmp_path / "file" / "gene.safetensors")


def test_mode_follows_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        make_gene().save(tmp_path / "gene.safetensors")
    finally:
        os.umask(before)
    assert (tmp_path / "gene.safetensors").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_every_step_of_saving_may_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    path, gene, other = tmp_path / "gene.safetensors", make_gene(), make_gene(seed=1)
    gene.save(path)
    steps: list[str] = []
    monkeypatch.setattr(storage, "fault", steps.append)
    other.save(tmp_path / "count", overwrite=True)
    (tmp_path / "count").unlink()
    assert len(steps) >= 5
    for failing in range(len(steps)):
        seen = iter(range(len(steps)))

        def fail(_: str, seen: Iterator[int] = seen, failing: int = failing) -> None:
            if next(seen) == failing:
                raise OSError(code, os.strerror(code))

        monkeypatch.setattr(storage, "fault", fail)
        with pytest.raises(StorageError, match=rf"{path} \({len(other.to_bytes())} bytes needed\)"):
            other.save(path, overwrite=True)
        monkeypatch.setattr(storage, "fault", None)
        assert [p.name for p in tmp_path.iterdir()] == [path.name]
        assert Learngene.load(path).digest in {gene.digest, other.digest}
        gene.save(path, overwrite=True)
    assert StorageError.exit_code == 74


def test_full_disk_keeps_the_older_file(tmp_path: Path) -> None:
    gene = make_gene(provenance={"log": "x" * 100_000})
    with small_disk(tmp_path / "disk", "256k") as disk:
        make_gene().save(disk / "gene.safetensors")
        (disk / "filler").write_bytes(bytes(150_000))
        with pytest.raises(StorageError, match="No space left"):
            gene.save(disk / "gene.safetensors", overwrite=True)
        assert sorted(p.name for p in disk.iterdir()) == ["filler", "gene.safetensors"]
        assert Learngene.load(disk / "gene.safetensors").digest == make_gene().digest
        (disk / "filler").unlink()
        gene.save(disk / "gene.safetensors", overwrite=True)


# --- genes that do not fit (F34) --------------------------------------------------------------------------------------


def test_f34_another_architecture() -> None:
    data = make_gene().to_bytes()
    with pytest.raises(GeneMismatchError, match=r"'alexnet'.*known are vgg11, resnet12"):
        Learngene.from_bytes(resealed(data, lambda d: d.update(arch="alexnet")))
    with pytest.raises(GeneMismatchError, match=r"resnet12.*stage1.a"):
        Learngene.from_bytes(resealed(data, lambda d: d.update(arch="resnet12")))


def test_f34_width_too_small() -> None:
    gene = make_gene()
    widest = int(gene.genotype["conv4"].kept[-1])
    with pytest.raises(LearngeneError, match=r"kept\.conv4"):
        Learngene.from_bytes(resealed(gene.to_bytes(), lambda d: d["groups"][3].update(size=max(1, widest))))


def test_f34_index_lists() -> None:
    gene = make_gene(seed=2)
    group = next(g for g, mask in gene.genotype.items() if 2 < len(mask) < mask.size)
    size, kept = gene.genotype[group].size, gene.genotype[group].kept.tolist()
    bad = {
        "out of range": [*kept[:-1], size],
        "negative": [-1, *kept[1:]],
        "duplicate": [kept[0], kept[0], *kept[2:]],
        "unsorted": kept[::-1],
    }
    for name, indices in bad.items():
        with pytest.raises(LearngeneError, match=rf"kept\.{group}: indices must increase strictly") as caught:
            Learngene.from_bytes(with_tensors(gene, {f"kept.{group}": torch.tensor(indices, dtype=torch.int32)}))
        assert f"0..{size - 1}" in str(caught.value), name
    for wrong in (None, torch.tensor(kept), torch.tensor([kept], dtype=torch.int32)):
        with pytest.raises(LearngeneError, match=rf"kept\.{group} must be there"):
            Learngene.from_bytes(with_tensors(gene, {f"kept.{group}": wrong}))
    shorter = torch.tensor(kept[:-1], dtype=torch.int32)
    with pytest.raises(GeneMismatchError, match=rf"{group} keeps {len(kept) - 1}"):
        Learngene.from_bytes(with_tensors(gene, {f"kept.{group}": shorter}))


def test_f34_zero_channels() -> None:
    gene = make_gene()
    data = edited(gene.to_bytes(), lambda h: h["kept.conv2"].update(shape=[0], data_offsets=[0, 0]))
    with pytest.raises(LearngeneError, match=r"kept.conv2.*1\.\.65536"):
        Learngene.from_bytes(data)


def test_f34_tensors_that_do_not_fit() -> None:
    gene = make_gene()
    weight = gene.tensors["conv2.conv.weight"]
    cases: list[tuple[dict[str, torch.Tensor | None], str]] = [
        ({"conv2.conv.weight": None}, r"missing: \['conv2.conv.weight'\]"),
        ({"conv9.conv.weight": weight}, r"does not have: \['conv9.conv.weight'\]"),
        ({"kept.conv9": torch.tensor([0.0])}, r"does not have: \['kept.conv9'\]"),
        ({"head.weight": torch.ones(2, 2)}, r"does not have: \['head.weight'\]"),
        ({"conv2.conv.weight": weight.transpose(2, 3)[:, :, :2].contiguous()}, r"conv2.conv.weight has shape"),
        ({"conv2.conv.weight": weight.half()}, "conv2.conv.weight is F16; format 1.0 holds F32"),
        ({"conv2.norm.running_var": -torch.ones(len(gene.genotype["conv2"]))}, "negative variance"),
        ({"conv2.norm.bias": torch.full((len(gene.genotype["conv2"]),), float("inf"))}, "conv2.norm.bias .* finite"),
    ]
    for changes, says in cases:
        with pytest.raises(LearngeneError, match=says):
            Learngene.from_bytes(with_tensors(gene, changes))


def test_f34_what_meets_at_an_addition_keeps_the_same_channels() -> None:
    """Tied layers have one index list, so they cannot differ in it; nor in how many rows they have."""
    gene = make_gene("resnet12", seed=3)
    kept = len(gene.genotype["stage2.out"])
    for tensor in ("stage2.out.shortcut.weight", "stage2.out.shortcut_norm.bias"):
        longer = torch.cat([gene.tensors[tensor], gene.tensors[tensor][:1]])
        with pytest.raises(
            GeneMismatchError, match=rf"tensor {tensor} has shape .*expected \({kept}.*stage2.out keeps {kept}"
        ):
            Learngene.from_bytes(with_tensors(gene, {tensor: longer}))
    own = torch.arange(kept, dtype=torch.int32)
    with pytest.raises(LearngeneError, match=r"kept\.stage2\.out\.shortcut is I32"):
        Learngene.from_bytes(with_tensors(gene, {"kept.stage2.out.shortcut": own}))


def test_f34_a_gene_in_memory_is_checked_too() -> None:
    gene = make_gene()
    missing = {name: tensor for name, tensor in gene.tensors.items() if name != "conv2.norm.bias"}
    with pytest.raises(GeneMismatchError, match=r"conv2\.norm\.bias"):
        Learngene("vgg11", gene.genotype, missing)
    with pytest.raises(LearngeneError, match=r"float64"):
        Learngene("vgg11", gene.genotype, {name: tensor.double() for name, tensor in gene.tensors.items()})
    with pytest.raises(GeneMismatchError, match="alexnet"):
        Learngene("alexnet", gene.genotype, gene.tensors)
