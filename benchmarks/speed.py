"""How fast lives are: gtl against what a user would write, the bare limit and the peak of this machine's CPU cores.

python benchmarks/speed.py --work vgg11-quarter vgg11 [--out RECORD.json]     all sides in turns, five times
python benchmarks/speed.py --tune vgg11-quarter        the same lives as trials of Ray Tune (needs the extra `bench`)
python benchmarks/speed.py --parts vgg11-quarter       how much longer it takes without each technique
python benchmarks/speed.py --growth                    time and memory against population and generations
python benchmarks/speed.py --work trial --repetitions 1                       half a minute, to see whether it runs

Prints a line of JSON for every figure. Exits 1 where a bound does not hold.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from figure import Figure, circumstances, rounded, to_line

HERE = Path(__file__).parent
WORKS = ("vgg11-quarter", "vgg11", "resnet12", "trial")
LEAST = {"vgg11-quarter": 2.2, "vgg11": 1.6}  # times the plain loop
LIMIT = 0.92  # of the bare loop
NEAR = 0.85  # of the fastest way to do the same in the first turn: slower ways get no further turns
PLAIN, BARE, ENGINE, PEAK = "plain", "bare", "engine", "peak"
KINDS = (PLAIN, BARE, ENGINE, PEAK)


def main() -> int:
    """All sides of all works that were asked for, in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", nargs="+", choices=WORKS, default=[], help="which networks")
    parser.add_argument("--tune", nargs="+", choices=WORKS, default=[], help="networks of lives as trials of Ray Tune")
    parser.add_argument(
        "--parts", nargs="+", choices=WORKS, default=[], help="networks that each technique is taken from"
    )
    parser.add_argument("--growth", action="store_true", help="how time and memory grow")
    parser.add_argument("--repetitions", type=int, default=5, help="turns of every side")
    parser.add_argument("--out", type=Path, help="write a record here")
    given = parser.parse_args()
    record: dict[str, Any] = {"command": command(given), **circumstances(), "figures": []}
    for figure in everything(given):
        print(to_line(figure), flush=True)
        record["figures"].append(figure.to_json())
        if given.out:  # after every figure: a run takes an hour
            given.out.write_text(json.dumps(record, indent=2) + "\n", "utf-8")
    return int(any(figure["holds"] is False for figure in record["figures"]))


def everything(given: argparse.Namespace) -> Iterator[Figure]:
    """All figures that were asked for."""
    for work in given.work:
        yield from figures(work, given.repetitions)
    for work in given.tune:
        import speed_tune

        os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
        yield from speed_tune.measure(work, given.repetitions)
    for work in given.parts:
        import speed_parts

        yield from speed_parts.measure(work, given.repetitions)
    if given.growth:
        import speed_growth

        yield from speed_growth.measure(given.repetitions)


def command(given: argparse.Namespace) -> str:
    """As it would be typed again."""
    lists = [f"--{name} {' '.join(found)}" for name in ("work", "tune", "parts") if (found := getattr(given, name))]
    growth = ["--growth"] if given.growth else []
    return " ".join(["python benchmarks/speed.py", *lists, *growth, f"--repetitions {given.repetitions}"])


def figures(work: str, repetitions: int) -> Iterator[Figure]:
    """Rates of all sides, and the engine's as ratios within each repetition."""
    cores = len(os.sched_getaffinity(0))
    layouts = [(1, cores), (cores, 1)] if cores > 1 else [(1, 1)]  # processes, threads of each
    sides: dict[str, tuple[str, str, int, int]] = {  # name -> kind, side, processes, threads
        "plain": (PLAIN, "plain", 1, cores),
        "plain, two loading workers": (PLAIN, "plain-loading", 1, cores),
    }
    for processes, threads in layouts:
        sides |= {
            f"{kind}, {precision}{processes} x {threads} threads": (kind, f"{kind}{suffix}", processes, threads)
            for kind, precision, suffix in (
                (BARE, "float32, ", ""), (BARE, "bfloat16, ", "-bfloat16"), (ENGINE, "", ""),
                (PEAK, "float32, ", ""), (PEAK, "bfloat16, ", "-bfloat16"),
            )
        }  # fmt: skip
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for repetition in range(repetitions):
        if repetition == 1:  # of several ways to do the same, the slow ones need no more turns
            fastest = {kind: max(rates[n][0] for n, s in sides.items() if s[0] == kind) for kind in KINDS}
            sides = {name: s for name, s in sides.items() if rates[name][0] >= NEAR * fastest[s[0]]}
        order = list(sides.items())
        for name, (_, side, processes, threads) in order if repetition % 2 else order[::-1]:
            rates[name].append(turn(side, work, processes, threads))
            print(f"{work}: {name}: {rates[name][-1]:.0f} images/s", file=sys.stderr, flush=True)
    best = {kind: max((n for n, s in sides.items() if s[0] == kind), key=lambda n: statistics.median(rates[n]))
            for kind in KINDS}  # fmt: skip
    peak = statistics.median(rates[best[PEAK]])
    for name, found in rates.items():
        share = {"share of the peak": rounded(statistics.median(found) / peak), "peak": best[PEAK]}
        yield Figure(f"{work}: {name}", found, "images/s", notes={} if name == best[PEAK] else share)
    for kind, least in ((PLAIN, LEAST.get(work)), (BARE, LIMIT)):
        ratios = [a / b for a, b in zip(rates[best[ENGINE]], rates[best[kind]], strict=True)]
        about = {"of": [best[ENGINE], best[kind]], "pairs": [rounded(ratio) for ratio in ratios]}
        yield Figure(f"{work}: engine against {kind}", ratios, "ratio", least=least, notes=about)


def turn(side: str, work: str, processes: int, threads: int) -> float:
    """Images a second of `processes` that train at the same time."""
    command = [sys.executable, str(HERE / "speed_sides.py"), side, work, str(threads)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    running = [
        subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(processes)
    ]
    try:
        for process in running:
            expect(process, "ready")
        began = time.perf_counter()
        for process in running:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        images = sum(json.loads(expect(process, "{"))["images"] for process in running)
        return images / (time.perf_counter() - began)
    finally:
        for process in running:
            process.kill()
            process.wait()


def expect(process: subprocess.Popen[str], start: str) -> str:
    """Its next line that begins so.

    Raises:
        RuntimeError: it ended before.
    """
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(start):
            return line
    raise RuntimeError(f"{process.args} ended with {process.wait()}")


if __name__ == "__main__":
    sys.exit(main())
