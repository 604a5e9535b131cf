"""Foreign texts in Markdown: a reader of CommonMark and GFM finds one text in them, as typed."""

import ast
import json
import re
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Final
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from voiceai_pipeline.calls.day_status import DayReport
from voiceai_pipeline.cli.up import PROJECT
from voiceai_pipeline.core.connection import User
from voiceai_pipeline.core.days import DayResult, DayState
from voiceai_pipeline.core.failures import FailureClass
from voiceai_pipeline.core.foreign_text import JOINER, NAME_LENGTH, SENTENCE_LENGTH, cleaned
from voiceai_pipeline.core.settings import PageSettings
from voiceai_pipeline.defs import charts, markdown, texts
from voiceai_pipeline.defs.markdown import Markup, shown
from voiceai_pipeline_tests.support.foreign_sources import raw as raw_parts

CASES: Final = [
    case["text"].replace("x*5000", "x" * 5_000)
    for case in json.loads((Path(__file__).parents[1] / "data" / "foreign_text.json").read_text())[
        "texts"
    ]
]
MORE: Final = [
    "https://evil.example/a?b=c",
    "HTTPS://evil.example, www.evil.example",
    "<https://evil.example> <pat@evil.example> pat.x+y@evil.example",
    "[x]: /graphql",
    "[^1]: a footnote[^1]",
    "![x][y]",
    "a\n===",
    "a\n---",
    "# a",
    "> a",
    "- [x] a",
    "+ a",
    "1. a",
    "123456789) a",
    "    code",
    "\tcode",
    "```\ncode\n```",
    "~~~",
    "--|--",
    ":--",
    "a\\",
    "a\\\\",
    "\\|",
    "a\\|b\\\\|c",
    "`a|b`",
    "&#33;&lt;&#x21;&amp;",
    "~~a~~ **b** __c__ $d$ ~e~",
    "<!-- a -->",
    "<b>a</b><script>",
    "a  \nb",
    "a\u2028b\u2029c\x85d",
    "a\u200b\u2060\ufeffb",
    "\ud800",
]
SPECIAL: Final = "![]()<>|\\`*_~#&;:/@.-+=$^ \n\t'\"{}0123ax\u202e\u2060\x1b"
foreign = st.one_of(
    st.text(max_size=60),
    st.text(SPECIAL, max_size=40),
    st.lists(st.sampled_from([*CASES[:6], *MORE, " ", "|", "\\"]), max_size=3).map("".join),
)

READER: Final = MarkdownIt("commonmark").enable(["table", "strikethrough"])

# What micromark's GFM links besides, before and after escapes are resolved
# (mdast-util-gfm-autolink-literal).
LINKED: Final = re.compile(
    r"(https?://|www(?=\.))([-.\w]+)(\S*)|([-.\w+]+)@([-\w]+(?:\.[-\w]+)+)", re.IGNORECASE
)


def leaves(tokens: list[Token]) -> Iterator[Token]:
    for token in tokens:
        yield from leaves(token.children) if token.children else [token]


def read(text: str) -> str:
    """What is seen of it, of text alone; anything else is an error."""
    seen = ""
    for token in leaves(READER.parse(text)):
        if token.type in ("text", "text_special"):
            seen += token.content
        else:
            assert token.type in ("paragraph_open", "paragraph_close", "inline"), token
    assert not LINKED.search(seen)
    return seen.replace(JOINER, "")


def cells(lines: list[str]) -> list[str]:
    """What is seen in each cell of a table that is all there is."""
    tokens = READER.parse("\n".join(lines))
    assert {token.type.removesuffix("_open").removesuffix("_close") for token in tokens} <= {
        "table", "thead", "tbody", "tr", "th", "td", "inline",
    }  # fmt: skip
    assert tokens[0].type == "table_open"
    assert tokens[-1].type == "table_close"
    assert [token.type for token in tokens].count("table_open") == 1
    found = []
    for token in tokens:
        if token.type == "inline":
            parts = token.children or []
            assert {part.type for part in parts} <= {"text", "text_special"}
            found.append("".join(part.content for part in parts).replace(JOINER, ""))
    return found


def several(check: object) -> object:
    for text in (*CASES, *MORE):
        check = example(text=text)(check)  # type: ignore[arg-type]
    return check


@several
@given(text=foreign)
def test_a_text_is_one_text_as_typed_wherever_it_stands(text: str) -> None:
    typed = cleaned(text)
    assert read(shown(text)) == typed
    assert read(f"before {shown(text)}") == f"before {typed}".strip()
    assert read(f"{shown(text)}, {shown(text)}") == f"{typed}, {typed}".strip()


@several
@given(text=foreign)
def test_a_text_is_one_cell_of_one_table_as_typed(text: str) -> None:
    typed = cleaned(text)
    lines = markdown.table(["a", "b", "c"], [[text, "2", shown(text)], [text, text, "3"]])
    assert len(lines) == 4
    assert cells(lines) == ["a", "b", "c", typed, "2", typed, typed, typed, "3"]


@several
@given(text=foreign)
def test_a_text_in_bold_or_at_the_start_of_a_list_changes_nothing_around_it(text: str) -> None:
    tokens = READER.parse(f"- **{shown(text) or 'x'}** failed\n- {shown(text) or 'x'}: b")
    blocks = [token.type for token in tokens]
    item = ["list_item_open", "paragraph_open", "inline", "paragraph_close", "list_item_close"]
    assert blocks == ["bullet_list_open", *item, *item, "bullet_list_close"]
    assert READER.renderer.render(tokens, READER.options, {}).count("<strong>") == 1
    assert not any(token.tag in ("a", "img", "em", "code") for token in leaves(tokens))


