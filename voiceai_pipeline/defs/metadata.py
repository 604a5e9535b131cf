"""What the UI shows of a day, a user or a failure: numbers that plot, a table, a sentence.

No tokens, numbers, transcripts or people's call data: Dagster keeps metadata for ever.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import dagster as dg
import pandas as pd

from voiceai_pipeline.alerting import page_link
from voiceai_pipeline.day_report import DayReport, span
from voiceai_pipeline.models import Connection, DayResult, DayState, PipelineError, User, for_user
from voiceai_pipeline.reconciliation import DayComparison, LocationComparison, Verdict
from voiceai_pipeline.settings import PageSettings
from voiceai_pipeline.storage.circuit import Circuit
from voiceai_pipeline.storage.history import Entry

LINES: Final = 50
"""How many users a text or table names."""

NAMES: Final = 10
"""How many users a line names."""

EVENTS: Final = 10
"""How many events of a connection its cell shows."""


def of_calls(report: DayReport) -> Mapping[str, Any]:
    """A day of ``call_logs``. Users who share a location share its calls: they count once."""
    places = {row.location_id: row for row in report.complete}.values()
    return {
        "calls": sum(row.stored or 0 for row in places),
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


def of_status(report: DayReport) -> Mapping[str, Any]:
    """A day of ``sync_status``: who is complete, who is not, why, and what to do."""
    able = len(report.complete) + len(report.failed) + len(report.unread)
    return {
        "summary": dg.MetadataValue.md(summary(report)),
        "users": dg.MetadataValue.md(table(report)),
        "users_complete": len(report.complete),
        "users_failed": len(report.failed),
        "users_waiting": len(report.waiting),
        "users_not_tried": len(report.unread),
        "complete_percent": round(100 * len(report.complete) / able, 1) if able else 100.0,
        **_read_until(report),
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


def differences_table(places: Sequence[LocationComparison]) -> str:
    """Every day that differs, and every location of which nothing can be said."""
    rows = [_differing(place, day) for place in places for day in place.days if day.difference]
    rows += [
        {"location": place.name, "day": "", "HighLevel": None, "stored": None, "difference": None,
         "what follows": str(place.failure)}
        for place in places
        if place.failure is not None
    ]  # fmt: skip
    silent = {
        place: [day.day for day in place.days if day.verdict is Verdict.NO_TOTAL]
        for place in places
    }
    rows += [
        {"location": place.name, "day": span(days), "HighLevel": None, "stored": None,
         "difference": None, "what follows": "HighLevel gave no total: nothing can be said"}
        for place, days in silent.items()
        if days
    ]  # fmt: skip
    rest = f"\n\nand {len(rows) - LINES} more" if len(rows) > LINES else ""
    return _markdown(rows[:LINES]) + rest if rows else "Nothing differs."


def reconciliation_text(places: Sequence[LocationComparison]) -> str:
    """What the comparison came to: how many days, which differ, and of what nothing is known."""
    facts = of_reconciliation(places)
    parts = [f"{facts['days_that_differ']} of {facts['days_checked']} days compared differ."]
    if facts["days_without_total"]:
        parts.append(f"HighLevel gave no total for {facts['days_without_total']} more.")
    if facts["locations_not_asked"]:
        parts.append(f"Locations not asked for all their totals: {facts['locations_not_asked']}.")
    lines = [
        f"- {place.name}, {day.day}: HighLevel counts {day.total}, {day.stored} are stored; "
        f"{_FOLLOWS[day.verdict]}."
        for place in places
        for day in place.days
        if day.difference
    ]
    rest = len(lines) - LINES
    lines = [*lines[:LINES], *([f"- and {rest} more"] if rest > 0 else [])]
    return "\n\n".join([" ".join(parts), *(["\n".join(lines)] if lines else [])])


_FOLLOWS: Final = {
    Verdict.OPENED: "the day is red until it has been read again, which happens by itself",
    Verdict.CONTRADICTED: "read again for this, and HighLevel lists what is stored: its total "
    "contradicts its list, which is to be reported to HighLevel",
}


def _differing(place: LocationComparison, day: DayComparison) -> dict[str, Any]:
    return {
        "location": place.name,
        "day": str(day.day),
        "HighLevel": day.total,
        "stored": day.stored,
        "difference": f"{day.difference:+}",
        "what follows": _FOLLOWS[day.verdict],
    }


def of_connection(
    connection: Connection, events: Sequence[Entry], page: PageSettings
) -> Mapping[str, Any]:
    """A user's connection as a cell of ``user_tokens``: how it stands and how it came to that.

    Args:
        events: the latest ones, newest first.
    """
    instants = {
        "since": connection.since,
        "access_token_expires": connection.token_expires_at,
        "next_renewal": connection.next_attempt_at or connection.refresh_at,
        "last_renewal": connection.refreshed_at,
        "refresh_token_ends_unless_used": connection.refresh_token_ends_at,
    }
    return {
        "user": connection.user.name,
        "state": connection.label,
        "cause": connection.cause,
        "what_to_do": for_user(connection.fix, connection.user.id) or "nothing",
        "connection_page": dg.MetadataValue.url(page_link(page, connection.user.id)),
        "location": connection.location_name or connection.location_id or "none",
        "scopes": connection.scope or "unknown",
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


def history_table(events: Sequence[Entry], page: PageSettings) -> str:
    """What happened to a connection, newest first."""
    rows = [
        {
            "when (UTC)": f"{event.at:%Y-%m-%d %H:%M:%S}",
            "what happened": event.sentence,
            "by": event.actor,
            "run": f"[{event.run_id[:8]}]({page.dagster_url}/runs/{event.run_id})"
            if event.run_id
            else "",
        }
        for event in events
    ]
    return _markdown(rows) if rows else "Nothing is recorded yet."


def connections_text(people: Sequence[Connection]) -> str:
    """Whose connection needs a person, why, and what that person has to do."""
    lines = [f"- {one.user.name}: {for_user(one.message, one.user.id)}." for one in people]
    return "\n".join(_at_most(lines))


def refresh_failure_text(failed: Mapping[User, PipelineError], total: int, circuit: Circuit) -> str:
    """The text of a red refresh run: how many, who, why, and what to do; what befell everybody is
    said once."""
    shared = [
        user
        for user, error in failed.items()
        if circuit.is_open and error.failure is circuit.reason
    ]
    groups: dict[str, list[User]] = {}
    for user, error in failed.items():
        if user not in shared:
            groups.setdefault(str(error), []).append(user)
    lines = [f"{len(failed)} of {total} tokens could not be renewed; none was lost:"]
    if shared:
        lines.append(f"- {_some_names(shared)}: {circuit_text(circuit)}")
    lines += _at_most(
        [
            f"- {_some_names(users)}: {for_user(why, users[0].id) if len(users) == 1 else why}"
            for why, users in groups.items()
        ]
    )
    return "\n".join(lines)


def circuit_text(circuit: Circuit) -> str:
    """Why nobody's token is renewed at present, since when, and what to do."""
    why = PipelineError(circuit.reason, circuit.detail) if circuit.reason else "unknown reason."
    since = f" since {_utc(circuit.opened_at)}" if circuit.opened_at else ""
    after = (
        f" The next attempt is at {_utc(circuit.next_probe_at)}." if circuit.next_probe_at else ""
    )
    return f"renewals of all users have been suspended{since}: {why}{after}"


