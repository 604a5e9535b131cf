"""Draws bar charts as inline SVG with pygal. ``insights`` says which charts there are.

Each has a title, labels and a tooltip for each bar, and no script or style of its own: the pages
allow none. Colours are in ``static/insights.css``. The page has a table with the same numbers
below each chart.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from xml.etree import ElementTree

import pygal
from markupsafe import Markup
from pygal.style import Style


@dataclass(frozen=True)
class Cell:
    """A number in the table of a chart: its text, the address of its calls if there is one, and
    whether it is of few calls."""

    text: str
    href: str = ""
    is_small: bool = False


@dataclass(frozen=True)
class Chart:
    """A drawing, and the rows and column heads of the table with the same numbers."""

    drawing: Markup
    rows: Sequence[tuple[str, Sequence[Cell]]]
    heads: Sequence[str] = ("These days", "Days before")


WIDTH: Final = 420
"""Width of a chart in SVG units: about that of a card in pixels, so that text keeps its size on a
phone."""

MOST_LABELS: Final = 8


def bars(
    title: str,
    labels: Sequence[str],
    series: Sequence[tuple[str, Sequence[float | None]]],
    *,
    height: int = 220,
) -> Markup:
    """A bar for each label and series; None: unknown, no bar."""
    chart = pygal.Bar(**_settings(height, has_legend=len(series) > 1), show_minor_x_labels=False)
    step = max(1, -(-len(labels) // MOST_LABELS))
    chart.x_labels = list(labels)
    chart.x_labels_major = list(labels)[::step]
    return _drawn(chart, title, labels, series)


def rows(
    title: str, labels: Sequence[str], series: Sequence[tuple[str, Sequence[float | None]]]
) -> Markup:
    """Horizontal bars, for labels of several words. The first label is on top."""
    turned = [(name, list(values)[::-1]) for name, values in series]
    has_legend = len(series) > 1
    height = 40 + (24 if len(series) == 1 else 34) * len(labels) + 30 * has_legend
    chart = pygal.HorizontalBar(**_settings(height, has_legend=has_legend))
    upward = list(labels)[::-1]
    chart.x_labels = upward
    return _drawn(chart, title, upward, turned)


_MEASURED: Final = Style(label_font_size=12, major_label_font_size=12, legend_font_size=12)
"""The text size of insights.css, from which pygal computes the room for labels."""


def _settings(height: int, *, has_legend: bool) -> dict[str, Any]:
    return {
        "width": WIDTH,
        "height": height,
        "show_title": False,
        "show_legend": has_legend,
        "legend_at_bottom": True,
        "legend_box_size": 10,
        "show_y_guides": True,
        "margin": 4,
        "margin_right": 16,
        "style": _MEASURED,
        "truncate_label": -1,
        "spacing": 6,
        "js": (),
        "no_prefix": True,
        "disable_xml_declaration": True,
        "no_data_text": "No calls",
        "value_formatter": lambda value: f"{value:,.10g}",
        "range": (0, None),
    }


def _drawn(
    chart: Any,
    title: str,
    labels: Sequence[str],
    series: Sequence[tuple[str, Sequence[float | None]]],
) -> Markup:
    for name, values in series:
        chart.add(name, list(values))
    chart.y_labels = _ticks(max((v for _, values in series for v in values if v), default=0))
    told = [
        f"{label}: {name} {'not read' if value is None else f'{value:,.10g}'}"
        for name, values in series
        for label, value in zip(labels, values, strict=True)
        if value is not None
    ]
    chart.add_xml_filter(lambda root: _bare(root, title, told))
    return Markup(chart.render(is_unicode=True))  # noqa: S704 - drawn from numbers, escaped by pygal


def _ticks(top: float) -> list[int]:
    """At most five round numbers, from 0 to ``top`` or just above."""
    step = 1
    while step * 4 < top:
        step = step * 5 // 2 if str(step).startswith("2") else step * 2
    return [step * n for n in range(-(-int(top) // step) + 1)]


def _bare(root: ElementTree.Element, title: str, told: Sequence[str]) -> ElementTree.Element:
    """The SVG without scripts, styles and ids, with a name for screen readers, and tooltips."""
    for parent in list(root.iter()):
        parent.attrib.pop("id", None)
        for child in list(parent):
            # The titles of guides repeat the positions that labels show.
            is_noise = child.tag == "title" and parent.get("class") == "guides"
            if is_noise or child.tag in ("script", "style") or child.get("class") == "tooltip":
                parent.remove(child)
    name = root.find("title")
    if name is not None:
        name.text = title
    root.set("role", "img")
    root.set("aria-label", title)
    bars_drawn = [one for one in root.iter("g") if one.get("class") == "bar"]
    for bar, text in zip(bars_drawn, told, strict=False):
        tooltip = ElementTree.Element("title")
        tooltip.text = text
        bar.insert(0, tooltip)
    return root
