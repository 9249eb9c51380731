"""Checks of what is installed and of the machine: Python, packages, torch, GPUs, cores and memory, the clock."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

import gtl
from gtl.cluster.check import Check, size
from gtl.machine import available_memory, cores

OLDEST_PYTHON = (3, 11)
SAFE_RAY = "2.54"  # fixes CVE-2026-27482
SHOWN = ("torch", "torchvision", "ray", "deap")
LEAST_MEMORY = 2 << 30
PATIENCE = 120.0  # seconds for torch and the GPUs; loading both from a slow network disk takes about one minute
_REQUIREMENT = re.compile(r"\s*([A-Za-z0-9][\w.-]*)\s*(?:\[[^]]*\])?\s*\(?([^;()]*)\)?\s*(?:;(.*))?")
_SPECIFIER = re.compile(r"(>=|<=|==|!=|~=|>|<)\s*([\w.+!*-]+)")
_STAGE = {"dev": -4, "a": -3, "b": -2, "rc": -1, "post": 1}


def python(found: tuple[int, ...] = sys.version_info[:3]) -> Check:
    """Whether this Python is new enough."""
    text = f"{'.'.join(map(str, found))} ({platform.python_implementation()})"
    if found < OLDEST_PYTHON:
        return Check("python", "problem", text, "install Python 3.11 or newer, and gtl in it")
    return Check("python", "ok", text)


def packages(of: str = "gtl") -> Check:
    """Whether every package that gtl requires is installed and new enough."""
    name = "packages"
    try:
        required = requires(of) or []
    except PackageNotFoundError:
        return Check(name, "problem", f"{of} itself is not installed in this Python", "pip install -e . in its folder")
    wrong, there = [], {}
    for line in required:
        parsed = _REQUIREMENT.fullmatch(line)
        if parsed is None or "extra" in (parsed[3] or ""):  # an extra is required only by those who ask for it
            continue
        package, wanted = parsed[1], parsed[2].strip()
        try:
            there[package] = version(package)
        except PackageNotFoundError:
            wrong.append((f"{package} is missing", f"{package}{wanted}"))
            continue
        if not satisfies(there[package], wanted):
            wrong.append((f"{package} {there[package]} (needs {wanted})", f"{package}{wanted}"))
    if "ray" in there and not satisfies(there["ray"], f">={SAFE_RAY}"):
        wrong.append((f"ray {there['ray']} has the hole CVE-2026-27482", f"ray>={SAFE_RAY}"))
    if wrong:
        wanted = " ".join(sorted({f"'{remedy}'" for _, remedy in wrong}))
        return Check(name, "problem", ", ".join(text for text, _ in wrong), f"pip install {wanted}")
    shown = [f"{package} {there[package]}" for package in SHOWN if package in there]
    return Check(name, "ok", f"{', '.join(shown)} and {len(there) - len(shown)} more, all as required")


def satisfies(found: str, wanted: str) -> bool:
    """Whether a version keeps every bound in ``>=1.4,<2``. Enough of PEP 440 for the bounds that packages state."""
    for operator, bound in _SPECIFIER.findall(wanted):
        own, other = _key(found), _key(bound)
        whole = bound.removesuffix(".*").split(".")
        series = ".".join(whole[:-1] if operator == "~=" else whole)
        same_series = f"{found}.".startswith(f"{series}.")
        kept = {
            ">=": own >= other,
            "<=": own <= other,
            "==": same_series if bound.endswith(".*") else own == other,
            "!=": not same_series if bound.endswith(".*") else own != other,
            "~=": own >= other and same_series,
            ">": own > other,
            "<": own < other,
        }[operator]
        if not kept:
            return False
    return True


def _key(text: str) -> tuple[tuple[int, ...], int]:
    """What versions are compared by: the numbers without trailing zeros, then whether before or after the release."""
    parsed = re.match(r"v?(\d+(?:\.\d+)*)[.-]?(dev|a|b|rc|post)?", text)
    if parsed is None:
        return (), 0
    numbers = [int(part) for part in parsed[1].split(".")]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers), _STAGE.get(parsed[2] or "", 0)


def ask_torch() -> dict[str, Any]:
    """What gtl.cluster.probe finds, in a process of its own; ``error`` says why there is nothing."""
    command = [sys.executable, "-P", str(Path(__file__).with_name("probe.py"))]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        return {"error": f"did not answer within {PATIENCE:.0f} s (a GPU driver that hangs?)"}
    try:
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])  # a library may print before it
        return found
    except (ValueError, IndexError):
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return {"error": f"ended with code {done.returncode}: {last[:300]}"}


def torch(probe: dict[str, Any]) -> Check:
    """Whether torch loads, and torchvision with it: a pair that does not match fails when it is loaded."""
    if not probe.get("error"):
        pair = f"torch {probe['torch']} and torchvision {probe['torchvision']} load together"
        return Check("torch", "ok", f"{pair}; built for {probe['built_for'] or 'CPUs only'}")
    if probe.get("torch"):
        try:
            other = f"torchvision {version('torchvision')}"
        except PackageNotFoundError:
            other = "torchvision"
        return Check(
            "torch",
            "problem",
            f"{other} does not load with torch {probe['torch']}: {probe['error']}",
            "install both in one command, so that they match: pip install --upgrade --force-reinstall torch torchvision",
        )
    return Check("torch", "problem", f"torch does not load: {probe['error']}", "pip install --force-reinstall torch")


def gpu(probe: dict[str, Any]) -> Check:
    """Whether torch computes on every GPU. To have none is no fault."""
    name = "gpu"
    gpus = probe.get("gpus") or []
    if broken := [f"{gpu['name']}: {gpu['error']}" for gpu in gpus if gpu["error"]]:
        remedy = "try nvidia-smi; if it works, install the torch build for this GPU and driver (pytorch.org)"
        return Check(name, "problem", "; ".join(broken), remedy)
    if gpus:
        found = "; ".join(
            f"{gpu['name']}, {size(gpu['memory'])}, {'' if gpu['bfloat16'] else 'no '}bfloat16" for gpu in gpus
        )
        if users := _nvidia("--query-compute-apps=pid,used_memory"):
            holders = ", ".join(f"process {row[0]} holds {row[-1]}" for row in users)
            return Check(name, "warning", f"{found}; {holders}", "wait for these, or end them if they are yours")
        return Check(name, "ok", f"{found}; computes")
    if old := [text for text in probe.get("warnings") or [] if "too old" in text]:
        return Check(name, "problem", old[0], "update the GPU driver, or install torch for an older CUDA (pytorch.org)")
    seen = [", ".join(row) for row in _nvidia("--query-gpu=name,driver_version")]
    if not seen:
        return Check(name, "ok", "none; gtl computes on the CPU cores")
    there = f"{len(seen)} here ({seen[0]}), but torch uses none"
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None:
        return Check(name, "warning", f"{there}: CUDA_VISIBLE_DEVICES={hidden!r}", "unset CUDA_VISIBLE_DEVICES")
    if probe.get("torch") and not probe.get("built_for"):
        return Check(
            name, "problem", f"{there}: it is built for CPUs only", "install a CUDA build of torch (pytorch.org)"
        )
    why = "".join(f": {text}" for text in (probe.get("warnings") or [])[:1])
    return Check(name, "problem", there + why, "look at nvidia-smi; the driver and the build of torch must fit")


def _nvidia(query: str) -> list[list[str]]:
    """Rows of an answer of nvidia-smi; none where it is absent or fails."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return []
    try:
        done = subprocess.run(
            [command, query, "--format=csv,noheader"], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    lines = done.stdout.splitlines() if done.returncode == 0 else []
    return [[word.strip() for word in line.split(",")] for line in lines if line.strip()]


def machine(probe: dict[str, Any], least: int = LEAST_MEMORY) -> Check:
    """Cores and memory that gtl may use."""
    count, memory = cores(), available_memory()
    bfloat16 = "bfloat16 in hardware" if probe.get("bfloat16") else "no bfloat16 in hardware: float32 is used"
    found = f"{count} core{'s' * (count > 1)}, {size(memory) if memory else 'unknown'} memory available, {bfloat16}"
    if 0 < memory < least:
        return Check("machine", "warning", found, f"free memory: below {size(least)} a worker may be killed")
    return Check("machine", "ok", found)


def clock(package: Path | None = None) -> Check:
    """Whether the clocks are plausible.

    No result and no lock of gtl depends on the time of day: the kernel frees a run's lock when its holder dies, the lease
    beside it is a counter that rises or does not, and deadlines count monotonic seconds. A wrong clock misleads people,
    certificates and the order of file dates.
    """
    name = "clock"
    before = time.monotonic()
    time.sleep(0.01)
    if time.monotonic() <= before:
        return Check(name, "problem", "the monotonic clock stands still", "restart the machine; deadlines never pass")
    now = time.time()
    folder = package or Path(gtl.__file__).parent
    newest = max((path.stat().st_mtime for path in folder.rglob("*.py")), default=0.0)
    text = _date(now)
    remedy = "set the clock: timedatectl set-ntp true, or ask who keeps the machine"
    if now < newest - 60 or now < datetime(2026, 1, 1, tzinfo=UTC).timestamp():  # a minute: file servers differ
        return Check(name, "warning", f"{text}, but gtl's own files are from {_date(newest)}", remedy)
    if _synchronised() == "no":
        return Check(name, "warning", f"{text}, not synchronised with a time server", remedy)
    return Check(name, "ok", text)


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _synchronised() -> str:
    """yes or no, as systemd says; nothing where it cannot tell."""
    command = shutil.which("timedatectl")
    if command is None:
        return ""
    try:
        done = subprocess.run(
            [command, "show", "-p", "NTPSynchronized", "--value"],
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
