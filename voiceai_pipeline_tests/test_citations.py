"""Every document, section and test that code, tests or docs cite is there."""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
DOCS = PROJECT / "docs"
REQUIREMENTS = (DOCS / "requirements.md").read_text()
CONTRACT = (DOCS / "contract.md").read_text()
ROOTS = ("voiceai_pipeline", "voiceai_pipeline_tests", "benchmarks", "docs", "deploy")


def sources() -> Iterator[Path]:
    yield from (PROJECT / "README.md", PROJECT / "CONTRIBUTING.md", PROJECT / "SECURITY.md")
    for root in ROOTS:
        yield from (p for p in (PROJECT / root).rglob("*") if p.suffix in (".py", ".md", ".html"))


def cited(pattern: str) -> dict[str, str]:
    """What the pattern's group finds anywhere, and a file that has it."""
    found: dict[str, str] = {}
    for path in sources():
        for match in re.finditer(pattern, path.read_text()):
            for name in re.findall(r"[A-Z]?\d+(?:\.\d+)?", match[1]):
                found.setdefault(name, path.relative_to(PROJECT).as_posix())
    return found


def test_every_requirement_that_is_cited_has_a_row() -> None:
    rows = set(re.findall(r"^\| ([A-Z]\d+) \|", REQUIREMENTS, re.MULTILINE))
    citations = cited(r"REQUIREMENTS ((?:[A-Z]\d+(?:, | and | to )?)+)")
    assert citations
    assert {name: at for name, at in citations.items() if name not in rows} == {}


def test_every_section_of_the_contract_that_is_cited_is_there() -> None:
    sections = set(re.findall(r"^#+ (\d+(?:\.\d+)?)", CONTRACT, re.MULTILINE))
    citations = cited(r"CONTRACT (?:section )?(\d+(?:\.\d+)?(?:(?:, | and | to )\d+(?:\.\d+)?)*)")
    assert citations
    assert {name: at for name, at in citations.items() if name not in sections} == {}


def test_every_decision_that_is_cited_is_there() -> None:
    numbers = {str(int(path.name[:4])) for path in (DOCS / "decisions").glob("0*.md")}
    citations = cited(r"\bdecisions? (\d+)")
    assert citations
    assert {name: at for name, at in citations.items() if name not in numbers} == {}


def test_no_document_is_cited_that_is_not_in_the_repository() -> None:
    for path in sources():
        text = path.read_text()
        assert not re.search(r"\b(DESIGN|STYLE|HOUSE) ?\d", text), path
        for name in re.findall(r"(?<![\w/-])([a-z][a-z-]+\.md)\b", text):
            places = (path.parent, DOCS, PROJECT, PROJECT / "deploy", DOCS / "decisions")
            assert any((place / name).exists() for place in places), (path, name)


@cache
def existing_tests() -> set[str]:
    defined = re.compile(r"^ *(?:async )?def test_(\w+)", re.MULTILINE)
    files = (PROJECT / "voiceai_pipeline_tests").rglob("test_*.py")
    return {name for path in files for name in defined.findall(path.read_text())}


def rows() -> list[tuple[str, str]]:
    return re.findall(
        r"^\| ([A-Z]\d+(?:-[A-Z]\d+)?) \|.*\| ([^|]*) \|$", REQUIREMENTS, re.MULTILINE
    )


@pytest.mark.parametrize(("requirement", "shown_by"), rows(), ids=lambda cell: cell[:7])
def test_a_requirement_is_shown_by_what_exists_or_says_why_not(
    requirement: str, shown_by: str
) -> None:
    names = set(re.findall(r"`([a-z0-9_]+)`", shown_by))
    assert names <= existing_tests()
    benchmarks = re.findall(r"`python -m benchmarks\.(\w+)`", shown_by)
    for benchmark in benchmarks:
        assert (PROJECT / "benchmarks" / f"{benchmark}.py").exists()
    assert names or benchmarks or len(shown_by) > 5, f"{requirement} says nothing"
