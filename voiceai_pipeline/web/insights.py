"""The page of insights: numbers of some days beside those of the same weekdays before, and charts.

Every number is read from the marts as it stands (``marts/insights.py``) and leads to its calls.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from voiceai_pipeline.core.days import day_range
from voiceai_pipeline.core.foreign_text import NAME_LENGTH, cleaned
from voiceai_pipeline.core.outcome import Outcome, label
from voiceai_pipeline.core.percent import SMALL
from voiceai_pipeline.marts import insights
from voiceai_pipeline.marts.insights import Report, Scope
from voiceai_pipeline.web import insight_charts
from voiceai_pipeline.web.insight_numbers import (
    UNKNOWN,
    column_name,
    coverage,
    in_order,
    minutes,
    ranking,
    sums,
    tiles,
)
from voiceai_pipeline.web.insight_query import (
    PATH,
    PRESETS,
    InsightQuery,
    calls_address,
)
from voiceai_pipeline.web.pages import reading, render
from voiceai_pipeline.web.site import site_of

WEEKDAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_SHADES: Final = 5

SPANS: Final = {
    "duration_under_10s": ("under 10 s", None, 9),
    "duration_10_to_30s": ("10 to 30 s", 10, 29),
    "duration_30_to_60s": ("30 to 60 s", 30, 59),
    "duration_60_to_120s": ("1 to 2 min", 60, 119),
    "duration_120_to_300s": ("2 to 5 min", 120, 299),
    "duration_300_to_600s": ("5 to 10 min", 300, 599),
    "duration_600s_and_more": ("over 10 min", 600, None),
}
"""Label, and the whole seconds from and to which a list of calls shows the bucket."""


def routes() -> list[Route]:
    return [Route(PATH, reading(page), methods=["GET"])]


def page(request: Request) -> Response:
    """Everything on one page, for the location, agent and days of the address."""
    site = site_of(request)
    query = InsightQuery.of(request.query_params)
    scope = query.scope(site.today())
    with site.pipeline.engine.begin() as db:
        report = insights.read(db, scope)
        locations = insights.all_locations(db)
        agents = insights.agents_of(db, query.location) if query.location else []
    now, before = sums(report.by_day, scope.days), sums(report.by_day, scope.before, of_all=True)
    return render(
        request,
        "insights.html",
        query=query,
        scope=scope,
        presets=PRESETS,
        complaints=[*query.complaints, *_unknown(query, locations, agents)],
        locations=[(one, cleaned(name, NAME_LENGTH)) for one, name in locations],
        agents_of_location=[
            (one, f"{cleaned(name, NAME_LENGTH)}{' (deleted)' if is_deleted else ''}")
            for one, name, is_deleted in agents
        ],
        has_marts=bool(report.by_day),
        is_unread=now is None,
        coverage=coverage(report.by_day, scope),
        tiles=tiles(scope, report, now, before),
        trend=_trend(scope, report),
        outcomes=_outcomes(scope, report, is_comparable=before is not None),
        durations=_durations(scope, now, before),
        heat=heat(scope, report),
        zone=_zone(report.zones),
        ranking=ranking(scope, report, query),
        ranks_in_order=[(one, column_name(one, report)) for one, _ in in_order(query.rank)],
        agents_total=report.agents_total,
        rules=_rules(report),
        small=SMALL,
        is_open=scope.days.last >= site.today(),
    )


def _unknown(
    query: InsightQuery,
    locations: Sequence[tuple[str, str]],
    agents: Sequence[tuple[str, str, bool]],
) -> list[str]:
    if query.location and query.location not in {one for one, _ in locations}:
        return ["There is no such location."]
    if query.agent and query.agent not in {one for one, _, _ in agents}:
        return ["This agent was never listed by its location; its calls are counted all the same."]
    return []


def _rules(report: Report) -> list[tuple[str, str, str]]:
    """Name, code and rule of each outcome, from when the marts were built."""
    told = [line.partition(": ") for line in report.rules.splitlines()]
    return [(label(Outcome(one), report.goal_actions), one, says) for one, _, says in told]


# Charts, each with the rows of its table ---------------------------------------------------------


@dataclass(frozen=True)
class Chart:
    """A drawing and the rows of the table behind it: label, calls with their address, calls before
    with theirs, and more cells."""

    drawing: Any
    rows: Sequence[tuple[str, str, str, str, str]]


_NOW: Final = "these days"
_BEFORE: Final = "days before"


def _trend(scope: Scope, report: Report) -> Chart:
    of = {one.day: one.sums["calls"] if one.read else None for one in report.by_day}
    shift = scope.days.first - scope.before.first
    days = day_range(scope.days.first, scope.days.last)
    series = [
        (_NOW, [of.get(day) for day in days]),
        (_BEFORE, [of.get(day - shift) for day in days]),
    ]
    labels = [_short(day) for day in days]
    rows = [
        (
            f"{day:%A} {day}",
            *_linked(of.get(day), calls_address(scope, insights.Days(day, day))),
            *_linked(of.get(day - shift), calls_address(scope, insights.Days(*(day - shift,) * 2))),
        )
        for day in days
    ]
    return Chart(insight_charts.bars("Calls a day", labels, series), rows)


def _short(day: date) -> str:
    return f"{day:%a} {day.day}"


def _linked(count: Any, href: str) -> tuple[str, str]:
    return (UNKNOWN, "") if count is None else (f"{count:,}", href)


def _outcomes(scope: Scope, report: Report, *, is_comparable: bool) -> Chart:
    def earlier(outcome: Outcome) -> int | None:
        return report.outcomes_before[outcome][0] if is_comparable else None

    shown = [one for one in Outcome if report.outcomes[one][0] or earlier(one)]
    labels = [label(one, report.goal_actions) for one in shown]
    series: list[tuple[str, list[float | None]]] = [
        (_NOW, [report.outcomes[one][0] for one in shown]),
        (_BEFORE, [earlier(one) for one in shown]),
    ]
    rows = []
    for one, name in zip(shown, labels, strict=True):
        count, seconds = report.outcomes[one]
        more = {"outcome": one.value}
        rows.append(
            (
                f"{name} ({minutes(seconds):,} min)",
                *_linked(count, calls_address(scope, more=more)),
                *_linked(earlier(one), calls_address(scope, scope.before, more)),
            )
        )
    return Chart(insight_charts.rows("Calls by outcome", labels, series), rows)


def _durations(
    scope: Scope, now: Mapping[str, Any] | None, before: Mapping[str, Any] | None
) -> Chart:
    def of(found: Mapping[str, Any] | None) -> list[Any]:
        return [found and found[name] for name in SPANS]

    series = [(_NOW, of(now)), (_BEFORE, of(before))]
    labels = [name for name, _, _ in SPANS.values()]
    rows = []
    for bucket, (name, least, most) in SPANS.items():
        more = {"min": least, "max": most}
        rows.append(
            (
                name,
                *_linked(now and now[bucket], calls_address(scope, more=more)),
                *_linked(before and before[bucket], calls_address(scope, scope.before, more)),
            )
        )
    return Chart(insight_charts.rows("Calls by duration", labels, series), rows)


@dataclass(frozen=True)
class Heat:
    """Calls by weekday and hour.

    Attributes:
        rows: a weekday, and for each hour its calls, a shade from 0 to 5, and its calls' address.
        busiest: in words.
    """

    rows: Sequence[tuple[str, Sequence[tuple[int, int, str]]]]
    busiest: str


def heat(scope: Scope, report: Report) -> Heat:
    top = max(report.hours.values(), default=0)
    rows = []
    for weekday, name in enumerate(WEEKDAYS, start=1):
        cells = []
        for hour in range(24):
            count = report.hours.get((weekday, hour), 0)
            shade = -(-count * _SHADES // top) if top else 0
            href = calls_address(scope, more={"weekday": weekday, "hour": hour}) if count else ""
            cells.append((count, shade, href))
        rows.append((name, cells))
    busiest = ""
    if top:
        weekday, hour = max(report.hours, key=lambda cell: (report.hours[cell], -cell[0], -cell[1]))
        busiest = f"Most calls: {WEEKDAYS[weekday - 1]} {hour:02}:00 to {hour + 1:02}:00, {top:,}."
    return Heat(rows, busiest)


def _zone(zones: Sequence[str]) -> str:
    if len(zones) == 1:
        return zones[0]
    return f"each location's own time zone ({len(zones)} zones)" if zones else ""