def summary(report: DayReport) -> str:
    """The day in a few words: how many are complete, and by name who is not, and why."""
    able = len(report.complete) + len(report.failed) + len(report.unread)
    parts = [f"**{len(report.complete)} of {able}** users who can be synced are complete."]
    if report.failed:
        parts.append(f"**Failed:** {_named(report.failed)}.")
    if report.unread:
        parts.append(f"**Not tried yet:** {', '.join(user.name for user in report.unread)}.")
    if report.waiting:
        parts.append(f"**Waiting for a person:** {_named(report.waiting)}.")
    return " ".join(parts)


def table(report: DayReport) -> str:
    """Everybody, those who need something first."""
    everybody: Sequence[DayResult | User]
    everybody = [*report.failed, *report.waiting, *report.unread, *report.complete]
    # Of ten thousand only those who are shown are put into words.
    rows = [_cells(one) for one in everybody[:LINES]]
    rest = f"\n\nand {len(everybody) - LINES} more" if len(everybody) > LINES else ""
    return _markdown(rows) + rest if rows else "No users yet."


def waiting_text(people: Iterable[DayResult]) -> str:
    """Who waits for a person and what that person has to do: each user once."""
    rows = {row.user: f"{row.user.name}: {_for_user(row)}" for row in people}
    return "\n".join(_at_most([f"- {text}" for text in rows.values()]))


