"""Learngene: the gene that evolution found, and the one file that carries it. The format: docs/learngene-format.md.

Reading a file runs no code and allocates no more than the file's own, bounded size. Whatever is wrong with it is a
LearngeneError that names the file and the tensor.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import torch

from gtl import storage
from gtl.errors import GeneMismatchError, LearngeneError, StorageError
from gtl.genotype import ChannelMask, Genotype
from gtl.layout import ChannelLayout
from gtl.learngene import container
from gtl.learngene.container import MAX_DIM, MAX_FILE

FORMAT_VERSION = "1.0"
MAX_GROUPS = 1024
KEPT = "kept."  # prefix of the index tensors

_ARCH = re.compile(r"[a-z0-9_]{1,64}")
_VERSION = re.compile(r"(0|[1-9][0-9]{0,3})\.(0|[1-9][0-9]{0,3})")
_DOCUMENT, _CHECKSUM = "gtl", "gtl_sha256"
_KEYS = {"format", "arch", "groups", "shares", "provenance", "evidence", "sha256"}


@dataclass(frozen=True, eq=False)
class Learngene:
    """A gathered circuit with the channels it came from, how it was made and what it was measured to be worth.

    Checked when it is made: a Learngene that exists fits its architecture and is finite. It owns copies of everything.
    Two genes are the same when their `digest` is.

    Attributes:
        arch: registry name of the network family, for example ``"vgg11"``.
        genotype: kept channels per group, in forward order; group sizes are the ancestor's widths.
        tensors: the circuit without the head, named as in the network's state dict, in its order; float32 on the CPU.
        shares: parameter shares as the writer counted them (``circuit``, ``kernels``, ``circuit_parameters``, ...).
        provenance: JSON: config and its hash, data and class-list hash, seeds, versions, generations, lineage.
        evidence: JSON rows: accuracies, each with interval, n and seeds.

    Raises:
        GeneMismatchError: the tensors or groups do not fit the architecture; names the tensor and what would fit.
        LearngeneError: not float32, not finite, or a record that JSON cannot hold.
    """

    arch: str
    genotype: Genotype
    tensors: Mapping[str, torch.Tensor]
    shares: Mapping[str, float | int] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    evidence: Sequence[Mapping[str, Any]] = ()

    def __post_init__(self) -> None:
        layout = _layout(self.arch, self.genotype.sizes)
        _check_shapes(self.arch, layout, self.genotype.counts, {n: tuple(t.shape) for n, t in self.tensors.items()})
        tensors = {}
        for name in layout.inherited:
            tensor = self.tensors[name].detach()
            if tensor.dtype != torch.float32:
                raise LearngeneError(f"tensor {name} is {tensor.dtype}; a learngene holds float32")
            tensors[name] = tensor.cpu().contiguous().clone()
            if not bool(torch.isfinite(tensors[name]).all()):
                raise LearngeneError(f"tensor {name} has values that are not finite")
        for prefix in (prefix for norms in layout.norms.values() for prefix in norms):
            if bool((tensors[f"{prefix}.running_var"] < 0).any()):
                raise LearngeneError(f"tensor {prefix}.running_var has a negative variance")
        plain = _plain({"shares": self.shares, "provenance": self.provenance, "evidence": list(self.evidence)})
        if not all(type(value) in (int, float) for value in plain["shares"].values()):
            raise LearngeneError("shares must be numbers")
        for name, value in {**plain, "tensors": tensors, "evidence": tuple(plain["evidence"])}.items():
            object.__setattr__(self, name, value)

    @cached_property
    def digest(self) -> str:
        """Content identity, sha256 in hex over arch, groups, kept channels and tensors; records do not count."""
        identity = container.canonical_json({"arch": self.arch, "groups": self._groups()})
        return hashlib.sha256(identity.encode() + b"\n" + container.encode(self._stored())).hexdigest()

    def with_evidence(self, rows: Iterable[Mapping[str, Any]]) -> Learngene:
        """The same gene with `rows` appended to its evidence."""
        return replace(self, evidence=(*self.evidence, *rows))

    def to_bytes(self) -> bytes:
        """The whole file. Equal genes with equal records give equal bytes.

        Raises:
            LearngeneError: the records make the header longer than a reader accepts.
        """
        payload = container.encode(self._stored())
        payload = payload[8 + int.from_bytes(payload[:8], "little") :]
        document = container.canonical_json(
            {
                "format": FORMAT_VERSION,
                "arch": self.arch,
                "groups": self._groups(),
                "shares": self.shares,
                "provenance": self.provenance,
                "evidence": list(self.evidence),
                "sha256": hashlib.sha256(payload).hexdigest(),
            }
        )
        metadata = {_DOCUMENT: document, _CHECKSUM: hashlib.sha256(document.encode()).hexdigest()}
        return container.encode(self._stored(), metadata)

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the file whole or not at all. An equal file that is there already is left as it is.

        Raises:
            StorageError: another file is there and `overwrite` is False, or the disk refused.
            LearngeneError: as `to_bytes`.
        """
        target, data = Path(path), self.to_bytes()
        if not overwrite and _holds(target, data):
            return
        try:
            storage.publish(target, data, overwrite=overwrite)
        except FileExistsError as error:
            raise StorageError(
                f"{target} is there already and holds something else; give another path, or pass overwrite=True"
            ) from error

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, limit: int = MAX_FILE) -> Learngene:
        """Read a file that may come from anyone.

        Args:
            limit: largest file accepted, in bytes.

        Raises:
            GeneMismatchError: it does not fit the architecture that it names.
            LearngeneError: it cannot be read or trusted; names file, tensor and what was expected.
        """
        with _naming(str(path)):
            stream, size = container.open_bounded(Path(path), limit)
            with stream:
                return cls._read(stream, size)

    @classmethod
    def from_bytes(cls, data: bytes, source: str = "learngene") -> Learngene:
        """As `load`, from the bytes of a file; `source` names them in errors."""
        with _naming(source):
            return cls._read(io.BytesIO(data), len(data))

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | os.PathLike[str], revision: str | None = None, *, limit: int = MAX_FILE
    ) -> Learngene:
        """A learngene by the path of its file or of its folder, or by its name on the hub (``OWNER/NAME``; extra ``hub``).

        Args:
            revision: branch, tag or commit on the hub.
            limit: largest file accepted, in bytes; a larger one is not downloaded.

        Raises:
            HubError: not there, not permitted, or the hub cannot be reached.
            ConfigError: huggingface_hub is not installed, or a revision of a local file.
            LearngeneError: as `load`.
        """
        from gtl.learngene.hub import from_pretrained  # it needs this class

        return from_pretrained(name_or_path, revision, limit=limit)

    @classmethod
    def _read(cls, stream: BinaryIO, size: int) -> Learngene:
        header = container.read_header(stream, size, required=_DOCUMENT)
        document = _document(header.metadata)
        groups = _group_sizes(document["groups"])
        counts, shapes = _declared(header, groups)
        _check_shapes(document["arch"], _layout(document["arch"], groups), counts, shapes)
        payload = container.read_payload(stream, header)
        _check_hash(payload, document["sha256"])
        tensors = container.as_tensors(header, payload)
        masks = {group: _mask(group, size, tensors[KEPT + group]) for group, size in groups.items()}
        circuit = {name: tensors[name] for name in shapes}
        return cls(
            document["arch"],
            Genotype(masks),
            circuit,
            document["shares"],
            document["provenance"],
            tuple(document["evidence"]),
        )

    def _groups(self) -> list[dict[str, str | int]]:
        return [{"name": group, "size": size} for group, size in self.genotype.sizes.items()]

    def _stored(self) -> dict[str, torch.Tensor]:
        kept = {KEPT + g: torch.from_numpy(mask.kept).to(torch.int32) for g, mask in self.genotype.items()}
        return {**self.tensors, **kept}


