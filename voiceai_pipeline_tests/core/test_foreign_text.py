"""Text from outside, in the media that plain Python writes: terminal, logs and CSV."""

import ast
import csv
import io
import json
import random
import unicodedata
from pathlib import Path
from typing import Final
from uuid import UUID

import pytest

from voiceai_pipeline.cli import output
from voiceai_pipeline.cli.up import PROJECT
from voiceai_pipeline.core.connection import Connection, ConnectionState, User
from voiceai_pipeline.core.foreign_text import NAME_LENGTH, cleaned, printable
from voiceai_pipeline.marts import export
from voiceai_pipeline_tests.support.foreign_sources import logged, printed, raw

HOSTILE: Final = (
    "\x1b[2J", "\x1b]8;;https://evil.example\x1b\\", "\x9b31m", "\r", "\n", "\t", "\x00", "\x07",
    "\x08", "\x7f", "\x85", "\u2028", "\u202e", "\u2066", "\u200b", "\ufeff", "\ud800", "=", "+",
    "-", "@", "=cmd|' /C calc'!A0", "[red]", ":smile:", "%s", "{0}", "\"", "'", ",", ";", "<b>",
    "](http://e.example)", "é", "日本", "😀", "a", "B", "7", " ",
)  # fmt: skip


def generated(count: int = 1_000) -> list[str]:
    """As many texts, the same each time, beside those that were found."""
    found = json.loads((Path(__file__).parents[1] / "data" / "foreign_text.json").read_text())
    dice = random.Random(13)  # noqa: S311 - repeatable
    texts = ["".join(dice.choices(HOSTILE, k=dice.randint(1, 12))) for _ in range(count)]
    return [*(case["text"] for case in found["texts"]), *texts]


TEXTS: Final = generated()


def moves(text: str) -> list[str]:
    """Characters that a terminal or a log would obey."""
    return [c for c in text if unicodedata.category(c) in ("Cc", "Cs") or c in "\u202e\u2066\u2028"]


def test_a_terminal_shows_every_name_in_a_cell_of_its_own_and_obeys_none(
    capsys: pytest.CaptureFixture[str],
) -> None:
    connected = ConnectionState.CONNECTED
    output.show_users([Connection(User(UUID(int=1), text), connected) for text in TEXTS])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(TEXTS) + 1
    assert moves("".join(lines)) == []
    seen = [line.partition("00000000-")[0].rstrip() for line in lines[1:]]
    assert seen == [cleaned(text, NAME_LENGTH) for text in TEXTS]


def test_lines_that_quote_a_name_stay_the_lines_that_they_are() -> None:
    for text in TEXTS:
        said = printable(f"Error: {cleaned(text)}\n\nFix it.")
        assert said.count("\n") == 2
        assert moves(said.replace("\n", "")) == []
        assert moves(printable(text).replace("\n", "")) == []


def test_our_own_lines_keep_their_spaces() -> None:
    ours = "   0.3s  Database: starting\n\nOpen     http://127.0.0.1:8400  (Ctrl-C stops)\n"
    assert printable(ours) == ours
    assert printable("Name\t\x1b[2J\r  x" + " " * 20_000) == "Name [2J   x" + " " * 9_987 + "…"


def test_no_cell_of_a_csv_file_is_a_formula_and_each_is_one_cell() -> None:
    fields = [export.Field(name, export.Kind.TEXT, "") for name in ("first", "second")]
    file = io.BytesIO()
    writer = export._Csv(file, fields)
    texts = [text for text in TEXTS if "\ud800" not in text and "\x00" not in text]
    writer.write([(text, "end") for text in texts])
    rows = list(csv.reader(io.StringIO(file.getvalue().decode(), newline="")))
    assert len(rows) == len(texts) + 1
    for text, (first, second) in zip(texts, rows[1:], strict=True):
        assert first.removeprefix("'") == text.removeprefix("'")
        assert not first.startswith(("=", "@", "+", "-", "\t", "\r", "\n"))
        assert second == "end"


# The source --------------------------------------------------------------------------------------

PACKAGE: Final = PROJECT / "voiceai_pipeline"
MODULES: Final = sorted(PACKAGE.rglob("*.py"))
FRAMES_ONLY: Final = PACKAGE / "core" / "unexpected.py"
"""Logs the classes and frames of an error, never its text."""


def test_no_log_or_line_of_the_terminal_is_built_from_a_foreign_text_as_it_is() -> None:
    found = [
        f"{path.relative_to(PACKAGE)}: {ast.unparse(part)}"
        for path in MODULES
        if path != FRAMES_ONLY
        for tree in [ast.parse(path.read_text())]
        for text in (*logged(tree), *printed(tree))
        for part in raw(text)
    ]
    assert found == []


def test_tables_consoles_and_csv_files_are_written_in_one_place_each() -> None:
    places = {
        "rich.table": "cli/output.py",
        "csv": "marts/export.py",
    }
    for path in MODULES:
        here = str(path.relative_to(PACKAGE))
        for node in ast.walk(ast.parse(path.read_text())):
            names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert {places.get(name, here) for name in names} <= {here}


@pytest.mark.parametrize(
    "source",
    [
        'log.warning("user %s", user.name)',
        'click.echo(f"Connect {before.user.name}")',
        'log.error("%s", error)',
        "context.log.info(f\"{row['action_name']}\")",
    ],
)
def test_the_test_of_the_source_finds_what_it_looks_for(source: str) -> None:
    tree = ast.parse(source)
    assert [part for text in (*logged(tree), *printed(tree)) for part in raw(text)]
