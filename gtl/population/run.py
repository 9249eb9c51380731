"""The small things of a run directory: where the next one goes, its records, its extension, its learngene."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

from gtl import storage
from gtl.config import Config
from gtl.config_file import NOT_HASHED, changed_config, parse_config
from gtl.errors import RunError
from gtl.learngene.artifact import Learngene
from gtl.life import World
from gtl.lineage import Lineage
from gtl.population.store import RunStore

POPULATIONS = Path("populations")
LEARNGENE = "learngene.safetensors"
EXTENSION = "extension.json"
DATA = "data.json"
CALIBRATION = "calibration.json"
LEFTOVERS = "ray.json"  # processes that a killed driver leaves behind


def next_run(name: str) -> Path:
    """A new path ``populations/<name>/runs/NNN`` below the current folder."""
    runs = POPULATIONS / name / "runs"
    taken = [int(path.name) for path in runs.glob("[0-9]*") if path.name.isdigit()]
    return runs / f"{max(taken, default=0) + 1:03d}"


def read_config(run: Path) -> Config:
    """The configuration that a run was made with, as it lies in its directory.

    Raises:
        RunError: the file is not there or not readable.
        ConfigError: it is not a configuration.
    """
    path = run / "config.yaml"
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{path} cannot be read ({error}); restore it from a backup, or start a new run") from None
    return parse_config(text, str(path))


def life_rate(run: Path) -> float | None:
    """Images a second of one worker's training steps, as they were timed before the run began; None: they were not."""
    try:
        record = read_record(run / CALIBRATION)
        found = (way for way in record["candidates"] if record["chosen"].items() <= way.items())
        rate = float(next(found)["images_per_second"])
    except (RunError, LookupError, StopIteration, AttributeError, TypeError, ValueError):
        return None  # it only foretells
    return rate if 0.0 < rate < math.inf else None


def read_record(path: Path) -> dict[str, Any]:
    """A small JSON file of the run; {} if it is not there yet.

    Raises:
        RunError: it is damaged.
    """
    try:
        record = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read ({error}); move it away to have it made again") from None
    if not isinstance(record, dict):
        raise RunError(f"{path} does not hold a JSON object; move it away to have it made again")
    return record


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Write a small JSON file whole or not at all, in place of an older one."""
    storage.publish(path, json.dumps(record, indent=1).encode() + b"\n", overwrite=True)


def check_data(run: Path, world: World) -> None:
    """Remember which images and classes the run was begun with, or refuse others.

    Raises:
        RunError: the data source now gives other classes or other images.
    """
    pixels = hashlib.sha256()
    for images in (world.train, world.val):
        pixels.update(images.images.numpy().tobytes())
        pixels.update(images.labels.numpy().tobytes())
    now = {"classes": world.class_digest, "images": pixels.hexdigest()}
    record = read_record(run / DATA)
    if not record:
        write_record(run / DATA, now)
    elif changed := [name for name in now if record.get(name) != now[name]]:
        raise RunError(
            f"{run} was begun with other {' and '.join(changed)} than {world.train.source} gives now; bring the old data "
            "back, or start a new run"
        )


def refuse_other_config(config: Config, run: Path) -> None:
    """Raise RunError if a run was begun with another configuration than this one.

    What a configuration leaves to the machine (``auto``, 0 threads) the run has settled when it began: that is no
    difference, and neither is what cannot change a result.
    """
    wanted, found = (each.model_dump(mode="json", exclude=NOT_HASHED) for each in (config, read_config(run)))
    for section, keys in (("compute", found["compute"]), ("founders", ("threads",))):
        for key in keys:
            if wanted[section][key] in ("auto", 0):
                wanted[section][key] = found[section][key]
    if other := _differences(wanted, found, ""):
        raise RunError(
            f"{run} was begun with another configuration: {'; '.join(other[:4])}{' ...' if other[4:] else ''}. Give the "
            "configuration that it was begun with, or another folder"
        )


def _differences(wanted: Any, found: Any, key: str) -> list[str]:
    """``key: value in the run, value asked for``, of every key that differs."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        names = [*found, *(name for name in wanted if name not in found)]
        return [line for n in names for line in _differences(wanted.get(n), found.get(n), f"{key}.{n}".strip("."))]
    return [] if wanted == found else [f"{key} is {found} there, not {wanted}"]


def extended(config: Config, run: Path, generations: int | None) -> Config:
    """The configuration of a run that may have been extended; remembers `generations`, so that a killed extension
    goes on by itself.

    Raises:
        RunError: fewer generations than the run was made for.
        ConfigError: more than a configuration may have.
    """
    record = read_record(run / EXTENSION)
    if generations is not None:
        planned = int(record.get("generations", config.evolution.generations))
        if generations < planned:
            raise RunError(f"--generations {generations} is below the {planned} that {run} was made for")
        longer = changed_config(config, evolution={"generations": generations})
        write_record(run / EXTENSION, {"generations": generations})
        return longer
    return changed_config(config, evolution=record) if record else config


def publish_learngene(store: RunStore, learngene: Learngene) -> Path:
    """Write the run's learngene. One of fewer generations is kept beside it under the number of its generations."""
    path = store.path / LEARNGENE
    data = learngene.to_bytes()
    if path.exists() and path.read_bytes() != data:
        older = Learngene.load(path)
        older.save(store.path / f"learngene-{int(older.provenance['generations']):06d}.safetensors", overwrite=True)
    storage.publish(path, data, overwrite=True)
    return path


def read_lineage(store: RunStore) -> Lineage:
    """The run's lineage from its journal."""
    return Lineage.read(store.path / "lineage.jsonl")
