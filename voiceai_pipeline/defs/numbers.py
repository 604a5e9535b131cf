"""The metadata of a day, a connection or a reconciliation, in the order of the UI: numbers that
Dagster plots, and the sentences and tables of ``texts``.

No tokens, phone numbers, transcripts or personal call data: Dagster keeps metadata forever.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final
from zoneinfo import ZoneInfo

import dagster as dg

from voiceai_pipeline.calls.day_status import DayReport
from voiceai_pipeline.calls.freshness import Freshness
from voiceai_pipeline.calls.queries import Talk
from voiceai_pipeline.calls.reconciliation import LocationComparison, Verdict
from voiceai_pipeline.connections.alert_messages import page_link
from voiceai_pipeline.connections.history import Entry
from voiceai_pipeline.core.connection import Connection
from voiceai_pipeline.core.failures import for_user
from voiceai_pipeline.core.foreign_text import NAME_LENGTH, cleaned
from voiceai_pipeline.core.settings import PageSettings
from voiceai_pipeline.defs import freshness_texts
from voiceai_pipeline.defs.texts import (
    NOT_KEPT,
    answer,
    day_link,
    differences_table,
    history_table,
    needs_text,
    users_table,
)


def of_calls(report: DayReport, talk: Talk, zone: ZoneInfo) -> Mapping[str, Any]:
    """A day of ``call_logs``. Users who share a location share its calls: they count once."""
    if report.not_kept and not report.users:
        return {"no_longer_kept": NOT_KEPT}  # numbers would be plotted
    places = {row.location_id: row for row in report.complete}.values()
    return {
        "which_day": f"a day of {zone.key} (VOICEAI_TIMEZONE), the same for all locations; in the "
        "marts a day is the location's own",
        **_amounts(report, talk),
        "new": sum(row.new for row in places),
        "changed": sum(row.changed for row in places),
        "missing_upstream": sum(row.missing for row in places),
        "set_aside": sum(row.set_aside for row in places),
        "unknown_actions": sum(row.unknown_actions for row in places),
        "locations": len(places),
        "users_complete": len(report.complete),
        "users_waiting": len(report.waiting),
        **_read_until(report),
    }


def of_red_day(report: DayReport, page: PageSettings) -> Mapping[str, Any]:
    """A day of ``call_logs`` that is not complete: who is missing and why. Without numbers, which
    would be plotted as if they were the day's."""
    facts = of_status(report, page, Talk(), is_open=False)
    return {name: facts[name] for name in _WHO_AND_WHY if name in facts}


OF_NOW: Final = ("is_yesterday_complete", *freshness_texts.KEYS)
"""Keys that only the latest record of ``sync_status`` has: they are about now, not its day."""

_WHO_AND_WHY: Final = ("is_this_day_complete", "who_needs_something", "read_again", "all_users")


def of_status(
    report: DayReport,
    page: PageSettings,
    talk: Talk,
    *,
    is_open: bool,
    hours_until_complete: float | None = None,
    yesterday: DayReport | None = None,
    arrivals: Sequence[tuple[str, Freshness]] = (),
) -> Mapping[str, Any]:
    """A day of ``sync_status``: which users are complete, which are not, why and what to do. The
    summary comes first and is short enough for the UI to show without a click.

    Args:
        is_open: the day is not over yet.
        hours_until_complete: how long after its end the day became complete.
        yesterday: yesterday's report, if this is the latest record: the asset's page shows that
            one, and must answer for yesterday too.
        arrivals: how calls arrive now, by location, if this is the latest record.
    """
    facts: dict[str, Any] = {}
    this_day = {"is_this_day_complete": dg.MetadataValue.md(answer(report, page, is_open=is_open))}
    if yesterday is None:
        facts |= this_day
    else:
        facts["is_yesterday_complete"] = dg.MetadataValue.md(answer(yesterday, page))
    if in_need := needs_text(report):
        facts["who_needs_something"] = dg.MetadataValue.md(in_need)
    # Third, if yesterday's answer comes first: a small screen ends below two such rows.
    facts |= this_day
    if report.not_kept and not report.users:
        return {**facts, "users_no_longer_kept": len(report.not_kept)}  # no number is known
    if hours_until_complete is not None:
        facts["hours_until_complete"] = round(hours_until_complete, 1)
    return {
        **facts,
        "complete_percent": float(report.complete_percent),
        "percent_of_all_users": float(report.complete_percent_of_all),
        "users": report.users,
        "users_complete": len(report.complete),
        "users_failed": len(report.failed),
        "users_waiting": len(report.waiting),
        "users_paused": len(report.paused),
        "users_not_tried": len(report.unread),
        **({"users_no_longer_kept": len(report.not_kept)} if report.not_kept else {}),
        **_amounts(report, talk),
        **_read_until(report),
        **freshness_texts.of_locations(arrivals),
        "read_again": dg.MetadataValue.url(day_link(page, report.day)),
        "connections_page": dg.MetadataValue.url(page_link(page, None)),
        "all_users": dg.MetadataValue.md(users_table(report)),
    }


