"""SIGTERM and Ctrl-C, sent to this very process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from gtl.errors import StoppedByUserError, StoppedError
from gtl.population.signals import Signals


@pytest.mark.parametrize(
    ("number", "error", "code"), [(signal.SIGTERM, StoppedError, 75), (signal.SIGINT, StoppedByUserError, 130)]
)
def test_what_can_be_thrown_away_is_cut_off(number: int, error: type[StoppedError], code: int) -> None:
    before = signal.getsignal(number)
    with Signals() as signals, pytest.raises(error, match="Nothing was begun") as caught, signals.interruptible():
        os.kill(os.getpid(), number)
        time.sleep(10)
    assert caught.value.exit_code == code
    assert signal.getsignal(number) is before, "given back"


def test_what_writes_is_not() -> None:
    written = []
    with Signals() as signals, signals.interruptible():
        signals.run = "some/run"
        with pytest.raises(StoppedError, match=r"stopped by SIGTERM\. .* gtl resume some/run"):
            with signals.deferred():
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(0.01)
                written.append("whole")
            with signals.interruptible():
                written.append("never")
    assert written == ["whole"]


def test_check_without_a_signal_is_silent() -> None:
    with Signals() as signals:
        assert signals.check() is None
        with signals.interruptible():
            assert signals.check() is None


def test_other_handlers_are_taken_back_and_restored() -> None:
    def other(*_: object) -> None:
        raise AssertionError("the other handler was called")

    with Signals() as signals:
        signal.signal(signal.SIGTERM, other)  # as ray.init does
        signals.install()
        with pytest.raises(StoppedError), signals.interruptible():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)
    assert signal.getsignal(signal.SIGTERM) is not other


def test_another_thread_leaves_signals_alone() -> None:
    before, seen = signal.getsignal(signal.SIGTERM), []

    def work() -> None:
        with Signals() as signals:
            signals.install()
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 75), ("SIGINT", 130)])
def test_the_second_signal_ends_the_process_at_once(name: str, code: int) -> None:
    script = f"""
import os, signal, time
from gtl.population.signals import Signals
with Signals() as signals:
    os.kill(os.getpid(), signal.{name})
    print("still here", flush=True)
    os.kill(os.getpid(), signal.{name})
    time.sleep(60)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (code, "still here\n")
