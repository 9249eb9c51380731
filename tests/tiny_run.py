"""A whole evolution in half a second. As a script: evolve it in a run directory, or go on with what is there.

python tiny_run.py RUN
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pico import config, merged

from gtl.config import Config

TINY: dict[str, Any] = {
    "data": {
        "source": "glyphs", "image_size": 28, "images_per_class": 14,
        "train_classes": 6, "val_classes": 4, "novel_classes": 4,
    },
    "model": {"width": 0.125},
    "gene": {"budget": 0.3, "initial_share": (0.05, 0.3)},
    "founders": {"epochs": 4.0, "training": {"batch_size": 21}},
    "evolution": {
        "population": 4, "search_generations": 1, "generations": 2, "litter": 2, "crossover": {"average_siblings": True},
    },
    "life": {"n_way": 4, "steps": 3, "training": {"batch_size": 16}},
    "critic": {"fit_images": 5, "score_images": 6},
    "fewshot": {"shots": (3,), "test_images": 6},
}  # fmt: skip


def tiny(**sections: Mapping[str, Any] | Any) -> Config:
    """The configuration, with `sections` laid over it."""
    return config(**merged(TINY, sections))


LONGER = tiny(
    founders={"epochs": 40.0},
    evolution={"population": 6, "search_generations": 2, "generations": 4, "tournament": {"elite": 2}},
    life={"steps": 12},
)


def main() -> None:
    """Evolve LONGER in the directory, or resume it there; say when it begins."""
    from gtl import engine
    from gtl.learngene import founders

    run = Path(sys.argv[1])
    founders.SAVE_EVERY = 0.0  # at every epoch, so that training of the ancestor is resumed, too
    print("begun", flush=True)
    if (run / "run.json").exists():
        engine.resume(run)
    else:
        engine.evolve(LONGER, run)


if __name__ == "__main__":
    main()
