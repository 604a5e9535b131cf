"""Who calls: callers by week, new and returning ones, languages, and the most calls at once.

For the insights page, from the stored marts. A number is None if its calls were not read.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta

import sqlalchemy as sa

from voiceai_pipeline.database.fact_tables import call_facts
from voiceai_pipeline.database.mart_tables import daily_call_metrics, language_metrics
from voiceai_pipeline.database.period_tables import WEEK, agent_period_metrics, period_metrics
from voiceai_pipeline.marts.insights import Days, Scope, of_scope, within


@dataclass(frozen=True)
class CallerWeek:
    """The callers of a week; a caller of two locations counts twice.

    Attributes:
        is_complete: all of its days have been read to their end, at every location.
        calls: None if no location was read.
        callers: distinct callers; None if no location was read.
        new, returning: at the locations where they are known; None if there is no such location,
            and for an agent.
    """

    days: Days
    is_complete: bool
    calls: int | None
    callers: int | None
    new: int | None
    returning: int | None


@dataclass(frozen=True)
class Peak:
    """The most calls in progress at one moment, and the first day and location that had as many."""

    calls: int
    day: date
    location_id: str
    location_name: str | None


@dataclass(frozen=True)
class CallerReport:
    """What the page shows about callers.

    Attributes:
        weeks: the weeks with a day of the scope or of the days before, in order.
        peak, peak_before: None if there was no call or nothing was read, and for an agent, whose
            peaks are not known.
        languages: calls on the days and on those before, by language; "" if it is unknown.
    """

    weeks: list[CallerWeek]
    peak: Peak | None
    peak_before: Peak | None
    languages: Mapping[str, tuple[int, int]]


def read(db: sa.Connection, scope: Scope) -> CallerReport:
    """The report of a scope."""
    languages: dict[str, tuple[int, int]] = {}
    now, before = (_languages(db, scope, days) for days in (scope.days, scope.before))
    for name in sorted({*now, *before}, key=lambda one: (-now.get(one, 0), one)):
        languages[name] = now.get(name, 0), before.get(name, 0)
    return CallerReport(
        weeks=_weeks(db, scope),
        peak=_peak(db, scope, scope.days),
        peak_before=_peak(db, scope, scope.before),
        languages=languages,
    )


def _weeks(db: sa.Connection, scope: Scope) -> list[CallerWeek]:
    is_agent = scope.agent_id is not None
    table = agent_period_metrics if is_agent else period_metrics
    known = [sa.null(), sa.null()] if is_agent else [table.c.new_callers, table.c.returning_callers]
    touched = [
        (table.c.first_day <= days.last) & (table.c.last_day >= days.first)
        for days in (scope.days, scope.before)
        if days.count
    ]
    query = (
        sa.select(
            table.c.first_day,
            table.c.last_day,
            sa.func.bool_and(table.c.is_complete),
            sa.func.sum(table.c.calls),
            sa.func.sum(table.c.unique_callers),
            *(sa.func.sum(sa.cast(column, sa.Integer)) for column in known),
        )
        .where(table.c.period == WEEK, sa.or_(*touched), *of_scope(table, scope))
        .group_by(table.c.first_day, table.c.last_day)
        .order_by(table.c.first_day)
    )
    return [
        CallerWeek(Days(first, last), is_complete, *counts)
        for first, last, is_complete, *counts in db.execute(query)
    ]


def _peak(db: sa.Connection, scope: Scope, days: Days) -> Peak | None:
    if scope.agent_id is not None:
        return None
    table = daily_call_metrics
    query = (
        sa.select(
            table.c.peak_concurrent_calls, table.c.day, table.c.location_id, table.c.location_name
        )
        .where(within(table, days), table.c.peak_concurrent_calls > 0, *of_scope(table, scope))
        .order_by(table.c.peak_concurrent_calls.desc(), table.c.day, table.c.location_id)
        .limit(1)
    )
    row = db.execute(query).one_or_none()
    return None if row is None else Peak(*row)


def _languages(db: sa.Connection, scope: Scope, days: Days) -> dict[str, int]:
    table, fact = language_metrics, call_facts
    query = (
        sa.select(table.c.language, sa.func.sum(table.c.calls))
        .where(within(table, days), *of_scope(table, scope))
        .group_by(table.c.language)
    )
    if scope.agent_id is not None:  # no mart has languages by agent
        language = sa.func.coalesce(fact.c.language, "")
        query = (
            sa.select(language, sa.func.count())
            .where(*facts_within(days), *of_scope(fact, scope))
            .group_by(language)
        )
    return {language: int(calls) for language, calls in db.execute(query)}


def facts_within(days: Days) -> list[sa.ColumnElement[bool]]:
    """SQL conditions: metrics count the call of ``call_facts``, and it is of one of these days. The
    bounds of ``started_at`` are for the index."""
    fact = call_facts
    return [
        fact.c.is_counted,
        fact.c.local_day.between(days.first, days.last),
        fact.c.started_at >= sa.cast(days.first - timedelta(days=1), sa.Date),
        fact.c.started_at < sa.cast(days.last + timedelta(days=2), sa.Date),
    ]
