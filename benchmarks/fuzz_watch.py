"""One hostile input at a time: how far it came, whether what refused it was ours, how long it took, what memory it cost."""

from __future__ import annotations

import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import NamedTuple

import gtl

_STATUS = Path("/proc/self/status")
PACKAGE = str(Path(gtl.__file__).parent)
ACCEPTED = "accepted"
LONGEST_MESSAGE = 50_000  # characters; a hundred problems of a configuration are the longest text that is meant
STEPS = 400  # inputs that one reduction may try
MIB = 1 << 20


class TooSlowError(BaseException):
    """An input took longer than it may. No Exception: what is tested must not be able to catch it."""


class BrokenPromiseError(Exception):
    """What was accepted is not what it should be."""


@dataclass(frozen=True)
class Kind:
    """One kind of input and what reads it.

    Attributes:
        name: of the kind.
        read: reads an input; returns if it accepts it, and raises BrokenPromiseError if it should not have.
        refusals: the exceptions that it may raise.
        stages: function -> the stage that it is, in the order in which an input meets them. An input that is refused was
            refused in the outermost of them that is in the traceback.
        first: the stage of a refusal by none of them.
    """

    name: str
    read: Callable[[bytes], None]
    refusals: tuple[type[Exception], ...]
    stages: Mapping[str, str]
    first: str = ""

    @property
    def order(self) -> list[str]:
        """All stages, the last one being accepted."""
        return [*filter(None, [self.first]), *dict.fromkeys(self.stages.values()), ACCEPTED]

    def stage(self, error: BaseException) -> str:
        """Where an input was refused."""
        names = (code.co_name for code in _calls(error))
        return next((self.stages[name] for name in names if name in self.stages), self.first)


@dataclass(frozen=True)
class Outcome:
    """What became of one input.

    Attributes:
        stage: where it was refused, or `ACCEPTED`; empty if it failed.
        seconds: CPU time.
        growth: bytes by which the process's largest memory grew, pages of mapped files aside.
        failure: empty, or what must not be: the exception and the place in gtl that it came from, or too slow, or too much.
    """

    stage: str
    seconds: float
    growth: int = 0
    failure: str = ""


class Memory(NamedTuple):
    """Of this process, in bytes: the largest that it has had, and the pages of mapped files in it now."""

    peak: int
    files: int

    def growth(self, before: Memory) -> int:
        """Bytes by which the peak grew since, less the pages of files that came in.

        A first call into a library maps its pages, and where the system has just written them (a fresh install) it maps
        hundreds of MiB at once: they are the page cache's, and no input's.
        """
        return max(0, self.peak - before.peak - max(0, self.files - before.files))


@dataclass
class Watch:
    """Shows inputs to what reads them, one after the other, under limits.

    Attributes:
        seconds: CPU time that an input may take.
        growth: bytes that an input may add to the largest memory of this process.
    """

    seconds: float = 1.0
    growth: int = 64 * MIB
    _armed: bool = field(default=False, repr=False)

    @contextmanager
    def on(self) -> Iterator[Watch]:
        """The alarm is ours inside the block."""
        before = signal.signal(signal.SIGPROF, self._alarm)
        try:
            yield self
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.signal(signal.SIGPROF, before)

    def show(self, kind: Kind, data: bytes) -> Outcome:
        """Have an input read. Only inside `on`."""
        stage, failure, memory_before, began = "", "", memory(), time.process_time()
        self._armed = True
        signal.setitimer(signal.ITIMER_PROF, self.seconds)
        try:
            kind.read(data)
            stage = ACCEPTED
        except kind.refusals as error:
            stage = kind.stage(error)
            if not stage:
                failure = f"refused at no known stage, at {_place(error)}"
            elif len(str(error)) > LONGEST_MESSAGE:
                failure = f"a message of more than {LONGEST_MESSAGE} characters at {_place(error)}"
        except TooSlowError as error:
            failure = f"more than {self.seconds} s at {_place(error)}"
        except Exception as error:  # whatever it is: that it is not ours is the finding
            failure = f"{type(error).__name__} at {_place(error)}"
        finally:
            self._armed = False
            signal.setitimer(signal.ITIMER_PROF, 0)
        seconds = time.process_time() - began
        growth = memory().growth(memory_before)
        if not failure and seconds > self.seconds:  # a call into C is not interrupted
            failure = f"more than {self.seconds} s"
        if not failure and growth > self.growth:
            failure = f"more than {self.growth // MIB} MiB"
        return Outcome("" if failure else stage, seconds, growth, failure)

    def reduced(self, kind: Kind, data: bytes, failure: str) -> bytes:
        """A shorter input that fails in the same way: parts are left out as long as it does (delta debugging)."""
        size, steps = max(1, len(data) // 2), 0
        while size and steps < STEPS:
            at, before = 0, len(data)
            while at < len(data) and steps < STEPS:
                shorter = data[:at] + data[at + size :]
                steps += 1
                if self.show(kind, shorter).failure == failure:
                    data = shorter
                else:
                    at += size
            size = min(size // 2, len(data)) if len(data) == before or size == 1 else size
        return data

    def _alarm(self, number: int, frame: FrameType | None) -> None:
        if self._armed:
            raise TooSlowError


def limit_memory(headroom: int) -> None:
    """Have an allocation of more than `headroom` bytes beyond what this process has now fail."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + headroom
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))


def memory() -> Memory:
    """What this process has had and has now."""
    try:
        status = _STATUS.read_bytes()
    except OSError:  # not Linux; there, this would count what the parent had when it started us
        return Memory(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024), 0)
    return Memory(
        *(int(status[status.index(b"\n" + key) :].split(maxsplit=2)[1]) * 1024 for key in (b"VmHWM:", b"RssFile:"))
    )


def _place(error: BaseException) -> str:
    """``file:function`` of the innermost call in the package; without the line, so that an edit keeps failures together."""
    calls = _calls(error)
    ours = [code for code in calls if code.co_filename.startswith(PACKAGE)] or calls[-1:]
    return f"{Path(ours[-1].co_filename).name}:{ours[-1].co_name}" if ours else "nowhere"


def _calls(error: BaseException) -> list[CodeType]:
    """What was called, outermost first, down to where it began: an error may have been raised because of another."""
    while error.__cause__ is not None:
        error = error.__cause__
    codes = [frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)]
    return [code for code in codes if code is not Watch._alarm.__code__]
