"""SIGTERM and Ctrl-C: the first asks a run to stop where nothing is lost, the second ends the process at once.

A signal raises at once only while something is computed that can be thrown away (`interruptible`); while files are
written it is remembered, and raised at the next `check`.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self

from gtl.errors import StoppedByUserError, StoppedError

_SHOW_CURSOR = "\x1b[?25h"


class Signals:
    """Context manager that takes over SIGTERM and SIGINT of the main thread, and gives them back.

    In another thread than the main one it does nothing: signals cannot be handled there.

    Attributes:
        run: the run directory that messages name, once there is one.
    """

    def __init__(self) -> None:
        self._asked: int | None = None
        self._interruptible = False
        self._before: dict[int, Any] = {}
        self.run = ""

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
            self.install()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}

    def install(self) -> None:
        """Take the signals (again): `ray.init` puts a handler of its own in place of ours."""
        for number in self._before or ():
            signal.signal(number, self._arrived)

    def check(self) -> None:
        """Raise if a signal has arrived.

        Raises:
            StoppedError: SIGTERM.
            StoppedByUserError: SIGINT.
        """
        if self._asked is None:
            return
        saved = f"What was finished is saved; go on with: gtl resume {self.run}" if self.run else "Nothing was begun."
        if self._asked == signal.SIGINT:
            raise StoppedByUserError(f"interrupted. {saved}")
        raise StoppedError(f"stopped by {signal.Signals(self._asked).name}. {saved}")

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Around what may be cut off anywhere: a life, a training, waiting. Writes nothing that must be whole."""
        with self._set(True):
            self.check()
            yield

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Around what writes: a signal waits for the next `check`."""
        with self._set(False):
            yield

    @contextmanager
    def _set(self, interruptible: bool) -> Iterator[None]:
        before, self._interruptible = self._interruptible, interruptible
        try:
            yield
        finally:
            self._interruptible = before

    def _arrived(self, number: int, _: FrameType | None) -> None:
        if self._asked is not None:
            _leave_at_once(130 if number == signal.SIGINT else 75)
        self._asked = number
        if self._interruptible:
            self.check()


def _leave_at_once(code: int, leave: Callable[[int], Any] = os._exit) -> None:
    """End the process without any cleaning up; the run directory bears that at every moment."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and stream.isatty():
            os.write(stream.fileno(), _SHOW_CURSOR.encode())
    leave(code)
