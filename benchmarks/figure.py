"""A figure of a benchmark: one number, what it must keep to, and how sure it is."""

from __future__ import annotations

import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

PACKAGES = ("gtl", "ray", "torch", "numpy", "deap")


@dataclass(frozen=True)
class Figure:
    """One line of a record.

    Attributes:
        name: what was measured, and at which size.
        samples: what came out, once or several times; the value is their median.
        unit: of the samples.
        least, most: the bounds that the value keeps to, where there are any.
        notes: what the number is made of.
    """

    name: str
    samples: Sequence[float]
    unit: str
    least: float | None = None
    most: float | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        """Whether the value keeps to its bounds."""
        value = statistics.median(self.samples)
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)

    def to_json(self) -> dict[str, Any]:
        """As it stands in a record."""
        bound = {name: limit for name, limit in (("at least", self.least), ("at most", self.most)) if limit is not None}
        return {
            "name": self.name,
            "value": rounded(statistics.median(self.samples)),
            "unit": self.unit,
            "bound": bound or None,
            "holds": self.holds if bound else None,
            "n": len(self.samples),
            "range": [rounded(min(self.samples)), rounded(max(self.samples))],
            **self.notes,
        }


def to_line(figure: Figure) -> str:
    """As it is printed."""
    return json.dumps(figure.to_json())


def rounded(value: float) -> float:
    """Four digits."""
    return float(f"{value:.4g}")


def typed(script: str, words: Sequence[str]) -> str:
    """A script's command as it would be typed again; where data lie and the record goes is each machine's own."""
    own = {"--data": "DATA", "--out": "RECORD"}
    return shlex.join(
        ["python", script, *(own.get(before, word) for before, word in zip(["", *words], words, strict=False))]
    )


def circumstances() -> dict[str, Any]:
    """What the numbers depend on: versions, cores, and how busy the machine was with other things."""
    return {
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "cores": len(os.sched_getaffinity(0)),
        "load": [rounded(load) for load in os.getloadavg()],
    }


def measured_apart(script: str, *words: object, **environment: str) -> dict[str, float]:
    """What a script prints as its last line, a JSON object, run with these words in a process of its own."""
    done = subprocess.run(
        [sys.executable, script, *map(str, words)],
        env={**os.environ, **environment}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found
