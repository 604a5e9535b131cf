"""The product speaks the field's own terms, one word for one thing."""

import re
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).parents[1]
PACKAGE = PROJECT / "voiceai_pipeline"

FORBIDDEN = {
    "refresh": r"renew(s|ed|al|als|ing)?",
    "fix": r"mend(s|ed|ing)?",
    "retry": r"in vain",
    "automatically": r"by (itself|themselves)",
    "again": r"anew|once more",
    "user, operator": r"somebody|anybody|nobody|everybody|whoever",
    "needs action": r"waits? for a person",
}
"""By what to say instead."""

IN_NAMES = {
    "alert, notify": r"told|tells? (people|users)",
    "location": r"places",
    "user": r"people|persons?",
}
"""What names of tests have no use for either, though prose may."""

QUOTED = ("contract.md", "requirements.md", "source-system.md")
"""Documents in the words of others, or that cite tests by name."""

ALLOWED = (
    "database/embedded_account.py",  # the Unix account nobody
    "database/embedded_server.py",  # likewise
    "sandbox/dialogues.py",  # what invented callers say
)


def prose() -> Iterator[Path]:
    for page in (
        *PROJECT.glob("*.md"),
        *PROJECT.glob("docs/**/*.md"),
        *PROJECT.glob("deploy/*.md"),
    ):
        if page.name not in QUOTED:
            yield page
    for kind in ("*.py", "*.html", "*.js"):
        for path in PACKAGE.rglob(kind):
            if path.relative_to(PACKAGE).as_posix() not in ALLOWED:
                yield path


def test_one_word_is_used_for_one_thing() -> None:
    found = [
        f"{path.relative_to(PROJECT)}: say {instead}, not {match[0]!r}"
        for path in prose()
        for instead, pattern in FORBIDDEN.items()
        for match in re.finditer(rf"\b(?:{pattern})\b", path.read_text(), re.IGNORECASE)
    ]
    assert found == []


def test_names_of_tests_use_the_same_words() -> None:
    found = [
        f"{path.name}: say {instead} in test_{name}"
        for path in Path(__file__).parent.rglob("test_*.py")
        if path.name != "test_embedded_account.py"  # the Unix account nobody
        for name in re.findall(r"^ *def test_(\w+)", path.read_text(), re.M)
        for instead, pattern in (FORBIDDEN | IN_NAMES).items()
        if re.search(rf"\b(?:{pattern})\b", name.replace("_", " "))
    ]
    assert found == []


def test_no_python_file_has_more_than_400_lines() -> None:
    folders = (PACKAGE, PROJECT / "voiceai_pipeline_tests", PROJECT / "benchmarks")
    files = [path for folder in folders for path in folder.rglob("*.py")]
    assert [p for p in files if len(p.read_text().splitlines()) > 400] == []


def test_no_test_imports_from_another_test_or_a_conftest() -> None:
    """What several modules need is in ``voiceai_pipeline_tests/support``."""
    tests = (PROJECT / "voiceai_pipeline_tests").rglob("*.py")
    imports = re.compile(
        r"^from voiceai_pipeline_tests\S*\.(test_\w+|conftest) import", re.MULTILINE
    )
    assert [path for path in tests if imports.search(path.read_text())] == []
