"""How the engine scales: what the driver costs, what a second worker brings, whether memory stays flat, bytes on the wire.

python benchmarks/scaling.py --all [--out RECORD.json]        about ten minutes, on a machine with nothing else to do
python benchmarks/scaling.py --driver --small                 one part; smaller, to see whether it runs

Prints a line of JSON for every figure. Exits 1 where a bound does not hold.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PARTS = {
    "driver": "what the driver costs per individual, and how busy it keeps 64 slots, with lives that sleep",
    "training": "real training: two workers against one, on two cores",
    "soak": "200 generations: the driver's memory, files, threads, processes",
    "wire": "bytes on the wire against the size of the genes, workers on other nodes",
}
ALONE = ["unshare", "--map-root-user", "--net"]  # a network of its own, in which nobody else's bytes are counted


def main() -> int:
    """Run the parts that were asked for, each in a process of its own: a fresh Ray, fresh memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="all parts")
    for name, question in PARTS.items():
        parser.add_argument(f"--{name}", action="store_true", help=question)
    parser.add_argument("--small", action="store_true", help="a trial of a minute or two; its numbers mean little")
    parser.add_argument("--out", type=Path, help="write a record here")
    parser.add_argument("--within", choices=PARTS, help=argparse.SUPPRESS)  # in the process of one part
    given = parser.parse_args()
    if given.within:
        from figure import to_line

        for figure in importlib.import_module(f"scaling_{given.within}").measure(given.small):
            print(to_line(figure), flush=True)
        return 0
    parts = [name for name in PARTS if given.all or getattr(given, name)]
    if not parts:
        parser.error("which? --all, or one or more of " + ", ".join(f"--{name}" for name in PARTS))
    from figure import circumstances

    record: dict[str, Any] = {"command": command(parts, given), **circumstances(), "figures": []}
    for name in parts:
        for figure in run(name, given.small):
            print(json.dumps(figure), flush=True)
            record["figures"].append({"part": name, **figure})
    if given.out:
        given.out.write_text(json.dumps(record, indent=2) + "\n", "utf-8")
    return int(any(figure["holds"] is False for figure in record["figures"]))


def run(part: str, small: bool) -> Iterator[dict[str, Any]]:
    """Figures of one part.

    Raises:
        SystemExit: its process failed.
    """
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]),  # workers find `sleeping` there
        "OMP_NUM_THREADS": "1",
    }
    words = [sys.executable, str(Path(__file__)), "--within", part, *(["--small"] if small else [])]
    if part == "wire" and shutil.which(ALONE[0]) and subprocess.run([*ALONE, "true"], check=False).returncode == 0:
        words, environment["GTL_OWN_NETWORK"] = [*ALONE, *words], "1"
    with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith('{"name"'):  # others may say something, too
                yield json.loads(line)
    if process.returncode:
        raise SystemExit(f"{part} failed with exit code {process.returncode}")


def command(parts: list[str], given: argparse.Namespace) -> str:
    """As it would be typed again."""
    flags = ["--all"] if len(parts) == len(PARTS) else [f"--{name}" for name in parts]
    return " ".join(["python benchmarks/scaling.py", *flags, *(["--small"] if given.small else [])])


if __name__ == "__main__":
    sys.exit(main())
