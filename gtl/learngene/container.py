"""The safetensors container, written in one fixed way and read with limits that come before any allocation.

A file is: 8 bytes little-endian header length, a JSON header, the tensors' bytes without hole or overlap. The layout is
the one that the safetensors library itself writes, so either side's files can be read by the other.
"""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, NoReturn

import torch

from gtl import storage
from gtl.errors import LearngeneError

MAX_FILE = 1 << 30
MAX_HEADER = 1 << 20
MAX_TENSORS = 4096
MAX_RANK = 4
MAX_DIM = 65536
MAX_DEPTH = 32
MAX_MARKS = 1 << 17  # commas and opening brackets of a JSON text: bounds the objects that parsing makes
NAME = re.compile(r"[a-z0-9_.]{1,128}")

# In the order in which tensors lie in a file: it keeps every tensor aligned, and it is safetensors' own order.
DTYPES: Mapping[str, torch.dtype] = {
    "I64": torch.int64,
    "F32": torch.float32,
    "I32": torch.int32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "U8": torch.uint8,
}
_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_DTYPE_ORDER = {name: position for position, name in enumerate(DTYPES)}


class Entry(NamedTuple):
    """One tensor as the header declares it: dtype name, shape, and first and past-the-last byte of its data."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class Header:
    """A checked header: string metadata, entries by name in the order of their data, and the length of all data."""

    metadata: Mapping[str, str]
    entries: Mapping[str, Entry]
    size: int


def canonical_json(value: Any) -> str:
    """The one spelling of a JSON value that gtl writes: sorted keys, no spaces, no NaN.

    Raises:
        ValueError, TypeError: something that JSON cannot hold.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def strict_json(text: str) -> Any:
    """Parse JSON without duplicate keys, NaN, infinity, lone surrogates, huge integers, nesting or length.

    Raises:
        ValueError: says what was found.
    """
    if _marks(text) > MAX_MARKS:
        raise ValueError(f"more than {MAX_MARKS} commas and opening brackets")
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels") from None
    _check_bounded(value)
    return value


