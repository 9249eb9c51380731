"""Founders by every channel score: those that look at images are computed once, where computing is, and remembered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_run import tiny

from gtl import engine
from gtl.evolution.founding import even_channels, top_channels
from gtl.learngene.oneshot import METHODS, channel_scores
from gtl.population import founding
from gtl.population.store import RunStore
from gtl.world import make_world

SHORT: dict[str, Any] = {
    "founders": {"epochs": 1.0, "allocations": ("uniform",)},
    "evolution": {"population": 6, "search_generations": 0, "generations": 1},
    "life": {"steps": 1},
}


def settled(*channels: str) -> Any:
    return tiny(**{**SHORT, "founders": {**SHORT["founders"], "channels": channels}})


def test_founders_by_every_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = settled("taylor", "uniform", "activation", "l1", "bn", "random")
    calls = []
    real = founding.image_scores

    def image_scores(*given: Any) -> Any:
        calls.append(given[2])
        return real(*given)

    monkeypatch.setattr(founding, "image_scores", image_scores)
    run = engine.evolve(config, tmp_path / "run").run
    assert calls == [["taylor", "activation"]], "once"
    rows = [json.loads(line) for line in (run / "lineage.jsonl").read_text().splitlines()]
    births = {row["id"]: row["genotype"] for row in rows if "genotype" in row and row["id"].startswith("g0000")}
    store, world = RunStore.open(run), make_world(config)
    record = json.loads((run / "ancestor.json").read_text())
    tensors = store.blobs.get(record["gene"])
    assert set(record["scores"]) == {"taylor", "activation"}, "what is asked for"
    for number, method in enumerate(config.founders.channels):
        found = births[f"g0000-i{number:04d}"]
        counts = {group: len(entry["kept"]) for group, entry in found.items()}
        if method == "uniform":
            expected = even_channels(counts, world.layout.groups)
        else:
            scores = channel_scores(tensors, world.layout, method, config.seed, world)
            expected = top_channels(counts, scores)
            if method in record["scores"]:
                assert all(np.array_equal(scores[g], record["scores"][method][g]) for g in scores), "exact through JSON"
        assert found == expected.to_json(), method
    longer = engine.resume(run, generations=2)
    assert len(calls) == 1 and longer.learngene.genotype.sizes == dict(world.layout.groups)


def test_the_configuration_knows_every_method() -> None:
    assert settled(*METHODS).founders.channels == METHODS