@contextmanager
def _naming(source: str) -> Iterator[None]:
    """Put the file's name in front of every LearngeneError."""
    try:
        yield
    except LearngeneError as error:
        raise type(error)(f"{source}: {error}") from error


def _layout(arch: str, sizes: Mapping[str, int]) -> ChannelLayout:
    from gtl import models  # networks are only needed here; a reader of headers need not build their registry

    if not _ARCH.fullmatch(arch):
        raise LearngeneError(f"architecture {arch[:80]!r}: a registry name matches {_ARCH.pattern}")
    if not all(1 <= size <= MAX_DIM for size in sizes.values()):
        raise LearngeneError(f"group sizes {dict(sizes)} are not all in 1..{MAX_DIM}")
    try:
        return models.gene_layout(arch, sizes)
    except KeyError as error:
        known = ", ".join(models.FAMILIES)
        raise GeneMismatchError(
            f"no network fits architecture {arch!r} with groups {', '.join(sizes)[:400]} ({error}); known are {known}"
        ) from error


def _check_shapes(
    arch: str, layout: ChannelLayout, counts: Mapping[str, int], shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """Raise GeneMismatchError unless exactly the inherited tensors are there, gathered to these counts."""
    missing = [name for name in layout.inherited if name not in shapes]
    extra = sorted(set(shapes) - set(layout.inherited))
    if missing or extra:
        raise GeneMismatchError(
            f"tensors of {arch} that are missing: {missing[:4]}; that it does not have: {extra[:4]}"
        )
    for name in layout.inherited:
        expected = list(layout.shapes[name])
        for axis, (group, stride) in layout.axes[name].items():
            expected[axis] = counts[group] * stride
        if shapes[name] != tuple(expected):
            groups = ", ".join(f"{group} keeps {counts[group]}" for group, _ in layout.axes[name].values())
            raise GeneMismatchError(f"tensor {name} has shape {shapes[name]}, expected {tuple(expected)} ({groups})")


def _plain(records: dict[str, Any]) -> dict[str, Any]:
    """Deep copy through JSON, so that what is in memory is what a reader of the file will get."""
    try:
        plain = container.strict_json(json.dumps(records, allow_nan=False, default=_mapping))
    except (TypeError, ValueError, RecursionError) as error:
        raise LearngeneError(f"shares, provenance and evidence must be plain JSON: {error}") from error
    _check_records(plain)
    return dict(plain)


def _mapping(value: Any) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} {str(value)[:80]} is not JSON")


