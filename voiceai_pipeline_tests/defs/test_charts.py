"""Pictures for the UI: right, and short enough to be seen without a click."""

import random
from datetime import date, timedelta
from urllib.parse import unquote
from xml.etree import ElementTree

import pytest

from voiceai_pipeline.defs import charts

LAST = date(2026, 11, 28)
MONTH = {LAST - timedelta(days=ago): 9_999 - 7 * ago for ago in range(28)}
BUSY = [[random.Random(day).randrange(1000) for _ in range(24)] for day in range(7)]  # noqa: S311


def svg(markdown: str) -> ElementTree.Element:
    _, found, picture = markdown.splitlines()[0].partition("(data:image/svg+xml,")
    assert found
    return ElementTree.fromstring(unquote(picture.rpartition(")")[0]))  # noqa: S314 - our own drawing


def test_a_trend_has_a_bar_for_every_day_and_shows_what_can_still_grow() -> None:
    markdown = charts.trend(MONTH, {LAST: 5_000, LAST - timedelta(days=1): 9_992})
    assert markdown.endswith("*Lighter: day not complete yet*")
    assert "Lighter" not in charts.trend(MONTH, {})
    drawn = svg(markdown)
    solid, pale = drawn.iter("{http://www.w3.org/2000/svg}path")
    assert solid.attrib["d"].count("M") == 27
    assert pale.attrib["d"].count("M") == 2
    assert "v-30" in solid.attrib["d"]


def test_a_heat_map_has_a_row_for_each_weekday_and_the_busiest_hour_stands_out() -> None:
    grid = [[1.0] * 24 for _ in range(7)]
    grid[2][9] = 8.0
    markdown = charts.heat_map(grid)
    assert markdown.endswith("*Orange: busiest hours (6 to 8 calls)*")
    drawn = svg(markdown)
    paths = [path.attrib for path in drawn.iter("{http://www.w3.org/2000/svg}path")]
    assert paths[-1] == {"d": "M9,2h1", "stroke": f"#{charts.HEAT[3]}"}
    assert paths[0]["d"].startswith("M0,0h24M0,1h24M0,2h9M10,2h14")


@pytest.mark.parametrize(
    "drawn",
    [
        charts.trend(MONTH, {}),
        charts.trend(MONTH, {day: count // 2 for day, count in MONTH.items()}),
        charts.heat_map(BUSY),
        charts.heat_map([list(range(24))] * 7),
        charts.table(("agent", "calls"), [("An agent's long name", "99")] * 500, "agents"),
    ],
)
def test_every_picture_is_short_enough_to_be_seen_without_a_click(drawn: str) -> None:
    assert len(drawn) < charts.LIMIT


def test_no_calls_are_said_and_not_drawn() -> None:
    assert charts.trend({}, {}) == "No calls in these days."
    assert charts.trend({LAST: 0}, {}) == "No calls in these days."
    assert charts.heat_map([[0.0] * 24] * 7) == "No calls in these days."
    assert charts.table(("a",), [], "agents") == "No agents."


def test_a_table_says_how_many_rows_it_leaves_out() -> None:
    text = charts.table(("agent", "calls"), [("A name | with a bar", "9")] * 100, "agents")
    shown = text.count("|A name \\| with a bar|")
    assert text.endswith(f"and {100 - shown} more agents")


def test_a_table_explains_its_heads_and_counts_the_rows_it_leaves_out() -> None:
    rows = [("A name", "9")] * 100
    text = charts.table(("agent", "calls"), rows, "agents", note="calls: engaged.", total=5_000)
    shown = text.count("A name")
    assert text.endswith(f"and {5_000 - shown} more agents\n\n*calls: engaged.*")
    assert len(text) < charts.LIMIT
    few = charts.table(("agent", "calls"), rows[:2], "agents", note="calls: engaged.")
    assert few.endswith("|A name|9|\n\n*calls: engaged.*")


def test_a_bar_is_as_long_as_its_share() -> None:
    assert [charts.bar(share, 2) for share in (0, 0.25, 0.5, 1, 7)] == ["", "▌", "█", "██", "██"]
    assert charts.bar(None) == ""
