"""F39: a driver that runs for long neither grows nor leaves anything behind. The same soak as `benchmarks/scaling.py`'s."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gtl.population.processes import descendants, start_time

SOAK = Path(__file__).parents[2] / "benchmarks" / "scaling_soak.py"
GENERATIONS = 60
SETTLED, WINDOW = 20, 5  # as in the benchmark: before, things are imported and buffers made


@pytest.mark.slow
@pytest.mark.ray
def test_f39_flat(tmp_path: Path) -> None:
    """Memory, shared memory, files, threads and processes after 60 generations are those after 20."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GTL_CACHE": str(tmp_path / "cache")}
    words = [sys.executable, str(SOAK), str(tmp_path / "run"), str(GENERATIONS)]
    samples, below = [], {}
    with (
        (tmp_path / "errors").open("w") as errors,
        subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            samples.append(json.loads(line))
            below |= {pid: start_time(pid) for pid in descendants(process.pid)}
    assert process.returncode == 0, (tmp_path / "errors").read_text()[-2000:]
    assert [sample["generation"] for sample in samples] == list(range(GENERATIONS + 1))
    early, late = samples[SETTLED - WINDOW : SETTLED + WINDOW + 1], samples[-2 * WINDOW - 1 :]

    def least(of: list[dict[str, int]], name: str) -> int:
        return min(sample[name] for sample in of)

    assert least(late, "resident") <= 1.1 * least(early, "resident")
    assert least(late, "shared") <= least(early, "shared") + (1 << 20), "genes stay in shared memory"
    for name in ("files", "threads", "processes"):
        assert least(late, name) <= least(early, name), f"{name} leak"
    deadline = time.monotonic() + 20  # the system takes a moment to bury them
    while orphans := [pid for pid, at in below.items() if at is not None and start_time(pid) == at]:
        assert time.monotonic() < deadline, f"left behind: {orphans}"
        time.sleep(0.5)
    assert len(below) >= 4, "Ray and two workers were seen"