def encode(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """A whole safetensors file; equal tensors and metadata give equal bytes, whatever their order was.

    Args:
        tensors: name -> tensor of a known dtype, any device, at most 4 axes of 1..65536 entries.
        metadata: string to string, written in the given order.

    Raises:
        LearngeneError: something that `read_header` would refuse; it names the tensor.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    if len(tensors) > MAX_TENSORS:
        raise LearngeneError(f"{len(tensors)} tensors are more than the {MAX_TENSORS} that a file may hold")
    for name, tensor in tensors.items():
        if not NAME.fullmatch(name) or tensor.dtype not in _DTYPE_NAMES:
            raise LearngeneError(f"tensor {name!r} ({tensor.dtype}) cannot be stored: {_NAME_RULE}; {_DTYPE_RULE}")
        if tensor.dim() > MAX_RANK or not all(1 <= length <= MAX_DIM for length in tensor.shape):
            raise LearngeneError(f"tensor {name} has shape {tuple(tensor.shape)}; {_SHAPE_RULE}")
    parts: list[bytes] = []
    stop = 0
    for name in sorted(tensors, key=lambda name: (_DTYPE_ORDER[_DTYPE_NAMES[tensors[name].dtype]], name)):
        tensor = tensors[name]
        parts.append(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        start, stop = stop, stop + len(parts[-1])
        shape = list(tensor.shape)
        header[name] = {"dtype": _DTYPE_NAMES[tensor.dtype], "shape": shape, "data_offsets": [start, stop]}
    written = json.dumps(header, separators=(",", ":"), ensure_ascii=False)
    text = written.encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER or _marks(written) > MAX_MARKS or 8 + len(text) + stop > MAX_FILE:
        raise LearngeneError(
            f"a header of {len(text)} bytes with {_marks(written)} commas and brackets and {stop} bytes of tensors are "
            f"too large for a file (limits {MAX_HEADER}, {MAX_MARKS}, {MAX_FILE} in all); shorten what is recorded"
        )
    return b"".join((len(text).to_bytes(8, "little"), text, *parts))


def decode(data: bytes) -> dict[str, torch.Tensor]:
    """Tensors of a whole file in memory, each in its own part of one fresh buffer.

    Raises:
        LearngeneError: a rule of the container is broken.
    """
    stream = io.BytesIO(data)
    header = read_header(stream, len(data))
    return as_tensors(header, read_payload(stream, header))


def open_bounded(path: Path, limit: int) -> tuple[BinaryIO, int]:
    """Open a regular file of at most `limit` bytes; returns the stream and the size.

    Raises:
        LearngeneError: not there, not a regular file, not readable, or too large.
    """
    try:
        stream, size = storage.open_regular(path)
    except (OSError, ValueError) as error:
        raise LearngeneError(f"cannot be opened: {getattr(error, 'strerror', None) or error}") from error
    if size > limit:
        stream.close()
        raise LearngeneError(f"has {size} bytes, more than the limit of {limit}; pass a higher limit to load it")
    return stream, size


def read_header(stream: BinaryIO, size: int, *, required: str | None = None) -> Header:
    """Read and check length and header; nothing larger than the header's limit is read or allocated.

    Args:
        stream: at the first byte of the file.
        size: length of the whole file in bytes.
        required: a key that the metadata must have; without it the file is of another kind.

    Raises:
        LearngeneError: a rule of the container is broken; it names the tensor where there is one.
    """
    text = _header_text(stream, size)
    tree = _header_tree(text)
    metadata = _metadata(tree, required)
    if len(tree) > MAX_TENSORS:
        raise LearngeneError(f"{len(tree)} tensors are more than the {MAX_TENSORS} that a file may hold")
    payload = size - 8 - len(text)
    return Header(metadata, _check_entries(tree, payload), payload)


def read_payload(stream: BinaryIO, header: Header) -> bytearray:
    """The tensors' bytes: exactly the checked, declared length, read into one buffer.

    Raises:
        LearngeneError: the file ends before that.
    """
    payload = bytearray(header.size)
    view, done = memoryview(payload), 0
    while done < header.size:
        count = stream.readinto(view[done:])  # type: ignore[attr-defined]  # every binary stream we open has it
        if not count:
            raise LearngeneError(f"cut off: {done} of {header.size} bytes of tensors")
        done += count
    return payload


def as_tensors(header: Header, payload: bytearray) -> dict[str, torch.Tensor]:
    """The tensors, as views of `payload`."""
    return {
        name: torch.frombuffer(
            payload, dtype=DTYPES[entry.dtype], count=math.prod(entry.shape), offset=entry.start
        ).reshape(entry.shape)
        for name, entry in header.entries.items()
    }


_NAME_RULE = f"a name matches {NAME.pattern}"
_DTYPE_RULE = f"a dtype is one of {', '.join(DTYPES)}"
_SHAPE_RULE = f"a shape has at most {MAX_RANK} axes of 1..{MAX_DIM} entries"


def _header_text(stream: BinaryIO, size: int) -> bytes:
    prefix = stream.read(8)
    length = int.from_bytes(prefix, "little")
    if size < 10 or len(prefix) < 8 or length > min(MAX_HEADER, size - 8):
        if prefix[:2] == b"PK" or prefix[:1] == b"\x80":
            raise LearngeneError("looks like a pickle (torch.save); gtl never opens these. Save it as safetensors.")
        raise LearngeneError(
            f"not a safetensors file, or cut off: {size} bytes, header length {length} (limit {MAX_HEADER})"
        )
    raw = stream.read(length)
    if len(raw) < length or not raw.startswith(b"{"):
        raise LearngeneError("not a safetensors file: the header does not start with '{'")
    return raw


def _header_tree(text: bytes) -> dict[str, Any]:
    try:
        tree: dict[str, Any] = strict_json(text.decode("utf-8"))  # an object: the text starts with a brace
    except ValueError as error:
        raise LearngeneError(f"the header is not acceptable JSON: {error}") from None
    return tree


def _metadata(tree: dict[str, Any], required: str | None) -> dict[str, str]:
    """Take the metadata out of the header."""
    metadata = tree.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise LearngeneError("the header's __metadata__ must hold strings only")
    if required is not None and required not in metadata:  # before the tensors' names: this is the better message
        raise LearngeneError(f"a safetensors file, but not a learngene: its metadata has no {required!r}")
    return metadata


def _check_entries(tree: Mapping[str, Any], size: int) -> dict[str, Entry]:
    entries = {}
    for name, value in tree.items():
        if not NAME.fullmatch(name):
            raise LearngeneError(f"tensor {name[:80]!r}: {_NAME_RULE}")
        entries[name] = _entry(name, value)
    ordered = sorted(entries.items(), key=lambda item: (_DTYPE_ORDER[item[1].dtype], item[0]))
    stop = 0
    for name, entry in ordered:
        if entry.start != stop:
            raise LearngeneError(
                f"tensor {name} starts at byte {entry.start}, expected {stop}: tensors lie in the order "
                f"{', '.join(DTYPES)}, then by name, without hole or overlap"
            )
        stop = entry.stop
    if stop != size:
        raise LearngeneError(
            f"the header declares {stop} bytes of tensors, the file has {size}: cut off or with a tail"
        )
    return dict(ordered)


def _entry(name: str, value: Any) -> Entry:
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise LearngeneError(f"tensor {name}: an entry has dtype, shape and data_offsets, nothing else")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise LearngeneError(f"tensor {name}: dtype {str(dtype)[:20]!r}; {_DTYPE_RULE}")
    # type() and not isinstance: JSON's true is an int to isinstance
    if not isinstance(shape, list) or len(shape) > MAX_RANK:
        raise LearngeneError(f"tensor {name}: {_SHAPE_RULE}")
    if not all(type(length) is int and 1 <= length <= MAX_DIM for length in shape):
        raise LearngeneError(f"tensor {name}: shape {str(shape)[:80]}; {_SHAPE_RULE}")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(type(o) is int and o >= 0 for o in offsets):
        raise LearngeneError(f"tensor {name}: data_offsets must be two integers from 0 up")
    needed = math.prod(shape) * DTYPES[dtype].itemsize
    if offsets[1] - offsets[0] != needed:
        raise LearngeneError(
            f"tensor {name}: shape {shape} of {dtype} needs {needed} bytes, data_offsets are {offsets}"
        )
    return Entry(dtype, tuple(shape), offsets[0], offsets[1])


def _marks(text: str) -> int:
    return sum(map(text.count, ",[{"))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"duplicate key {twice[:80]!r}")
    return table


def _refuse_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not JSON")


def _check_bounded(value: Any) -> None:
    """Walk without recursion: depth, finite numbers, integers of at most 64 bits, encodable strings."""
    stack = [(value, 1)]
    while stack:
        item, depth = stack.pop()
        if isinstance(item, str):
            item.encode("utf-8")  # a lone surrogate raises UnicodeEncodeError, which is a ValueError
        elif isinstance(item, float):
            if not math.isfinite(item):
                raise ValueError("a number is too large")
        elif isinstance(item, int):
            if not -(2**63) <= item < 2**64:
                raise ValueError("an integer has more than 64 bits")
        elif isinstance(item, dict | list):
            if depth > MAX_DEPTH:
                raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
            stack.extend((child, depth + 1) for child in (item if isinstance(item, list) else item.values()))
            if isinstance(item, dict):
                stack.extend((key, depth + 1) for key in item)