def failure_text(outcomes: Sequence[DayResult]) -> str:
    """The text of a red run: how many, who, which days, why, and what to do."""
    failed = [row for row in outcomes if row.state is DayState.FAILED]
    by_reason: dict[tuple[str, str], list[DayResult]] = {}
    for row in failed:
        by_reason.setdefault((row.user.name, _for_user(row)), []).append(row)
    users, days = {row.user.id for row in failed}, {row.day for row in failed}
    lines = [
        f"{len(users)} user{'s' * (len(users) != 1)} failed on {len(days)} "
        f"day{'s' * (len(days) != 1)}; the calls of everybody else are stored."
    ]
    lines += _at_most(
        [
            f"- {name}, {span([row.day for row in rows])}: {why}"
            for (name, why), rows in by_reason.items()
        ]
    )
    lines.append("")
    lines.append(
        'Then materialize these days again ("Failed and missing"): only who failed is read.'
    )
    return "\n".join(lines)


def _named(rows: Iterable[DayResult]) -> str:
    names = [
        f"{row.user.name} ({row.failure.explanation.message if row.failure else 'unknown'})"
        for row in rows
    ]
    return ", ".join(_at_most(names))


def _at_most(lines: Sequence[str]) -> list[str]:
    """Nobody reads a thousand lines, and Dagster keeps every one of them for ever."""
    rest = len(lines) - LINES
    return [*lines[:LINES], *([f"- and {rest} more: voiceai-pipeline users"] if rest > 0 else [])]


def _for_user(row: DayResult) -> str:
    return f"{for_user(row.message.rstrip('.'), row.user.id)}."


def _some_names(users: Sequence[User]) -> str:
    names = ", ".join(user.name for user in users[:NAMES])
    rest = len(users) - NAMES
    return f"{names} and {rest} more" if rest > 0 else names


def _utc(instant: datetime) -> str:
    return f"{instant:%Y-%m-%d %H:%M} UTC"


def _cells(one: DayResult | User) -> dict[str, Any]:
    if isinstance(one, User):
        return {"user": one.name, "state": "not tried", "calls": None, _WORDS: ""}
    done = one.state is DayState.COMPLETE
    return {
        "user": one.user.name,
        "state": one.state.value,
        "calls": one.stored,
        _WORDS: "" if done else _for_user(one),
    }


_WORDS: Final = "what happened, what to do"


def _markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    frame = pd.DataFrame(rows).convert_dtypes().astype(str).replace("<NA>", "")
    return str(frame.replace(r"\|", r"\\|", regex=True).to_markdown(index=False))


def _read_until(report: DayReport) -> dict[str, Any]:
    """Up to when everybody's calls are known."""
    instants = [row.read_until for row in report.complete if row.read_until]
    return {"read_until": dg.MetadataValue.timestamp(min(instants))} if instants else {}
