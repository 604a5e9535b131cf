"""Draws numbers as Markdown that Dagster's UI shows without a click.

The UI renders images with ``data:`` URLs and tables, but no HTML; Markdown of a thousand characters
or more is behind a link. So every drawing here is shorter: SVG with one path per colour, or a
truncated table. Colours are mid-tones, readable on white and on black, because an image does not
know the theme.
"""

import math
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Final

from voiceai_pipeline.defs import markdown

LIMIT: Final = 1_000
"""Markdown shorter than this is shown in place, the rest behind a link (Dagster 1.13)."""

GREY: Final = "888"
BLUE: Final = "47d"
PALE: Final = "9be"
HEAT: Final = ("a9c3ef", "6f9be6", "3f6fd0", "d2691e")

WEEKDAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


def trend(values: Mapping[date, int], unfinished: Mapping[date, int]) -> str:
    """A bar for each day, in order. The calls that belong to incomplete days are the lighter top of
    a bar, with an explanation below the chart if it fits.

    The maximum and the first day are labelled; the last day too if there is room.

    Args:
        values: calls by day.
        unfinished: by day, how many of them belong to locations whose day is not complete.
    """
    if not values or not max(values.values()):
        return "No calls in these days."
    top, days = max(values.values()), sorted(values)
    solid, pale = "", ""
    for place, day in enumerate(days):
        whole = round(60 * values[day] / top)
        done = round(60 * (values[day] - unfinished.get(day, 0)) / top)
        x = place * 11 + 5
        solid += f"M{x},0v-{done}" if done else ""
        pale += f"M{x},{-done}v-{whole - done}" if whole > done else ""
    bars = "".join(
        f"<path d='{path}' stroke='%23{colour}'/>"
        for path, colour in ((solid, BLUE), (pale, PALE))
        if path
    )
    end = len(days) * 11 + 4
    texts = _text(0, 84, f"{days[0]:%d.%m.}") + _text(end, 16, str(top))
    if len(days) > 6:
        texts += _text(end - 34, 84, f"{days[-1]:%d.%m.}")
    drawn = _picture(
        f"<g transform='translate(0,70)' stroke-width='8'>{bars}</g>{texts}",
        end + 56,
        88,
        "Calls by day",
    )
    explained = f"{drawn}\n\n*Lighter: day not complete yet*" if pale else drawn
    return explained if len(explained) < LIMIT else drawn


def heat_map(grid: Sequence[Sequence[float]]) -> str:
    """Seven weekdays, Monday first, by 24 hours. The busiest cells are orange, and a caption gives
    their range of calls."""
    top = max((max(row) for row in grid), default=0)
    if not top:
        return "No calls in these days."
    for levels in (4, 3, 2):
        least = math.ceil(top * (levels - 1) / levels)
        scale = f"{least:g} to {top:g}" if least < top else f"{top:g}"
        drawn = f"{_heat(grid, top, levels)}\n\n*Orange: busiest hours ({scale} calls)*"
        if len(drawn) < LIMIT:
            return drawn
    return _blocks(grid, top)


def _heat(grid: Sequence[Sequence[float]], top: float, levels: int) -> str:
    paths = [""] * levels
    for y, row in enumerate(grid):
        cells = [-1 if not value else min(levels - 1, int(value / top * levels)) for value in row]
        x = 0
        while x < len(cells):
            end = x
            while end < len(cells) and cells[end] == cells[x]:
                end += 1
            if cells[x] >= 0:
                paths[cells[x]] += f"M{x},{y}h{end - x}"
            x = end
    colours = (HEAT[0], HEAT[2], HEAT[3]) if levels == 3 else HEAT if levels == 4 else HEAT[2:]
    cells_drawn = "".join(
        f"<path d='{path}' stroke='%23{colour}'/>"
        for colour, path in zip(colours, paths, strict=True)
        if path
    )
    body = f"<g transform='translate(30,8)scale(13)' stroke-width='.9'>{cells_drawn}</g>"
    body += _text(0, 12, "Mon") + _text(0, 90, "Sun")
    body += "".join(_text(30 + hour * 13, 108, str(hour)) for hour in (0, 6, 12, 18))
    return _picture(body, 346, 110, "Calls by weekday and hour")


def _blocks(grid: Sequence[Sequence[float]], top: float) -> str:
    """The same map in block characters, for one that takes too many characters to draw."""
    shades = " ▁▂▃▄▅▆▇█"
    lines = [
        f"{name} {''.join(shades[-(-int(8 * value) // max(1, int(top)))] for value in row)}"
        for name, row in zip(WEEKDAYS, grid, strict=True)
    ]
    return "\n".join(["```", *lines, "    0     6     12    18", "```"])


def bar(share: float | None, width: int = 8) -> str:
    """A share from 0 to 1 as a bar of blocks; empty for None."""
    if share is None:
        return ""
    eighths = round(min(max(share, 0), 1) * width * 8)
    partial = "▏▎▍▌▋▊▉"[eighths % 8 - 1] if eighths % 8 else ""
    return "█" * (eighths // 8) + partial


def table(
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    noun: str,
    *,
    note: str = "",
    total: int | None = None,
) -> str:
    """A table of as many rows as the UI shows without a click, then how many more there are, then
    ``note``.

    Args:
        rows: cells that are not ``Markup`` are escaped.
        noun: what the rows are, in the plural.
        note: what the heads mean.
        total: how many rows there are in all; None: as many as were given.
    """
    if not rows:
        return f"No {noun}."
    lines = markdown.table(heads, rows)
    total = total or len(rows)
    for shown in range(len(rows), 0, -1):
        more = f"and {total - shown} more {noun}" if total > shown else ""
        parts = ["\n".join(lines[: shown + 2]), more, f"*{note}*" if note else ""]
        text = "\n\n".join(filter(None, parts))
        if len(text) < LIMIT:
            return text
    return f"{total} {noun}."


def _text(x: int, y: int, text: str) -> str:
    return f"<text x='{x}' y='{y}'>{text}</text>"


def _picture(body: str, width: int, height: int, name: str) -> str:
    """The SVG as a Markdown image. Only spaces and # have to be encoded."""
    svg = (
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{width}' height='{height}' "
        f"font-size='11' font-family='Arial' fill='%23{GREY}'>{body}</svg>"
    )
    return f"![{name}](data:image/svg+xml,{svg.replace(' ', '%20')})"
