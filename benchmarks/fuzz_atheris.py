"""One batch of `fuzz.py` led by coverage: python benchmarks/fuzz_atheris.py KIND INPUTS SEED; prints what became of it.

libFuzzer keeps what reaches new code and changes it again, here with the same changes as the engine `mutation`, or its own.
Instrumented code takes many times as long: what fails here is only said, and `fuzz.py` judges it again without.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path
from random import Random

import atheris

with atheris.instrument_imports(include=["gtl", "yaml"]):
    from fuzz_changes import changed
    from fuzz_kinds import KINDS, warm_up
    from fuzz_seeds import seeds
    from fuzz_watch import Watch

LONGEST = 1 << 17  # bytes of an input
OWN = 0.2  # share of changes that are libFuzzer's own


def main() -> None:
    """Never returns."""
    name, inputs, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    kind, watch, ended = KINDS[name], Watch(), Counter[str]()
    failed: list[str] = []
    most = {"slowest": 0.0, "growth": 0}
    real = Path(tempfile.mkdtemp(prefix="gtl-fuzz-"))
    for number, data in enumerate(seeds(name)):
        (real / str(number)).write_bytes(data)

    def show(data: bytes) -> None:
        outcome = watch.show(kind, data)
        if outcome.failure:
            failed.append(data.hex())
        else:
            ended[outcome.stage] += 1
            most["slowest"], most["growth"] = max(most["slowest"], outcome.seconds), max(most["growth"], outcome.growth)
        shown = ended.total() + len(failed)
        if shown == inputs:  # libFuzzer would end the process, too, but without a word
            for file in real.iterdir():
                file.unlink()
            real.rmdir()
            print(json.dumps({"inputs": shown, "ended": ended, "failed": failed, **most}), flush=True)
            os._exit(0)

    def change(data: bytes, size: int, number: int) -> bytes:
        draw = Random(number)
        if draw.random() < OWN:
            return atheris.Mutate(data, size)
        return changed(name, data, draw)[:size]

    warm_up([name])
    with watch.on():
        options = [f"-seed={seed}", f"-max_len={LONGEST}", "-len_control=0", "-timeout=60", "-rss_limit_mb=0"]
        atheris.Setup([sys.argv[0], *options, str(real)], show, custom_mutator=change)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
