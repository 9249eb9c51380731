"""Reads files under limits, in a process of its own: python limited_reader.py PLAN, and a line of JSON for each file.

PLAN is JSON: a list of {door, mib, real, files}. A door's files may take `mib` of address space beyond what the process has
once it has read `real`. A line tells the error, the seconds of the fastest of three attempts, and by how much memory grew.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

from gtl.learngene.artifact import Learngene
from gtl.learngene.checkpoint import read_checkpoint
from gtl.models import spec_of

DOORS: dict[str, Callable[[Path], object]] = {
    "learngene": Learngene.load,
    "checkpoint": lambda path: read_checkpoint(path, spec_of("vgg11", num_classes=2, width=0.03125)),
}


def kib(field: str) -> int:
    """A field of this process's status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def limit(mib: int | None) -> None:
    """Let no more be allocated than so much; None: no limit."""
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (hard if mib is None else kib("VmSize") * 1024 + (mib << 20), hard))


def attempt(read: Callable[[Path], object], path: Path) -> dict[str, object]:
    """What becomes of a file."""
    seconds, error, says = float("inf"), "", ""
    with suppress(OSError):  # the peak starts again from what is there now; else it is the highest so far
        Path("/proc/self/clear_refs").write_text("5")
    before = kib("VmHWM")
    for _ in range(3):  # other work on the machine is not the reader's
        began = time.perf_counter()
        try:
            read(path)
        except Exception as caught:
            error, says = type(caught).__name__, str(caught)  # not the error: it holds on to what was read
        seconds = min(seconds, time.perf_counter() - began)
    return {"error": error, "says": says, "seconds": seconds, "mib": (kib("VmHWM") - before) / 1024}


def main() -> None:
    """One file after the other."""
    torch.set_num_threads(1)
    for part in json.loads(sys.argv[1]):
        read = DOORS[part["door"]]
        read(Path(part["real"]))
        limit(part["mib"])
        for file in part["files"]:
            print(json.dumps({"door": part["door"], **attempt(read, Path(file))}), flush=True)
        limit(None)


if __name__ == "__main__":
    main()
