"""The README's commands, typed as written, in a folder of their own (F42)."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks() -> list[tuple[str, str]]:
    """(language, text) of the README's runnable code blocks, in order."""
    return [(language, text) for language, text in re.findall(r"```(bash|python)\n(.*?)```", README, re.DOTALL)]


def test_the_readme_has_commands_and_its_links_lead_somewhere() -> None:
    assert len(blocks()) >= 7
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_every_readme_command_runs(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    bin_folder = Path(sys.executable).parent
    # one thread: a shared machine may give these commands one core, and two threads waiting for it are far slower
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}"}
    for language, text in blocks():
        lines = ["python -c " + _quoted(text)] if language == "python" else text.strip().splitlines()
        for line in lines:
            done = subprocess.run(
                line,
                shell=True,
                cwd=tmp_path,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
                timeout=900,
            )
            assert done.returncode == 0, f"{line}\n{done.stderr[-2000:]}"
    assert (tmp_path / "descendant.safetensors").exists()


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
