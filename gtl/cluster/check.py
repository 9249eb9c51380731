"""What one check of `gtl doctor` found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Check:
    """One line of the doctor's report.

    Attributes:
        name: a short word that stays the same between versions; scripts look for it.
        state: ``ok``; ``warning``, a run will work but something should be seen to; or ``problem``, it will not work or
            is not safe.
        found: what there is, in words.
        remedy: what to do; empty exactly where all is well.
    """

    name: str
    state: State
    found: str
    remedy: str = ""

    def __post_init__(self) -> None:
        if (self.state == "ok") != (not self.remedy):
            raise ValueError(f"{self.name}: a check that is not ok names a remedy, and only such a one does")


def size(count: float) -> str:
    """A number of bytes for people."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit in {"bytes", "KiB", "MiB"} else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
