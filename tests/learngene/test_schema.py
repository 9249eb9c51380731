"""The JSON Schema of a learngene's document: what gtl writes is valid, and it says what the loader says."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from random import Random
from typing import Any

import pytest
from gene_files import join, make_gene, split
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from gtl.errors import LearngeneError
from gtl.learngene.artifact import FORMAT_VERSION, Learngene

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

from fuzz_changes import shake

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = json.loads(resources.files("gtl.learngene").joinpath("learngene.schema.json").read_text("utf-8"))
VALIDATOR = Draft202012Validator(SCHEMA)
Document = dict[str, Any]
# Rules of the format that a schema of one document cannot say; docs/learngene-format.md lists them.
UNSAYABLE = re.compile(
    r"is not acceptable JSON|sha256 differs|is there twice|no network fits architecture|tensor kept\.|tensors of \w+ that are "
    r"missing|has shape|size \d+\.0 is not in"
)


def document_of(data: bytes) -> Document:
    found: Document = json.loads(split(data)[0]["__metadata__"]["gtl"])
    return found


def with_document(data: bytes, document: Any) -> bytes:
    """The file with another document, whose hash is right."""
    header, payload = split(data)
    text = json.dumps(document)
    header["__metadata__"] = {"gtl": text, "gtl_sha256": hashlib.sha256(text.encode()).hexdigest()}
    return join(header, payload)


def refusal(data: bytes, document: Any) -> str:
    """What the loader says of the document; empty if it accepts it."""
    try:
        Learngene.from_bytes(with_document(data, document))
    except LearngeneError as error:
        return str(error)
    return ""


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$id"].endswith(f":{FORMAT_VERSION}")
    page = (ROOT / "docs" / "learngene-format.md").read_text("utf-8")
    assert "gtl/learngene/learngene.schema.json" in page
    assert all(f"| `{key}` |" in page for key in SCHEMA["properties"])


def test_what_gtl_writes_is_valid() -> None:
    written = [make_gene(arch, seed).to_bytes() for arch in ("vgg11", "resnet12") for seed in range(3)]
    files = [*(ROOT / "populations").glob("*/*.safetensors"), *(Path(__file__).parent / "golden").glob("*.safetensors")]
    assert len(files) >= 5
    for data in (*written, *(path.read_bytes() for path in files)):
        assert [error.message for error in VALIDATOR.iter_errors(document_of(data))] == []


CHANGES: dict[str, Callable[[Document], Any]] = {
    **{f"no {key}": lambda d, key=key: d.pop(key) for key in SCHEMA["required"]},
    **{f"{key} is null": lambda d, key=key: d.update({key: None}) for key in SCHEMA["required"]},
    "an unknown key": lambda d: d.update(code="import os"),
    "format 2.0": lambda d: d.update(format="2.0"),
    "format 1": lambda d: d.update(format="1"),
    "format 01.0": lambda d: d.update(format="01.0"),
    "format 1.00": lambda d: d.update(format="1.00"),
    "format 1.0 and a line end": lambda d: d.update(format="1.0\n"),
    "format in other digits": lambda d: d.update(format="1.\u0661"),
    "format is a number": lambda d: d.update(format=1.0),
    "arch with a line end": lambda d: d.update(arch="vgg11\n"),
    "arch is an import path": lambda d: d.update(arch="torchvision.models:vgg11"),
    "arch is long": lambda d: d.update(arch="v" * 65),
    "no groups at all": lambda d: d.update(groups=[]),
    "1025 groups": lambda d: d.update(groups=[{"name": f"g{i}", "size": 1} for i in range(1025)]),
    "a group of size 0": lambda d: d["groups"][0].update(size=0),
    "a group of size 65537": lambda d: d["groups"][0].update(size=65537),
    "a group of size true": lambda d: d["groups"][0].update(size=True),
    "a group of half a channel": lambda d: d["groups"][0].update(size=1.5),
    "a group with a colour": lambda d: d["groups"][0].update(colour="red"),
    "a group without a size": lambda d: d["groups"][0].pop("size"),
    "a group with a path": lambda d: d["groups"][0].update(name="../conv1"),
    "a group of text": lambda d: d["groups"].append("conv9"),
    "a share of text": lambda d: d["shares"].update(circuit="0.1"),
    "a share of true": lambda d: d["shares"].update(circuit=True),
    "evidence of text": lambda d: d["evidence"].append("good"),
    "evidence is an object": lambda d: d.update(evidence={}),
    "provenance is a list": lambda d: d.update(provenance=[]),
    "sha256 in capitals": lambda d: d.update(sha256=d["sha256"].upper()),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_the_schema_refuses_the_loader_refuses(name: str) -> None:
    data = make_gene().to_bytes()
    document = document_of(data)
    assert VALIDATOR.is_valid(document) and not refusal(data, document)
    CHANGES[name](document)
    assert not VALIDATOR.is_valid(document)
    assert refusal(data, document)


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(format="1.7", licence="CC0"),
        lambda d: d.update(shares={}, provenance={}, evidence=[]),
        lambda d: d["provenance"].update(anything=[None, {"x": 1e300}]),
        lambda d: d["shares"].update(more=3),
    ],
)
def test_what_the_schema_accepts_the_loader_accepts(change: Callable[[Document], Any]) -> None:
    data = make_gene().to_bytes()
    document = document_of(data)
    change(document)
    assert VALIDATOR.is_valid(document) and not refusal(data, document)


@settings(max_examples=150, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(1, 3))
def test_they_agree_on_any_change(draw: Random, changes: int) -> None:
    """Accepted means valid; valid and refused is only what a schema cannot say."""
    data = GENE
    document: Any = document_of(data)
    for _ in range(changes):
        document = shake(document, draw)
    said = refusal(data, document)
    if VALIDATOR.is_valid(document):
        assert not said or UNSAYABLE.search(said), said
    else:
        assert said


GENE = make_gene().to_bytes()
