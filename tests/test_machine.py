"""What a process keeps of the memory that it frees."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from functools import cache

import pytest

from gtl.machine import keep_freed_memory

GLIBC = hasattr(ctypes.CDLL(None), "gnu_get_libc_version")
# Twenty times large pieces, as training steps allocate them; prints how many pages the system had to hand out. Each time they
# are a little larger: glibc learns from what is freed, and whether it would keep pieces of a size that it knows is chance.
STEPS = """
import resource, sys
import torch
from gtl.config import ComputeSection
from gtl.training import resolve_compute
if sys.argv[1] == "keep":
    resolve_compute(ComputeSection(device="cpu", threads=1))
def step(number):
    return [torch.ones(6_000_000 + 20_000 * number) for _ in range(4)]
step(0)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for number in range(1, 21):
    step(number)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@cache
def pages(word: str, **environment: str) -> int:
    """Page faults of twenty steps in a process of its own."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", STEPS, word]
    return int(subprocess.run(command, env={**own, **environment}, capture_output=True, check=True, text=True).stdout)


@pytest.mark.skipif(not GLIBC, reason="another C library")
def test_freed_memory_is_kept_for_the_next_step() -> None:
    # 96 MB a step are 23,000 pages of 4 KB: those of the first steps, and those of all twenty
    assert 4 * pages("keep") < pages("leave")


@pytest.mark.skipif(not GLIBC, reason="another C library")
def test_wishes_of_the_user_stand() -> None:
    assert pages("keep", MALLOC_TRIM_THRESHOLD_="131072") > 4 * pages("keep")


def test_another_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert not keep_freed_memory()
