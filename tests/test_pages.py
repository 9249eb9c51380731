"""Links of all Markdown pages lead somewhere, to the heading if they name one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/*.md", "benchmarks/*.md", "populations/*/CARD.md")
    for path in ROOT.glob(pattern)
)


def anchors(page: Path) -> set[str]:
    """What a page's headings are called in links, as GitHub names them: ``## 6 % again: no`` is ``6--again-no``."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    path = ROOT / page
    lost = []
    for target, anchor in re.findall(
        r"\]\((?!https?:|mailto:)([^)#]*)(?:#([^)]*))?\)", path.read_text(encoding="utf-8")
    ):
        found = path.parent / target if target else path
        if not found.exists() or (anchor and anchor not in anchors(found)):
            lost.append(f"{target}#{anchor}")
    assert lost == []


def test_headings_are_named_as_github_names_them(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A, B\n```\n# no heading\n```\n### 6 % again: no `x_y`-z\n")
    assert anchors(page) == {"a-b", "6--again-no-x_y-z"}
