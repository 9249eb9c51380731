"""Real inputs of every kind, small: what is fuzzed starts from them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch

from gtl.config_file import dump_config, parse_config
from gtl.genotype import ChannelMask, Genotype
from gtl.individual import Evaluation, Individual, Status
from gtl.learngene import container
from gtl.learngene.artifact import Learngene
from gtl.learngene.records import shares
from gtl.lineage import ANCESTOR, birth_row, death_row, evaluation_row
from gtl.models import FAMILIES, ArchSpec, build
from gtl.population.journal import encode_rows
from gtl.population.manifest import fingerprint, seal
from gtl.surgery import gather

GENES = 6  # of each family


@cache
def genes() -> tuple[Learngene, ...]:
    """Small genes of all families, with records."""
    found = []
    for arch, family in FAMILIES.items():
        groups = next(iter(family.base_widths.values()))
        for seed in range(GENES):
            draw = np.random.default_rng(seed)
            widths = {group: int(draw.integers(1, 4)) for group in groups}
            network = build(ArchSpec(arch, tuple(widths.items()), 2), seed)
            genotype = Genotype(
                {
                    g: ChannelMask(w, draw.choice(w, int(draw.integers(1, w + 1)), replace=False))
                    for g, w in widths.items()
                }
            )
            tensors = gather(network.state_dict(), network.layout, genotype)
            provenance = {"method": "none", "seed": seed, "winner": {"fitness": 0.5, "line": [{"id": "g0-i0"}]}}
            rows = [{"accuracy": 0.5, "interval": [0.4, 0.6], "n": 600, "seeds": [0, 1]}] * (seed % 3)
            found.append(Learngene(arch, genotype, tensors, shares(network.layout, genotype), provenance, rows))
    return tuple(found)


@cache
def seeds(kind: str) -> tuple[bytes, ...]:
    """Inputs of this kind that are accepted."""
    return tuple(_SEEDS[kind]())


def _configs() -> list[bytes]:
    least = "name: fuzzed\ndata: {source: glyphs}\n"
    some = (
        "evolution: {population: 4, generations: 2, tournament: {size: 2, elite: 1}}\n",
        "gene:\n  budget: 0.3\n  initial_share: [0.1, 0.3]  # a band\n",
        "fewshot:\n  shots: [1, 5, 20]\n  learning_rates: [1e-2, .03]\n  training: {batch_size: 8}\n",
        "life: {steps: 40, n_way: 3, training: {learning_rate: 5e-2, schedule: constant}}\ncompute: {device: cpu}\n",
        "description: |\n  two\n  lines\nseed: 7\nmodel: {arch: resnet12, width: 0.25}\n",
    )
    texts = [least, *(least + text for text in some), dump_config(parse_config(least, "least"))]
    return [text.encode() for text in texts]


def _documents() -> list[bytes]:
    texts = (
        "a: [1, 2.5, x, '', null]\nb:\n  c: {d: [[1], {e: ~}]}\n",
        "a: 'it''s'\nb: \"\\u00e9\\n\"\nc: >-\n  folded\n  text\n",
    )
    return [*_configs(), *(text.encode() for text in texts)]


def _overrides() -> list[bytes]:
    texts = (
        "seed=4",
        "name=other",
        "evolution.generations=20",
        "fewshot.shots=[1, 5]",
        "gene.budget=0.5",
        "data.root='x y'",
    )
    return [text.encode() for text in (*texts, "life.training.learning_rate=1e-3", "compute.device=cpu")]


def _blobs() -> list[bytes]:
    scalar = {"n": np.int64(7), "steps": np.arange(3, dtype=np.int32), "bytes": np.arange(5, dtype=np.uint8)}
    mixed = {name: torch.from_numpy(np.asarray(value)) for name, value in scalar.items()}
    halves = {"h": torch.ones(2, 2, dtype=torch.float16), "b": torch.ones((), dtype=torch.bfloat16)}
    return [*(container.encode(gene.tensors) for gene in genes()), container.encode({**mixed, **halves})]


def _manifests() -> list[bytes]:
    files = {"state.json": fingerprint(b"{}"), "lineage.jsonl": fingerprint(b"")}
    common = {"format": "1.0", "config_hash": "c" * 64, "parent": "", "files": files, "journal": fingerprint(b"")}
    return [seal({**common, "generation": n, "blobs": [f"{n + i:064x}" for i in range(n)]}) for n in (0, 1, 12)]


def _run_infos() -> list[bytes]:
    info = {
        "id": "0" * 12,
        "created": "2026-01-01T00:00:00+00:00",
        "versions": {"torch": "2.15"},
        "config_hash": "c" * 64,
    }
    return [json.dumps({"format": version, **info}, indent=2).encode() + b"\n" for version in ("1.0", "1.9")]


def _journals() -> list[bytes]:
    genotype = Genotype({"conv1": ChannelMask(4, [0, 3]), "conv2": ChannelMask(2, [1])})
    rows: list[Mapping[str, Any]] = []
    for number in range(4):
        parents = ((ANCESTOR,), (ANCESTOR,), ("i0",), ("i1", "i2"))[number]
        evaluation = (
            Evaluation(Status.OK, 0.5, {"tasks": 4.0}, 100, 1.5) if number else Evaluation(Status.LOST, reason="died")
        )
        each = Individual(
            f"i{number}", number, genotype, parents, gene=f"{number:064x}", evaluation=evaluation, score=0.5
        )
        rows += [birth_row(each), evaluation_row(each, number)]
    rows.append(death_row("i1", 3, "selection"))
    return [encode_rows(rows), encode_rows(rows[:2]), b""]


_SEEDS: Mapping[str, Callable[[], Sequence[bytes]]] = {
    "learngene": lambda: [gene.to_bytes() for gene in genes()],
    "blob": _blobs,
    "config": _configs,
    "yaml": _documents,
    "override": _overrides,
    "manifest": _manifests,
    "run.json": _run_infos,
    "journal": _journals,
}
