"""The pages of the documentation, and the code blocks in them.

A block is fenced code with a language. `<!-- not run: why -->` on the line before it leaves it out of the tests.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
_FENCE = re.compile(r"```(?P<language>[a-z]*)$")
_NOT_RUN = re.compile(r"<!-- not run: (?P<why>.+) -->$")
_FILE_NAME = re.compile(r"# (?P<name>[\w./]+\.(?:py|toml))$")


@dataclass(frozen=True)
class Block:
    """`line` is the first line of the code; `name` is the file that it is, when its first line says so."""

    page: Path
    line: int
    language: str
    code: str
    not_run: str

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def name(self) -> str:
        found = _FILE_NAME.match(self.code.partition("\n")[0])
        return found["name"] if found else ""


def pages() -> list[Path]:
    """README, changelog and everything below docs/."""
    return [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md"))]


def blocks(page: Path) -> Iterator[Block]:
    lines = page.read_text("utf-8").splitlines()
    at = 0
    while at < len(lines):
        fence = _FENCE.match(lines[at])
        if fence is None:
            at += 1
            continue
        end = lines.index("```", at + 1)
        mark = _NOT_RUN.match(lines[at - 1]) if at else None
        code = "".join(f"{line}\n" for line in lines[at + 1 : end])
        yield Block(page, at + 2, fence["language"], code, mark["why"] if mark else "")
        at = end + 1


def prose(page: Path) -> str:
    """The page without its code blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)


def heading_anchors(page: Path) -> set[str]:
    """The anchors that a page's headings have when it is shown."""
    found = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in found}
