"""Leftover processes: the recorded ones end, and no others."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gtl.population import processes

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


def test_recorded_processes_end_and_no_others() -> None:
    ours, other = subprocess.Popen(SLEEP), subprocess.Popen(SLEEP)
    try:
        record = processes.record([ours.pid, 2**22 + 1])
        assert [pid for pid, _ in record["processes"]] == [ours.pid], "absent ones are not recorded"
        for changed in (
            {**record, "boot": "another boot"},
            {**record, "host": "another host"},
            {**record, "processes": [[ours.pid, 1]]},  # the pid now belongs to another process
            {**record, "processes": ["nonsense", [ours.pid], [1, processes.start_time(1)]]},
            {},
        ):
            assert processes.end_leftovers(changed) == 0 and ours.poll() is None
        assert processes.end_leftovers(record) == 1
        assert ours.wait(10) == -9 and other.poll() is None
        assert processes.end_leftovers(record) == 0, "gone already"
    finally:
        for process in (ours, other):
            process.kill()
            process.wait()


def test_descendants_are_children_and_theirs() -> None:
    script = f"import subprocess, sys; subprocess.run({SLEEP!r})"
    parent = subprocess.Popen([sys.executable, "-c", script])
    try:
        end = time.monotonic() + 10
        while len(found := processes.descendants(parent.pid)) < 1 and time.monotonic() < end:
            time.sleep(0.02)
        assert len(found) == 1 and set(found) | {parent.pid} <= set(processes.descendants(os.getpid()))
    finally:
        for pid in found:
            os.kill(pid, 9)
        parent.kill()
        parent.wait()


def test_zombies_and_absent_processes_have_no_start() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    end = time.monotonic() + 10
    while processes.start_time(child.pid) is not None and time.monotonic() < end:
        time.sleep(0.02)
    assert processes.start_time(child.pid) is None, "ended, and not yet waited for"
    child.wait()
    assert processes.start_time(child.pid) is None and processes.start_time(os.getpid()) is not None
