"""What a run will do and need, before it starts: jobs and images, time, memory, disk. Nothing here writes a file."""

from gtl.planning.bench import Pace, Way, bench
from gtl.planning.calibration import Calibration, Peaks, calibrate, calibrate_apart
from gtl.planning.estimate import (
    Disk,
    Duration,
    Memory,
    check_place,
    disk,
    duration,
    memory,
)
from gtl.planning.jobs import Plan, Round, plan

__all__ = [
    "Calibration",
    "Disk",
    "Duration",
    "Memory",
    "Pace",
    "Peaks",
    "Plan",
    "Round",
    "Way",
    "bench",
    "calibrate",
    "calibrate_apart",
    "check_place",
    "disk",
    "duration",
    "memory",
    "plan",
]
