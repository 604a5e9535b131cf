"""Charts: bare SVG with a name, labels and tooltips, whatever the numbers and names are."""

from xml.etree import ElementTree

import pytest

from voiceai_pipeline.web import insight_charts


def test_a_chart_has_a_name_labels_and_tooltips_and_no_script_style_or_id() -> None:
    series = [("these days", [3, 0, None]), ("days before", [1, None, 2])]
    drawn = insight_charts.bars("Calls a day", ["Mon 23", "Tue 24", "<b> & co"], series)
    root = ElementTree.fromstring(drawn)  # noqa: S314 - our own
    tags = [one.tag.partition("}")[2] for one in root.iter()]
    assert not {"script", "style"} & set(tags)
    assert not [one for one in root.iter() if one.get("id") or one.get("style")]
    assert (root.get("role"), root.get("aria-label")) == ("img", "Calls a day")
    titles = [one.text for one in root.iter() if one.tag.endswith("}title")]
    assert titles == [
        "Calls a day", "Mon 23: these days 3", "Tue 24: these days 0", "Mon 23: days before 1",
        "<b> & co: days before 2",
    ]  # fmt: skip
    texts = {one.text for one in root.iter() if one.tag.endswith("}text")}
    assert {"Mon 23", "Tue 24", "<b> & co", "these days", "days before"} <= texts


def test_lying_bars_have_the_first_label_on_top() -> None:
    drawn = insight_charts.rows("Outcomes", ["Booked", "Answered"], [("these days", [1, 2])])
    root = ElementTree.fromstring(drawn)  # noqa: S314 - our own
    heights = {one.text: float(one.get("y", 0)) for one in root.iter() if one.tag.endswith("}text")}
    assert heights["Booked"] < heights["Answered"]


@pytest.mark.parametrize(
    ("top", "ticks"),
    [
        (0, ["0"]),
        (3, ["0", "1", "2", "3"]),
        (40, ["0", "10", "20", "30", "40"]),
        (41, ["0", "20", "40", "60"]),
        (1_234, ["0", "500", "1,000", "1,500"]),
    ],
)
def test_the_scale_has_a_few_round_numbers(top: int, ticks: list[str]) -> None:
    root = ElementTree.fromstring(  # noqa: S314 - our own
        insight_charts.bars("Calls", ["Mon"], [("these days", [top])])
    )
    texts = [one.text for one in root.iter() if one.tag.endswith("}text")]
    assert [text for text in texts if text and text[0].isdigit()] == ticks


def test_nothing_to_draw_is_no_error() -> None:
    for draw in (insight_charts.bars, insight_charts.rows):
        assert "<svg" in draw("Calls", [], [("these days", [])])
        assert "<svg" in draw("Calls", ["Mon"], [("these days", [None]), ("before", [0])])
