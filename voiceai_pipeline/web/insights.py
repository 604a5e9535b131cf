"""The page of insights: numbers of some days beside those of the same weekdays before, and charts.

Every number is read from the stored marts (``marts/insights.py``) and links to its calls.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Final

import sqlalchemy as sa
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from voiceai_pipeline.calls import call_options
from voiceai_pipeline.calls.call_options import AgentChoice, zone_of
from voiceai_pipeline.calls.deleted_months import deleted_before
from voiceai_pipeline.core.call import agent_label
from voiceai_pipeline.core.days import day_range
from voiceai_pipeline.core.foreign_text import NAME_LENGTH, cleaned
from voiceai_pipeline.core.kept_days import sentence
from voiceai_pipeline.core.outcome import Outcome, label
from voiceai_pipeline.core.percent import SMALL
from voiceai_pipeline.marts import caller_insights, captured_insights, insights
from voiceai_pipeline.marts.insights import Report, Scope
from voiceai_pipeline.web import call_scope, insight_callers, insight_charts
from voiceai_pipeline.web.insight_charts import Cell, Chart
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
    VALUES_PATH,
    InsightQuery,
    calls_address,
)
from voiceai_pipeline.web.pages import reading, render
from voiceai_pipeline.web.site import Site, site_of

WEEKDAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_SHADES: Final = 5
MOST_AGENTS: Final = 1_000
"""Agents of a location to choose from."""

SPANS: Final = {
    "duration_under_10s": ("under 10 s", None, 9),
    "duration_10_to_30s": ("10 to 30 s", 10, 29),
    "duration_30_to_60s": ("30 to 60 s", 30, 59),
    "duration_60_to_120s": ("1 to 2 min", 60, 119),
    "duration_120_to_300s": ("2 to 5 min", 120, 299),
    "duration_300_to_600s": ("5 to 10 min", 300, 599),
    "duration_600s_and_more": ("over 10 min", 600, None),
}
"""By bucket: its label, and the shortest and longest whole seconds for its list of calls."""


def routes() -> list[Route]:
    return [Route(PATH, reading(page), methods=["GET"])]


def page(request: Request) -> Response:
    """Everything on one page, for the location, agent and days of the address."""
    site = site_of(request)
    query = InsightQuery.of(request.query_params)
    with site.pipeline.engine.begin() as db:
        today = first_open_day(db, site, query)
        scope = query.scope(today)
        report = insights.read(db, scope)
        callers = caller_insights.read(db, scope)
        captured = captured_insights.names(db, scope)
        locations = insights.all_locations(db)
        chosen = [query.location] if query.location else []
        agents = call_options.agents_of(db, chosen, MOST_AGENTS)
        gone_before = deleted_before(db)
    now, before = sums(report.by_day, scope.days), sums(report.by_day, scope.before, of_all=True)
    return render(
        request,
        "insights.html",
        query=query,
        scope=scope,
        presets=PRESETS,
        complaints=[
            *query.complaints,
            *_unknown(query, locations, agents),
            *_of_agent(scope, gone_before),
        ],
        locations=[(one, cleaned(name, NAME_LENGTH)) for one, name in locations],
        agents_of_location=[
            (one.agent_id, agent_label(one.agent_id, one.name, is_deleted=one.is_deleted))
            for one in agents
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
        weeks=insight_callers.weeks(scope, callers.weeks),
        facts=insight_callers.facts(scope, callers, now, before),
        languages=insight_callers.languages(callers.languages, is_comparable=before is not None),
        captured=insight_callers.captured(captured, is_comparable=before is not None),
        may_see_values=call_scope.may_see_content(request),
        values_path=VALUES_PATH,
        is_open=not scope.before.count,
        today_left_out=today if query.asks_for(today) and scope.days.last < today else None,
    )


def first_open_day(db: sa.Connection, site: Site, query: InsightQuery) -> date:
    """The first local day that is not over at every location of the address. Its calls so far
    cannot be compared with those of a whole day."""
    now = datetime.now(UTC)
    zones = [zone_of(name) for name in insights.time_zones(db, query.location or None)]
    days = [now.astimezone(zone or site.pipeline.zone).date() for zone in zones]
    return min(days, default=site.today())


def _unknown(
    query: InsightQuery,
    locations: Sequence[tuple[str, str]],
    agents: Sequence[AgentChoice],
) -> list[str]:
    if query.location and query.location not in {one for one, _ in locations}:
        return ["There is no such location."]
    if query.agent and query.agent not in {one.agent_id for one in agents}:
        return ["This location has no such agent."]
    return []


def _of_agent(scope: Scope, gone_before: date | None) -> list[str]:
    """A sentence if days include deleted calls: for an agent, some numbers are in no mart."""
    first = min(days.first for days in (scope.days, scope.before))
    if gone_before is None or scope.agent_id is None or first >= gone_before:
        return []
    return [f"{sentence(gone_before)} Hours and languages of an agent are counted from calls."]


def _rules(report: Report) -> list[tuple[str, str, str]]:
    """Name, code and rule of each outcome, as of when the marts were built."""
    told = [line.partition(": ") for line in report.rules.splitlines()]
    return [(label(Outcome(one), report.goal_actions), one, says) for one, _, says in told]


# Charts, each with the rows of its table ---------------------------------------------------------


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
            [
                _linked(of.get(one), calls_address(scope, insights.Days(one, one)))
                for one in (day, day - shift)
            ],
        )
        for day in days
    ]
    return Chart(insight_charts.bars("Calls a day", labels, series), rows)


def _short(day: date) -> str:
    return f"{day:%a} {day.day}"


def _linked(count: Any, href: str) -> Cell:
    return Cell(UNKNOWN) if count is None else Cell(f"{count:,}", href)


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
                [
                    _linked(count, calls_address(scope, more=more)),
                    _linked(earlier(one), calls_address(scope, scope.before, more)),
                ],
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
                [
                    _linked(now and now[bucket], calls_address(scope, more=more)),
                    _linked(before and before[bucket], calls_address(scope, scope.before, more)),
                ],
            )
        )
    return Chart(insight_charts.rows("Calls by duration", labels, series), rows)


@dataclass(frozen=True)
class Heat:
    """Calls by weekday and hour.

    Attributes:
        rows: a weekday, and for each hour its calls, a shade from 0 to 5, and its calls' address.
        busiest: a sentence about the hour with the most calls; "": no calls.
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
