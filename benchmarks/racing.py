"""What racing brings: the same evolution on glyphs with and without heats, by images spent and by the gene at its end.

python benchmarks/racing.py --seeds 5 [--out RECORD.json]      four minutes a seed on one core

Three runs a seed: every child lives in full; with heats, as many generations; and without heats, half as many
generations, which costs the images that the race costs. All of a seed end with the same critic tasks.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from figure import circumstances

from gtl import engine
from gtl.config import Config
from gtl.config_file import load_config

CONFIG = Path(__file__).parents[1] / "configs" / "glyphs_generations.yaml"
COMMON = (
    "evolution.population=9", "evolution.litter=1", "evolution.crossover.average_siblings=false",
    "evolution.search_generations=3", "critic.final_tasks=8", "compute.threads=1", "cluster.workers=1",
)  # fmt: skip
RACE = ("evolution.racing.heats=[0.25]", "evolution.racing.keep=0.25")


def config(seed: int, generations: int, *overrides: str) -> Config:
    """Generations of short lives, with eight children each."""
    return load_config(CONFIG, [*COMMON, f"seed={seed}", f"evolution.generations={generations}", *overrides])


def gene(result: engine.Result) -> dict[str, float]:
    """What the run spent on lives, and how good its gene is on the last comparison's tasks."""
    found = result.learngene.provenance
    return {"images": found["images"]["lives"], "fitness": found["winner"]["fitness"]}


def runs_of(seed: int) -> dict[str, Any]:
    """The three runs of one seed."""
    with tempfile.TemporaryDirectory() as folder:
        half = gene(engine.evolve(config(seed, 2), Path(folder) / "plain"))
        plain = gene(engine.resume(Path(folder) / "plain", generations=4))
        race = gene(engine.evolve(config(seed, 4, *RACE), Path(folder) / "race"))
    return {"seed": seed, "all in full": plain, "racing": race, "all in full, half the generations": half}


def main() -> int:
    """All seeds; a line each, and the means of the differences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="write a record here")
    given = parser.parse_args()
    found = []
    for seed in range(given.seeds):
        found.append(runs_of(seed))
        print(json.dumps(found[-1]), flush=True)
    summary = {}
    for arm in ("all in full", "all in full, half the generations"):
        differences = [each["racing"]["fitness"] - each[arm]["fitness"] for each in found]
        summary[f"racing against {arm}"] = {
            "images": statistics.mean(each["racing"]["images"] / each[arm]["images"] for each in found),
            "fitness": statistics.mean(differences),
            "std": statistics.stdev(differences) if len(found) > 1 else None,
        }
    print(json.dumps(summary), flush=True)
    if given.out:
        command = shlex.join(["python", "benchmarks/racing.py", *sys.argv[1:]])
        record = {"command": command, **circumstances(), "runs": found, "summary": summary}
        given.out.write_text(json.dumps(record, indent=2) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
