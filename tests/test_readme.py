"""The commands of the README and of some pages of docs/, typed as written, in a folder of their own (F42)."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = {  # and what is there in the end
    "README.md": "descendant.safetensors",
    "docs/condense.md": "gene.safetensors",
    "docs/transfer.md": "child.safetensors",
    "docs/genes.md": "small.safetensors",
}


def blocks(page: str) -> list[tuple[str, str]]:
    """(language, text) of a page's runnable code blocks, in order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [(language, block) for language, block in re.findall(r"```(bash|python)\n(.*?)```", text, re.DOTALL)]


@pytest.mark.parametrize("page", PAGES)
def test_the_page_has_commands_and_links(page: str) -> None:
    assert len(blocks(page)) >= (7 if page == "README.md" else 3)
    assert re.search(r"\]\((?!https?:)[^)#]+\)", (ROOT / page).read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("page", PAGES)
def test_every_command_runs(page: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    bin_folder = Path(sys.executable).parent
    # one thread: a shared machine may give these commands one core, and two threads waiting for it are far slower
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}"}
    for language, text in blocks(page):
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
                timeout=1800,
            )
            assert done.returncode == 0, f"{line}\n{done.stderr[-2000:]}"
    assert (tmp_path / PAGES[page]).exists()


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