def _amounts(report: DayReport, talk: Talk) -> dict[str, Any]:
    places = {row.location_id: row for row in report.complete}.values()
    if not places and (report.users or report.not_kept):
        return {}  # unknown, not 0
    return {
        "calls": sum(row.stored or 0 for row in places),
        "minutes": round(talk.minutes, 1),
        "trial_calls": talk.trial_calls,
    }


def of_reconciliation(places: Sequence[LocationComparison]) -> Mapping[str, Any]:
    """How HighLevel's totals compare with what is stored, over all locations and days."""
    days = [day for place in places for day in place.days]
    verdicts = Counter(day.verdict for day in days)
    differences = [day.difference for day in days]
    return {
        "differences": dg.MetadataValue.md(differences_table(places)),
        "days_checked": len(days) - verdicts[Verdict.NO_TOTAL],
        "days_that_differ": sum(map(bool, differences)),
        "days_opened": verdicts[Verdict.OPENED],
        "days_without_total": verdicts[Verdict.NO_TOTAL],
        "calls_to_fetch": sum(n for n in differences if n > 0),
        "calls_gone_upstream": -sum(n for n in differences if n < 0),
        "locations_asked": len(places) - sum(place.failure is not None for place in places),
        "locations_not_asked": sum(place.failure is not None for place in places),
    }


def of_connection(
    connection: Connection, events: Sequence[Entry], page: PageSettings
) -> Mapping[str, Any]:
    """A user's connection in ``user_tokens``: its state and its history.

    Args:
        events: the latest ones, newest first.
    """
    instants = {
        "since": connection.since,
        "access_token_expires": connection.token_expires_at,
        "next_renewal": connection.next_attempt_at or connection.refresh_at,
        "last_renewal": connection.refreshed_at,
        "refresh_token_ends_unless_used": connection.refresh_token_expires_at,
    }
    return {
        "user": cleaned(connection.user.name, NAME_LENGTH),
        "state": connection.label,
        "cause": cleaned(connection.cause),
        "what_to_do": cleaned(for_user(connection.fix, connection.user.id)) or "nothing",
        "connection_page": dg.MetadataValue.url(page_link(page, connection.user.id)),
        "location": cleaned(
            connection.location_name or connection.location_id or "none", NAME_LENGTH
        ),
        "scopes": cleaned(connection.scope or "unknown"),
        "missing_scopes": ", ".join(connection.missing_scopes) or "none",
        "failed_attempts": connection.failed_attempts,
        "token_version": connection.token_version,
        **{
            name: dg.MetadataValue.timestamp(instant)
            for name, instant in instants.items()
            if instant
        },
        "history": dg.MetadataValue.md(history_table(events, page)),
    }


def _read_until(report: DayReport) -> dict[str, Any]:
    """The time up to which the calls of all complete users are known."""
    instants = [row.read_until for row in report.complete if row.read_until]
    return {"read_until": dg.MetadataValue.timestamp(min(instants))} if instants else {}
