"""A small run's records and evidence, made by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from gtl.config import Config
from gtl.genotype import ChannelMask, Genotype
from gtl.learngene.artifact import Learngene
from gtl.models import gene_layout, spec_of
from gtl.stats import estimate, paired_difference
from gtl.surgery import gather

REFERENCE = {"scratch": 0.11, "pretrained": 0.92}


def make_logbook(search: int = 2, lives: int = 3) -> list[dict[str, Any]]:
    phases = ["founding"] + ["search"] * search + ["lives"] * lives
    records = []
    for generation, phase in enumerate(phases):
        mean = 0.4 + 0.07 * generation
        records.append(
            {
                "generation": generation,
                "phase": phase,
                "fitness": {"mean": mean, "min": mean - 0.1, "max": mean + 0.05},
                "share": {"mean": 0.15, "min": 0.1, "max": 0.2},
                "best_share": 0.14 + 0.01 * generation,
                "best_score": mean,
                "best": f"g{generation:04d}-i0000",
                "individuals": 4,
                "failed": 0,
                "images": 1000 * generation,
            }
        )
    return records


ACCURACIES = {
    "scratch": [0.40, 0.42, 0.44],
    "pretrained": [0.60, 0.63, 0.66],
    "one-shot": [0.50, 0.53, 0.53],
    "learngene": [0.56, 0.58, 0.60],
}


def make_results(shots: tuple[int, ...] = (20,)) -> list[dict[str, Any]]:
    results = []
    for count in shots:
        for start, base in ACCURACIES.items():
            values = [value - 0.1 / count for value in base]
            gain = None if start == "scratch" else paired_difference(base, ACCURACIES["scratch"]).to_json()
            results.append(
                {
                    "start": start,
                    "shots": count,
                    "learning_rate": 0.03,
                    "accuracies": values,
                    "accuracy": estimate(values).to_json(),
                    "gain": gain,
                }
            )
    return results


def with_classes(results: list[dict[str, Any]], sd: float) -> list[dict[str, Any]]:
    """The same accuracies, spread over five classes: every start finds others easy, with this standard deviation."""
    draw = np.random.default_rng(0)
    for result in results:
        apart = draw.normal(0, sd, 5)
        result["by_class"] = [[value + each - apart.mean() for each in apart] for value in result["accuracies"]]
    return results


def make_document(shots: tuple[int, ...] = (20,)) -> dict[str, Any]:
    """What `gtl fewshot --json` prints."""
    return {
        "command": "gtl fewshot /srv/someone/runs/001/learngene.safetensors --data folder:/srv/disk/flowers --shots 20",
        "learngene": "cd" * 32,
        "data": {"source": "flowers_a|b", "classes": "ab" * 32},
        "images": 123456,
        "starts": {
            "scratch": {"share": 0.0, "images": 0},
            "pretrained": {"share": 1.0, "images": 123456},
            "one-shot": {"share": 0.144, "images": 123456},
            "learngene": {"share": 0.1456, "images": 123456},
        },
        "descendants": make_results(shots),
        "instinct": [
            {
                "start": start,
                "method": method,
                "n_way": 5,
                "n_shot": 1,
                "accuracy": {"mean": mean, "low": mean - 0.01, "high": mean + 0.01, "n": 400},
                "episodes_digest": "00",
            }
            for start in ACCURACIES
            for method, mean in (("nearest class mean", 0.5), ("k nearest neighbours", 0.4))
        ],
        "saliency": {
            "method": "attention",
            "group": "conv4",
            "grid": 8,
            "newborns": 5,
            "pictured": [{"class": "rose", "image": 17}],
            "agreement": [
                {"start": "scratch", "same": _ranks(0.22, 0.04), "other": _ranks(0.1, 0.04), "gain": None},
                {
                    "start": "learngene",
                    "same": _ranks(0.35, 0.03),
                    "other": _ranks(0.01, 0.03),
                    "gain": _ranks(0.13, 0.04),
                },
            ],
        },
    }


def _ranks(mean: float, half: float) -> dict[str, Any]:
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": 160}


def make_genotype() -> Genotype:
    return Genotype.from_json(
        {
            "conv1": {"size": 8, "kept": [0, 1, 2, 7]},
            "conv2": {"size": 128, "kept": list(range(0, 128, 5))},
            "conv3": {"size": 640, "kept": [3, 4, 5, 639]},
        }
    )


def make_provenance() -> dict[str, Any]:
    config = Config.model_validate({"name": "glyphs", "description": "Small | *gene*.", "data": {"source": "glyphs"}})
    plain = config.model_dump(mode="json")
    plain["data"]["root"], plain["founders"]["checkpoint"] = "/srv/someone/data", "/srv/someone/vgg.safetensors"
    return {
        "method": "genetic transfer learning",
        "config": plain,
        "config_hash": "cd" * 32,
        "data": {
            "source": "glyphs",
            "classes": "ef" * 32,
            "lists": {"train": ["a", "b"], "val": ["c"], "novel": ["d"]},
        },
        "seed": 7,
        "versions": {"gtl": "0.1.0", "torch": "2.15.0", "device": "cpu x86_64"},
        "generations": 9,
        "winner": {"parents": ["g0009-i0003", "g0009-i0004"], "fitness": 0.889, "line": [{"id": "g0009-i0003"}]},
        "critic": {"kind": "ridge", "reference": {"scratch": 0.113, "pretrained": 0.923}},
        "images": {"ancestor": 80896, "lives": 138240, "total": 219136},
    }


def make_learngene(arch: str = "vgg11", family: str = "64-128-256-512", **records: Any) -> Learngene:
    widths = dict(spec_of(arch, num_classes=1, width=0.125, family=family).widths)
    genotype = Genotype({group: ChannelMask(width, range(0, width, 2)) for group, width in widths.items()})
    layout = gene_layout(arch, widths)
    state = {name: torch.ones(shape) for name, shape in layout.shapes.items()}
    shares = {
        "circuit": layout.circuit_share(genotype.counts),
        "kernels": layout.kernel_share(genotype.counts),
        "circuit_parameters": layout.circuit_parameters(genotype.counts),
        "kernel_parameters": layout.kernel_parameters(genotype.counts),
        "network_parameters": layout.circuit_parameters(layout.groups),
    }
    records = {"shares": shares, "provenance": make_provenance(), **records}
    return Learngene(arch, genotype, gather(state, layout, genotype), **records)
