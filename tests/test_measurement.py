"""Learning rates are chosen on the validation classes of the data that is compared on, where it has some."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_cli import CONFIG

from gtl.config_file import load_config
from gtl.data.request import DataRequest
from gtl.data.sources import load
from gtl.errors import NovelClassesError
from gtl.fewshot import Advance, Arena, Descendant, Trial, run_here
from gtl.learngene.artifact import Learngene
from gtl.learngene.condense import condense
from gtl.learngene.evidence import Bench
from gtl.life import World
from gtl.measurement import measure
from gtl.models import build
from gtl.report.table import markdown_starts, reading
from gtl.world import make_world

STARTS = ("scratch", "learngene")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(CONFIG.replace("[0.05]", "[0.001, 0.05]"))
    return make_world(load_config(path))


@pytest.fixture(scope="module")
def gene(world: World) -> Learngene:
    return condense(world, build(world.host, 3).state_dict(), method="l1", budget=0.3)


def folder_of(root: Path, images: dict[str, int]) -> str:
    """Noise in one folder a class; name below the root -> images."""
    draw = np.random.default_rng(0)
    for name, count in images.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            pixels = draw.integers(0, 255, (28, 28, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return f"folder:{root}"


NOVEL = {"novel/a": 6, "novel/b": 6, "novel/c": 6}
VAL = {"val/d": 5, "val/e": 5}


def test_a_folder_with_validation_classes_has_its_rates_from_them(gene: Learngene, tmp_path: Path) -> None:
    said: list[str] = []
    (found,) = measure(gene, folder_of(tmp_path, {**NOVEL, **VAL}), starts=STARTS, workers=1, say=said.append)
    assert found.protocol["rates_chosen_on"] == {"source": "folder", "classes": 2}
    assert not any("may not suit" in line for line in said)
    document = {**found.to_json(), "command": "gtl fewshot"}
    assert "chosen on validation classes of folder;" in reading(document)
    assert "chosen on validation classes of folder;" in markdown_starts(document)


@pytest.mark.parametrize("val", [{}, {"val/d": 5}, {"val/d": 5, "val/e": 2}], ids=["none", "one class", "few images"])
def test_one_that_has_none_to_choose_on_is_told_so(gene: Learngene, val: dict[str, int], tmp_path: Path) -> None:
    said: list[str] = []
    (found,) = measure(gene, folder_of(tmp_path, {**NOVEL, **val}), starts=STARTS, workers=1, say=said.append)
    assert found.protocol["rates_chosen_on"] == {"source": "glyphs", "classes": 4}
    (line,) = (line for line in said if "may not suit" in line)
    assert "folder has no validation classes of its own (two, with more than 2 images each)" in line
    assert "chosen on those of glyphs" in line


def test_the_genes_own_data_has_its_own(gene: Learngene) -> None:
    said: list[str] = []
    (found,) = measure(gene, starts=STARTS, workers=1, say=said.append)
    assert found.protocol["rates_chosen_on"] == {"source": "glyphs", "classes": 4}
    assert not any("may not suit" in line for line in said)


def test_each_data_has_its_own_rates_and_pays_for_them_once(gene: Learngene, world: World, tmp_path: Path) -> None:
    """On what each descendant learned: (source, role, whether to choose a rate)."""
    learned: list[tuple[str, str, bool]] = []

    def run(arena: Arena, trials: Sequence[Trial], advance: Advance) -> list[Descendant]:
        learned.extend((arena.images.source, arena.images.role, trial.purpose == "rate") for trial in trials)
        return run_here(arena, trials, advance)

    bench = Bench.prepare(gene, world, STARTS, lambda text: None, run)
    source, _, root = folder_of(tmp_path, {**NOVEL, **VAL}).partition(":")
    request = DataRequest(source, root=root, image_size=28)
    val = load(request, ("val",))["val"]
    for times in (1, 2):
        bench.evidence(request, lambda text: None, val)
        assert learned.count(("folder", "val", True)) == 2 * 2 * 2, "starts, rates, draws"
        assert learned.count(("folder", "novel", False)) == times * 2 * 2, "starts, seeds"
        assert not any(source == "glyphs" for source, *_ in learned)
    bench.evidence(request, lambda text: None)
    assert learned.count(("glyphs", "val", True)) == 2 * 2 * 2
    with pytest.raises(NovelClassesError):
        bench.evidence(request, lambda text: None, load(request, ("novel",))["novel"])