def _check_records(document: Mapping[str, Any]) -> None:
    if not isinstance(document["shares"], dict) or not isinstance(document["provenance"], dict):
        raise LearngeneError("shares and provenance must be JSON objects")
    evidence = document["evidence"]
    if not isinstance(evidence, list) or not all(isinstance(row, dict) for row in evidence):
        raise LearngeneError("evidence must be a list of JSON objects")


def _document(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The checked JSON document of a header."""
    text = metadata[_DOCUMENT]
    try:
        document = container.strict_json(text)
    except ValueError as error:
        raise LearngeneError(f"the 'gtl' document is not acceptable JSON: {error}") from None
    if not isinstance(document, dict):
        raise LearngeneError("the 'gtl' document must be a JSON object")
    newer = _check_format(document.get("format"))
    if set(metadata) != {_DOCUMENT, _CHECKSUM} and not newer:
        raise LearngeneError(
            f"metadata keys are {str(sorted(metadata))[:200]}, expected '{_DOCUMENT}' and '{_CHECKSUM}'"
        )
    if hashlib.sha256(text.encode()).hexdigest() != metadata.get(_CHECKSUM):
        raise LearngeneError("the records were changed after saving (gtl_sha256 differs); get the file again")
    missing, unknown = sorted(_KEYS - set(document)), sorted(set(document) - _KEYS)
    if missing or (unknown and not newer):
        raise LearngeneError(f"the 'gtl' document has missing keys {missing} and unknown keys {str(unknown)[:200]}")
    if not isinstance(document["arch"], str) or not isinstance(document["sha256"], str):
        raise LearngeneError("arch and sha256 must be strings")
    _check_records(document)
    return document


def _check_format(version: Any) -> bool:
    """Whether the file's minor format is newer than ours: then it may say more than we know, and still be read."""
    match = _VERSION.fullmatch(version) if isinstance(version, str) else None
    if match is None:
        raise LearngeneError(f"format {str(version)[:20]!r} is not a version such as '{FORMAT_VERSION}'")
    ours = [int(part) for part in FORMAT_VERSION.split(".")]
    if int(match[1]) != ours[0]:
        raise LearngeneError(
            f"format {version}; this gtl reads {ours[0]}.x. Use the gtl version that matches the file."
        )
    return int(match[2]) > ours[1]


def _group_sizes(groups: Any) -> dict[str, int]:
    if not isinstance(groups, list) or not 1 <= len(groups) <= MAX_GROUPS:
        raise LearngeneError(f"groups must be a list of 1..{MAX_GROUPS} entries")
    sizes: dict[str, int] = {}
    for entry in groups:
        if not isinstance(entry, dict) or set(entry) != {"name", "size"}:
            raise LearngeneError("an entry of groups has name and size, nothing else")
        name, size = entry["name"], entry["size"]
        if not isinstance(name, str) or not container.NAME.fullmatch(name) or name in sizes:
            raise LearngeneError(f"group name {str(name)[:80]!r} is not a name, or is there twice")
        if type(size) is not int or not 1 <= size <= MAX_DIM:
            raise LearngeneError(f"group {name}: size {str(size)[:20]} is not in 1..{MAX_DIM}")
        sizes[name] = size
    return sizes


def _declared(header: container.Header, groups: Mapping[str, int]) -> tuple[dict[str, int], dict[str, tuple[int, ...]]]:
    """Kept channels per group and shapes of the circuit, as the header declares them."""
    counts = {}
    for group, size in groups.items():
        entry = header.entries.get(KEPT + group)
        if entry is None or entry.dtype != "I32" or len(entry.shape) != 1 or entry.shape[0] > size:
            raise LearngeneError(f"tensor {KEPT}{group} must be there with 1..{size} indices of type I32")
        counts[group] = entry.shape[0]
    shapes = {}
    for name, entry in header.entries.items():
        if name.removeprefix(KEPT) in groups and name.startswith(KEPT):
            continue
        if entry.dtype != "F32":
            raise LearngeneError(f"tensor {name} is {entry.dtype}; format {FORMAT_VERSION} holds F32")
        shapes[name] = entry.shape
    return counts, shapes


def _check_hash(payload: bytearray, expected: str) -> None:
    if hashlib.sha256(payload).hexdigest() != expected:
        raise LearngeneError("the tensors were changed after saving (sha256 differs); get the file again")


def _mask(group: str, size: int, kept: torch.Tensor) -> ChannelMask:
    values = kept.to(torch.int64)
    if int(values[0]) < 0 or int(values[-1]) >= size or not bool((values[1:] > values[:-1]).all()):
        raise LearngeneError(f"tensor {KEPT}{group}: indices must increase strictly within 0..{size - 1}")
    return ChannelMask(size, values.tolist())


def _holds(path: Path, data: bytes) -> bool:
    try:
        return path.stat().st_size == len(data) and path.read_bytes() == data
    except OSError:
        return False  # not there, or not readable: writing will tell
