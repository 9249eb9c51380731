"""Where trials run: in this process or in several, and never twice: what is finished is kept in the cache folder.

A comparison is hundreds of descendants, each a pure function of its arena and its trial. So a comparison that was stopped
goes on where it was, and one that asks for more seeds or another start pays for the new ones only.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import cached_property
from typing import Any

import torch

from gtl.data.cache import read_cached, write_cached
from gtl.errors import ClusterError
from gtl.fewshot import Advance, Arena, Descendant, Start, Trial, training_of
from gtl.machine import keep_freed_memory, usual_threads
from gtl.training import cpu_threads
from gtl.versions import code_digest, versions

LINES = 20  # that are said about a comparison's trials, or a few more


class Trials:
    """Runs trials (`gtl.fewshot.Run`).

    Args:
        workers: processes; 1: this one. More than one are for CPUs, where two processes of one thread finish more small
            networks than one of two threads.
        remember: whether finished trials are read from and kept in the cache folder. Only those of starts with a `digest`
            are: of others nobody can say whether they are the same.
    """

    def __init__(self, workers: int = 1, *, remember: bool = True) -> None:
        self.workers, self._remember = workers, remember

    @cached_property
    def threads(self) -> int:
        """CPU threads of each process; part of a result's last bits, so of what it is kept under."""
        return torch.get_num_threads() if self.workers == 1 else max(1, usual_threads() // self.workers)

    def __call__(self, arena: Arena, trials: Sequence[Trial], advance: Advance) -> list[Descendant]:
        """What became of each trial, in the order asked for.

        Raises:
            ClusterError: a process was killed; what was finished is kept.
            DataError: a class has too few images.
        """
        names: list[str | None] = self._names(arena, trials) if self._remember else [None] * len(trials)
        same = [index if name is None else names.index(name) for index, name in enumerate(names)]  # first of its kind
        found = [_read(name) if same[index] == index else None for index, name in enumerate(names)]
        missing = [index for index, descendant in enumerate(found) if descendant is None and same[index] == index]
        before = sum(descendant is not None for descendant in found)
        if missing and before:
            advance(f"{before} of {len(trials)} trials were finished before")
        done, every = len(trials) - len(missing), max(1, len(trials) // LINES)
        for index, descendant in zip(missing, self._run(arena, [trials[index] for index in missing]), strict=True):
            found[index], name, done = descendant, names[index], done + 1
            if name is not None:
                write_cached(name, _plain(descendant))
            if done % every == 0:
                advance(f"{done} of {len(trials)}: {trials[index]}")
        return [descendant for descendant in (found[index] for index in same) if descendant is not None]

    def _run(self, arena: Arena, trials: Sequence[Trial]) -> Iterator[Descendant]:
        count = min(self.workers, len(trials))
        if count <= 1:
            with cpu_threads(self.threads):
                yield from map(arena.trial, trials)
            return
        others = multiprocessing.active_children()  # of whoever calls us; not ours to end
        context = multiprocessing.get_context("spawn")  # a fork of a process whose threads have computed may hang
        with ProcessPoolExecutor(count, context, _enter, (arena, self.threads)) as pool:
            try:
                yield from pool.map(_trial, trials)
            except BrokenProcessPool as error:
                raise ClusterError(
                    f"a process of the comparison was killed ({error}), perhaps for lack of memory. Run the same command "
                    "again: what was finished is kept; fewer --workers need less memory"
                ) from None
            except BaseException:  # nobody waits for the trials under way
                for process in set(multiprocessing.active_children()) - set(others):
                    process.terminate()
                raise

    def _names(self, arena: Arena, trials: Sequence[Trial]) -> list[str | None]:
        """Under which names trials are kept: a hash of everything that their results depend on."""
        shared: dict[str, Any] = {
            "images": arena.images.digest,
            "protocol": arena.section.model_dump(mode="json", exclude={"seeds", "shots", "learning_rates"}),
            "seed": arena.seed,
            "code": code_digest(),
        }
        with cpu_threads(self.threads):
            shared["versions"] = versions(arena.compute)
        keys = {name: _key_of_start(start) for name, start in arena.starts.items()}
        return [
            None if key is None else f"trial-{_digest({**shared, **key, 'trial': _key(trial)})[:40]}.json"
            for trial in trials
            for key in [keys[trial.start]]
        ]


def _key_of_start(start: Start) -> dict[str, str] | None:
    """What is inherited and how descendants are trained; None: nobody can say."""
    digest, training = getattr(start, "digest", None), training_of(start)
    if digest is None:
        return None
    return {"start": digest} if training is None else {"start": digest, "training": training.digest}


def _key(trial: Trial) -> dict[str, Any]:
    """A trial without the name of its start, which is only a name."""
    return {key: value for key, value in vars(trial).items() if key != "start"}


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _plain(descendant: Descendant) -> dict[str, Any]:
    return {"curve": [list(point) for point in descendant.curve], "by_class": list(descendant.by_class)}


def _read(name: str | None) -> Descendant | None:
    record = None if name is None else read_cached(name)
    if record is None:
        return None
    return Descendant(tuple((int(step), float(value)) for step, value in record["curve"]), tuple(record["by_class"]))


_serves: list[Arena] = []  # what a worker process computes for: one comparison in its life


def _enter(arena: Arena, threads: int) -> None:
    """Make this process a worker: Ctrl-C is its parent's business, and it does not outlive its parent."""
    _serves.append(arena)
    torch.set_num_threads(threads)
    keep_freed_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _trial(trial: Trial) -> Descendant:
    return _serves[0].trial(trial)