@pytest.mark.parametrize(("first", "second"), [("Acme ![x", "](/graphql)"), ("![x]", "(/y)")])
def test_an_image_is_not_put_together_of_two_names(first: str, second: str) -> None:
    assert read(f"{shown(first)}{shown(second)}") == first + second
    assert read(f"{shown(first)}, {shown(second)}") == f"{first}, {second}"


@given(text=st.text(), limit=st.integers(1, 100))
def test_what_every_medium_gets_is_one_line_of_bounded_length_without_controls(
    text: str, limit: int
) -> None:
    line = cleaned(text, limit)
    assert len(line) <= limit
    assert not re.search("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]", line)
    assert line == line.strip()
    assert cleaned(line, limit) == line


def test_a_long_text_is_shortened_and_says_so() -> None:
    assert cleaned("x" * 5_000, NAME_LENGTH) == "x" * (NAME_LENGTH - 1) + "…"
    assert cleaned("x" * 5_000) == "x" * (SENTENCE_LENGTH - 1) + "…"
    assert cleaned("\u202egnp.exe") == "gnp.exe"
    assert cleaned("\x1b]0;PWNED\x07\x1b[31mred") == "]0;PWNED[31mred"
    assert cleaned("a | b\nc") == "a | b c"


def test_own_markup_in_a_cell_stays_markup_and_a_number_a_number() -> None:
    lines = markdown.table(["a", "b", "c"], [[Markup("[run](/runs/1)"), None, -5]])
    assert lines[2] == "|[run](/runs/1)|\N{EN DASH}|\\-5|"


# Limits of length --------------------------------------------------------------------------------

PAGE: Final = PageSettings("127.0.0.1", 8791, "https://voice.test", "https://dagster.test")
DAY: Final = date(2026, 11, 20)


@pytest.mark.parametrize("name", ["*" * 5_000, "|" * 5_000, "\\" * 5_000, "www." * 2_000])
def test_hostile_names_leave_what_the_ui_shows_at_once_short_enough_and_there(name: str) -> None:
    users = [User(UUID(int=number), name) for number in range(40)]
    report = DayReport(
        DAY,
        (),
        tuple(
            DayResult(user, "Loc", DAY, DayState.FAILED, failure=FailureClass.PROVIDER_ERROR)
            for user in users[:20]
        ),
        (),
        tuple(users[20:]),
    )
    assert len(texts.answer(report, PAGE)) <= texts.SHOWN_AT_ONCE
    needs = texts.needs_text(report)
    assert 100 < len(needs) <= texts.SHOWN_AT_ONCE
    two = Markup(f"{shown(name, NAME_LENGTH)}, {shown(name, NAME_LENGTH)}")
    drawn = charts.table(("agent", "calls"), [(two, "9")] * 40, "agents", note="n" * 140)
    assert len(drawn) < charts.LIMIT
    assert drawn.startswith("|agent|calls|\n|--|--|\n|")


def test_a_name_of_nothing_visible_is_not_bold_nothing() -> None:
    blank = User(UUID(int=7), "\u200b\u202e ")
    text = texts.needs_text(DayReport(DAY, (), (), (), (blank,)))
    assert text.startswith(f"- **{UUID(int=7)}** not tried yet")


# The source --------------------------------------------------------------------------------------


def _written(tree: ast.AST) -> Iterator[ast.AST]:
    """Where a text is put together or handed to Dagster: f-strings, ``md`` and ``text`` of
    metadata, descriptions, failures, reasons of ticks, lines of the log."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield from (part.value for part in node.values if isinstance(part, ast.FormattedValue))
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name.endswith(("MetadataValue.md", "MetadataValue.text", "dg.Failure")):
                yield from node.args[:1]
            if name.endswith(("dg.SkipReason", ".log.info", ".log.warning", ".log.error")):
                yield from node.args[:1]
            yield from (word.value for word in node.keywords if word.arg == "description")


def unescaped(source: str) -> list[str]:
    return [ast.unparse(raw) for text in _written(ast.parse(source)) for raw in raw_parts(text)]


DEFS: Final = sorted((PROJECT / "voiceai_pipeline" / "defs").glob("*.py"))


@pytest.mark.parametrize("path", [*DEFS, PROJECT / "voiceai_pipeline" / "defs/charts.py"], ids=str)
def test_no_foreign_text_enters_the_ui_without_the_function_of_its_medium(path: Path) -> None:
    assert unescaped(path.read_text()) == []


@pytest.mark.parametrize(
    "source",
    [
        'f"- {user.name}: x"',
        "dg.MetadataValue.md(place.location_name)",
        "dg.AssetCheckResult(description=message.headline)",
        "dg.Failure(str(error))",
        "dg.Failure(f\"{row['action_name'] or 'none'}\")",
        "dg.MetadataValue.md(', '.join(user.name for user in users))",
    ],
)
def test_the_test_above_finds_what_it_looks_for(source: str) -> None:
    assert unescaped(source)


def test_what_has_been_through_the_function_is_left_alone() -> None:
    assert not unescaped('dg.Failure(f"- {cleaned(user.name, 80)}: {shown(str(error))}")')
