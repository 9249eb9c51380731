"""Genes on a terminal: whatever a file's records hold, they are shown or left out, and nothing breaks."""

from __future__ import annotations

import io
from typing import Any

import pytest
from report_samples import make_document, make_learngene
from rich.console import Console, RenderableType

from gtl.learngene.artifact import Learngene
from gtl.learngene.diff import diff
from gtl.learngene.inspection import inspect
from gtl.learngene.merging import merge
from gtl.report.gene_views import made, render_derived, render_diff, render_inspection

ODD: list[Any] = [
    3,
    "text\x1b[2J",
    None,
    True,
    [],
    [7, {"digest": 1}],
    {},
    {"notes": 4},
    {"total": "many"},
    {"fitness": "good"},
]
KEYS = (
    "method",
    "parents",
    "derived",
    "cut",
    "checkpoint",
    "images",
    "winner",
    "critic",
    "data",
    "config",
    "generations",
    "seed",
)


def shown(part: RenderableType, width: int = 100) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width).print(part)
    return " ".join(stream.getvalue().split())


def with_records(provenance: dict[str, Any], evidence: tuple[Any, ...] = ()) -> Learngene:
    whole = make_learngene()
    return Learngene(whole.arch, whole.genotype, whole.tensors, whole.shares, provenance, evidence)


@pytest.mark.parametrize("value", ODD, ids=repr)
def test_records_of_any_shape_are_no_obstacle(value: Any) -> None:
    gene = with_records(dict.fromkeys(KEYS, value), ({"data": value, "starts": value, "descendants": value},))
    for text in (
        shown(render_inspection(gene, inspect(gene))),
        shown(render_diff(diff(gene, gene))),
        made(gene.provenance),
    ):
        assert text and "\x1b" not in text
    assert "evidence does not carry over" in shown(render_derived(merge(gene, gene), [gene, gene]))


def test_a_run_and_a_merge_say_how_they_were_made() -> None:
    gene = make_learngene()
    text = made(gene.provenance)
    assert text.startswith(
        "genetic transfer learning, 9 generations, on glyphs, seed 7, 219,136 training images, fitness"
    )
    merged = merge(gene, gene)
    assert made(merged.provenance).startswith(
        f"union of two learngenes, of {gene.digest[:12]} and {gene.digest[:12]}, on glyphs"
    )


def test_evidence_stands_side_by_side() -> None:
    document = make_document((1, 20))
    one, other = with_records({}, (document,)), with_records({"winner": {"fitness": 0.5}})
    text = shown(render_diff(diff(one, other)), 140)
    assert "+16.0 (+16.0 to +16.0)" in text and "fitness 0.500" in text and "gains are over scratch" in text
    assert text.count(document["data"]["source"]) == 2
    assert "evidence: neither carries any" in shown(render_diff(diff(other, other)))


def test_a_gene_that_does_not_run_says_so_loudly() -> None:
    whole = make_learngene()
    huge = {name: tensor * 1e30 if tensor.dim() == 4 else tensor for name, tensor in whole.tensors.items()}
    gene = Learngene(whole.arch, whole.genotype, huge, {"circuit": 0.5})
    text = shown(render_inspection(gene, inspect(gene)))
    assert "runs alone: NO" in text and "its records say circuit 0.5, counted are" in text
