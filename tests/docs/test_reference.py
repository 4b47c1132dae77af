"""What the documentation must hold: public names, settings, terms, links, and a changelog."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import headwater
from headwater import testing
from headwater.config import Config
from headwater.handlers import HandlerOptions, QueueOptions
from headwater.pattern_operators import _OPERATORS
from tests.docs.pages import DOCS, ROOT, heading_anchors, pages, prose

GUIDES = sorted(DOCS.glob("*.md"))
GLOSSARY = DOCS / "glossary.md"
_LINK = re.compile(r"(?<!!)\[[^\]\n]+\]\(([^)\s]+)\)")
TERMS_OF_THE_FIELD = """
event, source, route, topic, subscription, queue, message, delivery, receive count, visibility timeout, lease,
fencing token, ack, retry, back-off, dead-letter queue, redrive, FIFO group, deduplication, idempotency key, change,
old image, new image, unit of work, commit, conflict, schedule, backlog, drain, bucket, object, metric, alarm,
usage plan, quota
"""


def guides_text() -> str:
    return "\n".join(guide.read_text("utf-8") for guide in GUIDES if guide != GLOSSARY)


def in_code(name: str, text: str) -> bool:
    """Whether the name stands in code: in a block, or between backquotes."""
    spans = re.findall(r"```.*?```|`[^`\n]+`", text, re.DOTALL)
    return any(re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", span) for span in spans)


@pytest.mark.parametrize("name", [*headwater.__all__, *testing.__all__])
def test_public_names_are_documented(name: str) -> None:
    assert in_code(name, guides_text())


@pytest.mark.parametrize("name", [*QueueOptions.__annotations__, *HandlerOptions.__annotations__])
def test_options_of_queues_and_handlers_are_documented(name: str) -> None:
    assert f"| `{name}` |" in (DOCS / "messaging.md").read_text("utf-8")


@pytest.mark.parametrize("name", Config.__struct_fields__)
def test_server_settings_are_documented(name: str) -> None:
    assert f"| `{name}` |" in (DOCS / "configuration.md").read_text("utf-8")


@pytest.mark.parametrize("name", _OPERATORS)
def test_pattern_operators_are_documented(name: str) -> None:
    rows = re.findall(r"^\| `([\w$-]+)` \|", (DOCS / "messaging.md").read_text("utf-8"), re.MULTILINE)
    assert name in rows


def glossary_terms() -> list[str]:
    return re.findall(r"^\*\*(.+?)\*\*", GLOSSARY.read_text("utf-8"), re.MULTILINE)


def test_glossary_defines_each_term_once_and_in_order() -> None:
    terms = glossary_terms()
    assert len(set(terms)) == len(terms) > 40
    assert terms == sorted(terms, key=str.casefold)


@pytest.mark.parametrize("term", [term.strip() for term in TERMS_OF_THE_FIELD.split(",")])
def test_glossary_has_the_terms_of_the_field(term: str) -> None:
    assert term in [found.lower() if found != "FIFO group" else found for found in glossary_terms()]


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.stem)
def test_links_resolve(page: Path) -> None:
    broken = []
    for target in _LINK.findall(prose(page)):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        linked = (page.parent / name).resolve() if name else page
        if not linked.exists() or (anchor and anchor not in heading_anchors(linked)):
            broken.append(target)
    assert broken == []


def test_every_page_is_linked_from_another() -> None:
    linked = {
        (page.parent / target.partition("#")[0]).resolve()
        for page in pages()
        for target in _LINK.findall(prose(page))
        if not target.startswith("http")
    }
    lonely = [page.name for page in DOCS.rglob("*.md") if page not in linked]
    assert lonely == []


def test_decisions_are_numbered_without_a_gap_and_have_their_parts() -> None:
    decisions = sorted((DOCS / "decisions").glob("*.md"))
    assert [int(page.name[:4]) for page in decisions] == list(range(1, len(decisions) + 1))
    for page in decisions:
        headings = re.findall(r"^## (.+)$", page.read_text("utf-8"), re.MULTILINE)
        assert headings == ["Context", "Decision", "Consequences", "Alternatives"], page.name


def test_architecture_shows_every_module() -> None:
    text = (DOCS / "architecture.md").read_text("utf-8")
    (layers,) = re.findall(r"^## Layers$.*?```text\n(.*?)```", text, re.DOTALL | re.MULTILINE)
    modules = {path.stem for path in (ROOT / "src/headwater").iterdir() if path.stem[0] not in "_."} - {"py"}
    assert modules - set(re.findall(r"\w+", layers)) == set()


def test_changelog_has_an_unreleased_section_with_entries() -> None:
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    unreleased = re.search(r"^## \[Unreleased\]\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    assert unreleased
    assert re.search(r"^### Added\n\n- ", unreleased[1], re.MULTILINE)


def test_make_targets_are_in_the_readme() -> None:
    targets = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    readme = (ROOT / "README.md").read_text("utf-8")
    assert [target for target in targets if target != "help" and f"`make {target}" not in readme] == []
