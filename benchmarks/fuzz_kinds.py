"""What is fuzzed: everything of gtl that reads bytes which others may have written, and what must hold once it accepts them."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from fuzz_seeds import seeds
from fuzz_watch import BrokenPromiseError, Kind

from gtl import strict_yaml
from gtl.config_file import config_hash, dump_config, load_config, parse_config
from gtl.errors import ConfigError, GtlError, LearngeneError, RunError
from gtl.learngene import container
from gtl.learngene.artifact import Learngene
from gtl.lineage import Lineage, parse_rows
from gtl.population.manifest import DamagedError, parse_manifest, seal
from gtl.population.store import parse_info

NAME = "fuzzed"
OVERRIDDEN = "name: fuzzed\ndata: {source: glyphs}\n"
HEADER = {
    "_header_text": "length of the header",
    "_header_tree": "JSON of the header",
    "_metadata": "metadata",
    "_check_entries": "entries",
}


def to_text(data: bytes) -> str:
    """Input of what reads text: lone surrogates may be in it, other bytes that are not UTF-8 are replaced."""
    try:
        return data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return data.decode("utf-8", "replace")


def learngene(data: bytes) -> None:
    """A learngene file. One that is accepted is written again, alike from then on."""
    try:
        gene = Learngene.from_bytes(data, NAME)
    except LearngeneError as error:
        if not str(error).startswith(f"{NAME}: "):
            raise BrokenPromiseError("the message does not name the file") from error
        raise
    written = gene.to_bytes()
    with _what_gtl_wrote():
        _hold(Learngene.from_bytes(written).to_bytes() == written)


def blob(data: bytes) -> None:
    """A blob of gene tensors. What is accepted is written again, alike from then on."""
    stream = io.BytesIO(data)
    header = container.read_header(stream, len(data))
    tensors = container.as_tensors(header, container.read_payload(stream, header))
    written = container.encode(tensors, header.metadata)
    with _what_gtl_wrote():
        _hold(container.encode(container.decode(written), header.metadata) == written)


def config(data: bytes) -> None:
    """A configuration file. What is accepted is written in full, and read again as the same."""
    found = parse_config(to_text(data), NAME)
    with _what_gtl_wrote():
        again = parse_config(dump_config(found), NAME)
        _hold(again == found and config_hash(again) == config_hash(found))


def yaml(data: bytes) -> None:
    """Strict YAML of any content. What it says is written and read again as the same, numbers with their type."""
    values = strict_yaml.loads(to_text(data), NAME)
    if len(data) < strict_yaml.MAX_BYTES // 8:  # writing may take more bytes, and so many are allowed
        with _what_gtl_wrote():
            again = strict_yaml.loads(strict_yaml.dump(values), NAME)
            _hold(repr(again) == repr(values))  # repr: nan is not equal to itself


def override(data: bytes) -> None:
    """What follows --set."""
    load_config(_overridden(), [to_text(data)])


def manifest(data: bytes) -> None:
    """The manifest of a generation. It is sealed: its bytes follow from what it says."""
    found = parse_manifest(data)
    with _what_gtl_wrote():
        _hold(seal(found) == data)


def run_info(data: bytes) -> None:
    """``run.json``."""
    parse_info(data, Path(NAME))


def journal(data: bytes) -> None:
    """``lineage.jsonl``, and the family tree that it adds up to."""
    lineage = Lineage.from_rows(parse_rows(data, NAME), NAME)
    for individual in lineage:
        _hold(len(lineage.line(individual)) <= len(lineage))
        _hold(individual not in {ancestor.id for ancestor in lineage.ancestors(individual)})


KINDS = {
    kind.name: kind
    for kind in (
        Kind(
            "learngene",
            learngene,
            (LearngeneError,),
            {
                **HEADER,
                "_document": "document",
                "_group_sizes": "groups",
                "_declared": "index tensors",
                "_layout": "architecture",
                "_check_shapes": "shapes",
                "read_payload": "payload",
                "_check_hash": "sha256 of the tensors",
                "_mask": "indices",
                "__post_init__": "values",
                "to_bytes": "length of the records",
            },
        ),
        Kind("blob", blob, (LearngeneError,), {**HEADER, "read_payload": "payload"}),
        Kind("config", config, (ConfigError,), {"parse": "YAML", "_validated": "values"}),
        Kind("yaml", yaml, (ConfigError,), {"loads": "YAML"}),
        Kind("override", override, (ConfigError,), {"parse_value": "value", "_validated": "whole"}, first="key"),
        Kind("manifest", manifest, (DamagedError,), {"_unsealed": "seal", "_check": "content"}),
        Kind("run.json", run_info, (RunError,), {"parse_info": "content"}),
        Kind("journal", journal, (RunError,), {"parse_rows": "rows", "from_rows": "tree"}),
    )
}


def warm_up(names: Iterable[str] = KINDS) -> None:
    """Read real inputs: what is first called brings libraries into memory, which no input is to blame for."""
    for name in names:
        for data in seeds(name):
            KINDS[name].read(data)


def _hold(true: bool) -> None:
    if not true:
        raise BrokenPromiseError("what was accepted is not the same when it was written again")


@contextmanager
def _what_gtl_wrote() -> Iterator[None]:
    """Inside, nothing may be refused."""
    try:
        yield
    except GtlError as error:
        raise BrokenPromiseError(f"what gtl wrote itself is refused: {error}") from error


@cache
def _overridden() -> Path:
    """A configuration file that is there as long as this process is."""
    folder = tempfile.TemporaryDirectory(prefix="gtl-fuzz-")
    _FOLDERS.append(folder)
    path = Path(folder.name) / "base.yaml"
    path.write_text(OVERRIDDEN, "utf-8")
    return path


_FOLDERS: list[tempfile.TemporaryDirectory[str]] = []
