"""The command line, called in this process."""

from __future__ import annotations

import sys

import pytest

from gtl.cli import main


def gtl(*words: object) -> int:
    """``gtl WORDS``; its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["gtl", *map(str, words)])
        try:
            main()
        except SystemExit as stop:
            return int(stop.code or 0)
    return 0
