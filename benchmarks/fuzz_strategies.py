"""Inputs made from the grammar of each kind, by hypothesis: what nobody would get to by changing real ones."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from random import Random
from typing import Any

from fuzz_changes import NUMBERS, TOKENS, WORDS, joined, sealed, split
from fuzz_seeds import seeds
from hypothesis import strategies as st

from gtl import strict_yaml
from gtl.config_file import known_keys
from gtl.learngene.container import DTYPES
from gtl.lineage import ANCESTOR, EVENTS
from gtl.population.manifest import seal

Draw = st.DrawFn

LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(WORDS),
    st.sampled_from(NUMBERS),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
SMALL = st.integers(-2, 5)


def or_any(usual: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Mostly the usual, sometimes any JSON."""
    return st.one_of(usual, usual, usual, VALUES)


def to_json(value: Any) -> bytes:
    """JSON of it, with whatever JSON must not hold."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


@st.composite
def learngenes(draw: Draw) -> bytes:
    """A real gene with some of its document, of its header and of its values drawn anew; hashes are right."""
    header, payload = split(draw(st.sampled_from(seeds("learngene"))))
    document = json.loads(header["__metadata__"]["gtl"])
    tensors = [name for name in header if name != "__metadata__"]
    for key in draw(st.lists(st.sampled_from([*document, "licence"]), max_size=2, unique=True)):
        document[key] = draw(_PARTS.get(key, VALUES))
    for name in draw(st.lists(st.sampled_from(tensors), max_size=2, unique=True)):
        what = draw(st.sampled_from(("dtype", "shape", "data_offsets", "values", "values", "name")))
        if what == "values":
            payload = _redrawn(draw, header[name], payload)
        elif what == "name":
            header[draw(st.sampled_from((*WORDS, *tensors)))] = header.pop(name)
            break  # the names have changed
        else:
            usual = st.sampled_from(tuple(DTYPES)) if what == "dtype" else st.lists(SMALL, max_size=4)
            header[name][what] = draw(or_any(usual))
    return sealed(header, document, payload, Random(0))


_GROUP = {"name": or_any(st.sampled_from(("conv1", "stage1.a"))), "size": or_any(SMALL)}
_PARTS: Mapping[str, st.SearchStrategy[Any]] = {
    "format": or_any(st.sampled_from(("1.0", "1.1", "1.70", "2.0", "0.9"))),
    "arch": or_any(st.sampled_from(("vgg11", "resnet12"))),
    "groups": or_any(st.lists(st.fixed_dictionaries(_GROUP), max_size=3)),
    "shares": or_any(st.dictionaries(st.text(max_size=8), st.integers() | st.floats(), max_size=4)),
    "provenance": or_any(st.dictionaries(st.text(max_size=8), VALUES, max_size=4)),
    "evidence": or_any(st.lists(st.dictionaries(st.text(max_size=8), VALUES, max_size=3), max_size=3)),
}


def _redrawn(draw: Draw, entry: Mapping[str, Any], payload: bytes) -> bytes:
    """The values of one tensor anew: any floats, or indices that may be right."""
    start, stop = entry["data_offsets"]
    count = (stop - start) // 4
    if entry["dtype"] == "I32":
        indices = st.lists(st.integers(-1, 4), min_size=count, max_size=count)
        values = struct.pack(f"<{count}i", *draw(indices | indices.map(sorted)))
    else:
        values = struct.pack("<f", draw(st.floats(width=32))) * count  # one value in all places keeps draws few
    return payload[:start] + values + payload[stop:]


LENGTHS = (0, 1, 65536, 65537, 2**40)
METADATA = st.fixed_dictionaries({"__metadata__": or_any(st.dictionaries(st.text(), st.text(), max_size=2))})


@st.composite
def blobs(draw: Draw) -> bytes:
    """Tensors of any name, dtype and shape, in any order; offsets follow from them, but for some that are drawn."""
    names = draw(
        st.lists(st.text("abz019_.", min_size=1, max_size=6) | st.sampled_from(WORDS), max_size=4, unique=True)
    )
    entries: dict[str, Any] = {}
    for name in names:
        shape = draw(st.lists(st.integers(1, 3), max_size=3) | st.lists(st.sampled_from(LENGTHS), max_size=5))
        entries[name] = {"dtype": draw(st.sampled_from((*DTYPES, "F64", "BOOL"))), "shape": shape}
    order = {dtype: position for position, dtype in enumerate(DTYPES)}
    stop = 0
    for entry in [
        each for _, each in sorted(entries.items(), key=lambda item: (order.get(item[1]["dtype"], 9), item[0]))
    ]:
        size = DTYPES[entry["dtype"]].itemsize if entry["dtype"] in DTYPES else 8
        start, stop = stop, stop + size * min(math.prod(entry["shape"]), 1 << 12)
        entry["data_offsets"] = [start, stop]
    if names and draw(st.integers(0, 3)) == 0:
        entries[draw(st.sampled_from(names))]["data_offsets"] = draw(
            or_any(st.lists(st.integers(-4, stop + 4), max_size=3))
        )
    metadata = draw(st.just({}) | METADATA)
    padding = b" " * draw(st.integers(0, 8))
    return joined(
        to_json({**metadata, **entries}) + padding, bytes(max(0, stop + draw(st.sampled_from((0, 0, 0, 1, -1)))))
    )


SCALARS = st.one_of(
    st.integers(-1, 40), st.floats(-0.1, 1.1), st.booleans(),
    st.sampled_from(("vgg11", "cpu", "uniform", "ridge", "glyphs", "yes")),
    st.lists(st.integers(0, 5) | st.floats(0, 1), max_size=3), VALUES,
)  # fmt: skip


@st.composite
def configs(draw: Draw) -> bytes:
    """Known keys with values of all types; block style, or the flow style that JSON is."""
    root: dict[str, Any] = {"name": "fuzzed", "data": {"source": "glyphs"}}
    for key in draw(st.lists(st.sampled_from(known_keys()), max_size=4)):
        *path, last = key.split(".")
        section = root
        for part in path:
            section = section.setdefault(part, {}) if isinstance(section.get(part, {}), dict) else {}
        section[last] = draw(SCALARS)
    return _text_of(root) if draw(st.booleans()) else to_json(root)


def _text_of(root: dict[str, Any]) -> bytes:
    try:
        return strict_yaml.dump(root).encode("utf-8", "surrogatepass")
    except ValueError:  # PyYAML does not write lone surrogates
        return to_json(root)


TOKEN_SOUP = st.lists(st.sampled_from(TOKENS) | st.text(max_size=3), max_size=25).map("".join)
MAPPINGS = st.dictionaries(st.text(max_size=12) | st.sampled_from(WORDS), VALUES, max_size=5)


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


DIGESTS = st.sampled_from(("c" * 64, "0" * 64, "C" * 64, "c" * 63, "../../run.json"))
FILES = st.sampled_from(("state.json", "lineage.jsonl", "x"))
FINGERPRINT = st.fixed_dictionaries({"size": or_any(st.integers(0, 9)), "sha256": or_any(DIGESTS)})


@st.composite
def manifests(draw: Draw) -> bytes:
    """A sealed manifest, whose parts are mostly what they should be."""
    parts = {
        "format": or_any(st.just("1.0")),
        "generation": or_any(st.integers(0, 9)),
        "config_hash": or_any(DIGESTS),
        "files": or_any(st.dictionaries(FILES, or_any(FINGERPRINT), max_size=3)),
        "blobs": or_any(st.lists(or_any(DIGESTS), max_size=3)),
        "journal": or_any(FINGERPRINT),
    }
    for part in draw(st.lists(st.sampled_from(tuple(parts)), max_size=1)):
        del parts[part]
    found = draw(st.fixed_dictionaries(parts))
    try:
        return seal(found)
    except ValueError:  # JSON does not hold it
        return to_json(found)


RUN_INFOS = st.fixed_dictionaries(
    {
        "format": or_any(st.sampled_from(("1.0", "1.3", "2.0"))),
        "id": or_any(st.text()),
        "created": or_any(st.text()),
        "versions": or_any(st.dictionaries(st.text(), st.text(), max_size=2)),
    },
    optional={"config_hash": or_any(DIGESTS), "more": VALUES},
).map(to_json)

IDS = st.sampled_from(("i0", "i1", "i2", "i3", ANCESTOR))
SIZES = SMALL | st.sampled_from((65537, 10**12))
KEPT = st.lists(st.integers(0, 4), min_size=1, max_size=4) | st.lists(SMALL, max_size=4)
MASK = st.fixed_dictionaries({"size": or_any(SIZES), "kept": or_any(KEPT)})
GENOTYPES = st.dictionaries(st.sampled_from(("conv1", "conv2")), or_any(MASK), min_size=1, max_size=2)
ROW = st.fixed_dictionaries(
    {
        "event": or_any(st.sampled_from(EVENTS)),
        "generation": or_any(SMALL),
        "id": or_any(IDS),
        "parents": or_any(st.lists(IDS, max_size=2)),
        "litter": st.just(""),
        "genotype": or_any(GENOTYPES),
        "gene": or_any(DIGESTS),
        "status": or_any(st.sampled_from(("ok", "diverged", "lost", "good"))),
        "fitness": or_any(st.floats(0, 1)),
        "metrics": or_any(st.dictionaries(st.text(max_size=3), st.floats(), max_size=2)),
        "images": or_any(SMALL),
        "reason": or_any(st.text(max_size=5)),
    },
    optional={"time": or_any(st.fixed_dictionaries({"seconds": st.floats()}))},
)
BIRTH = st.fixed_dictionaries(
    {
        "event": st.just("birth"),
        "generation": st.integers(0, 3),
        "id": st.sampled_from(("i0", "i1", "i2", "i3")),
        "parents": st.sampled_from(([], [ANCESTOR])) | st.lists(IDS, max_size=2),
        "litter": st.just(""),
        "genotype": st.just({"conv1": {"size": 4, "kept": [0, 3]}}) | GENOTYPES,
    }
)
JOURNALS = st.lists(BIRTH | BIRTH | ROW, max_size=6).map(lambda rows: b"".join(to_json(row) + b"\n" for row in rows))

STRATEGIES: Mapping[str, st.SearchStrategy[bytes]] = {
    "learngene": learngenes() | st.binary(max_size=40),
    "blob": blobs(),
    "config": configs(),
    "yaml": MAPPINGS.map(_text_of) | TOKEN_SOUP.map(_encoded),
    "override": st.tuples(st.sampled_from(known_keys()) | st.text(max_size=8), TOKEN_SOUP | LEAVES.map(str)).map(
        lambda pair: _encoded("=".join(pair))
    ),
    "manifest": manifests(),
    "run.json": RUN_INFOS,
    "journal": JOURNALS,
}
