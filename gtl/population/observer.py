"""What a run tells whoever watches it. The base class is silent; the command line's live table overrides it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gtl.individual import Job, Outcome
from gtl.population.founding import Ancestor
from gtl.population.manager import Manager


class Observer:
    """Silent. Override what you want to see; nothing here changes the run."""

    def message(self, text: str) -> None:
        """Something worth a line, outside the generations."""

    def started(self, manager: Manager, ancestor: Ancestor, run: Path) -> None:
        """The founders are ready; the loop begins or goes on."""

    def asked(self, jobs: Sequence[Job]) -> None:
        """A generation begins with these jobs."""

    def evaluated(self, outcome: Outcome) -> None:
        """One of them is done."""

    def generation(self, manager: Manager) -> None:
        """The generation is committed."""
