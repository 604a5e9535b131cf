"""What the UI shows of a day, a user or a failure: numbers that plot, a table, a sentence.

No tokens, numbers, transcripts or people's call data: Dagster keeps metadata for ever.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime
from typing import Any, Final
from uuid import UUID

import dagster as dg
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from voiceai_pipeline.calls import volume_anomalies
from voiceai_pipeline.calls.day_status import DayReport, StaleUser, span
from voiceai_pipeline.calls.queries import Talk
from voiceai_pipeline.calls.reconciliation import DayComparison, LocationComparison, Verdict
from voiceai_pipeline.calls.volume_anomalies import Judgement
from voiceai_pipeline.connections.alert_delivery import page_link
from voiceai_pipeline.connections.circuit_breaker import Circuit
from voiceai_pipeline.connections.history import Entry
from voiceai_pipeline.core.connection import Connection, User
from voiceai_pipeline.core.days import DayResult, DayState
from voiceai_pipeline.core.failures import PipelineError, for_user
from voiceai_pipeline.core.foreign_text import NAME_LENGTH, SENTENCE_LENGTH, cleaned
from voiceai_pipeline.core.settings import PageSettings
from voiceai_pipeline.defs import markdown
from voiceai_pipeline.defs.markdown import Markup, Shown, shown

LINES: Final = 50
"""How many users a text or table names."""

NAMES: Final = 10
"""How many users a line names."""

ROOM: Final = 400
"""Characters for the names in a line, however they are written."""

EVENTS: Final = 10
"""How many events of a connection its cell shows."""

SHOWN_AT_ONCE: Final = 999
"""Dagster's UI shows Markdown of at most so many characters without a click."""


def of_table(
    table: sa.Table,
    lineage: Mapping[str, Sequence[str]] | None = None,
    meaning: Callable[[sa.Column[Any]], str | None] = lambda column: column.comment,
) -> Mapping[str, Any]:
    """What the UI says of an asset's table: its name and, from the comments that the database has
    too, its columns.

    Args:
        lineage: by column, the ``asset.column`` it is computed from.
        meaning: what a column's description says.
    """
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    schema = dg.TableSchema(
        columns=[
            dg.TableColumn(
                column.name,
                column.type.compile(dialect).lower(),
                meaning(column),
                dg.TableColumnConstraints(nullable=bool(column.nullable)),
            )
            for column in table.columns
        ]
    )
    return {
        "dagster/table_name": table.name,
        "dagster/column_schema": schema,
        **(
            {
                "dagster/column_lineage": dg.TableColumnLineage(
                    {
                        column: [
                            dg.TableColumnDep(dg.AssetKey(asset), of)
                            for asset, of in (source.split(".") for source in sources)
                        ]
                        for column, sources in lineage.items()
                    }
                )
            }
            if lineage
            else {}
        ),
    }


def of_calls(report: DayReport, talk: Talk) -> Mapping[str, Any]:
    """A day of ``call_logs``. Users who share a location share its calls: they count once."""
    places = {row.location_id: row for row in report.complete}.values()
    return {
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


def of_status(
    report: DayReport,
    page: PageSettings,
    talk: Talk,
    *,
    is_open: bool,
    hours_until_complete: float | None = None,
    yesterday: DayReport | None = None,
) -> Mapping[str, Any]:
    """A day of ``sync_status``: who is complete, who is not, why, and what to do. What fits a
    look comes first and is short enough for the UI to show without a click.

    Args:
        is_open: the day is not over yet.
        hours_until_complete: how long after its end the day became complete.
        yesterday: given where the asset's own page, which shows what was recorded last, has to
            answer for yesterday too.
    """
    facts: dict[str, Any] = {}
    if yesterday is not None:
        facts["is_yesterday_complete"] = dg.MetadataValue.md(answer(yesterday, page))
    facts["is_this_day_complete"] = dg.MetadataValue.md(answer(report, page, is_open=is_open))
    if in_need := needs_text(report):
        facts["who_needs_something"] = dg.MetadataValue.md(in_need)
    if hours_until_complete is not None:
        facts["hours_until_complete"] = round(hours_until_complete, 1)
    return {
        **facts,
        "complete_percent": report.complete_percent,
        "users_complete": len(report.complete),
        "users_failed": len(report.failed),
        "users_waiting": len(report.waiting),
        "users_not_tried": len(report.unread),
        **_amounts(report, talk),
        **_read_until(report),
        "read_again": dg.MetadataValue.url(day_link(page, report.day)),
        "connections_page": dg.MetadataValue.url(page_link(page, None)),
        "all_users": dg.MetadataValue.md(table(report)),
    }


def answer(report: DayReport, page: PageSettings, *, is_open: bool = False) -> str:
    """Whether a day is complete, in a sentence or two; if not, who is missing and the way on."""
    able = len(report.complete) + len(report.failed) + len(report.unread)
    day = f"{report.day:%A} {report.day}{' so far' if is_open else ''}"
    waiting = f" Waiting for a person: {len(report.waiting)}." if report.waiting else ""
    if not able:
        return f"**Nothing to read.** Nobody can be synced on {day}.{waiting}"
    if report.is_green:
        return f"**Yes.** {day} is complete for everybody who can be synced ({able}).{waiting}"
    missing = [row.user for row in report.failed] + list(report.unread)
    return (
        f"**No, {report.complete_percent} %.** {day} is complete for {len(report.complete)} of "
        f"{able} users who can be synced. Missing: {_some_names(missing, shown)}. "
        f"[Read the day again]({day_link(page, report.day)}): Materialize, Launch; "
        f"only who is missing is read.{waiting}"
    )


def needs_text(report: DayReport) -> str:
    """Who needs something, why and what to do, those with the same cause together, as a list that
    the UI shows without a click; empty if nobody does."""
    groups: dict[tuple[str, str, str], list[User]] = {}
    for row in (*report.failed, *report.waiting):
        known = row.failure.explanation if row.failure else None
        why = known.message if known else "unknown"
        fix = known.fix.partition(": voiceai-pipeline")[0] if known else "See the run"
        groups.setdefault((_STATE[row.state], why, fix), []).append(row.user)
    lines = [
        f"- **{_some_names(users, shown)}** {state}: {why}. {fix}."
        for (state, why, fix), users in groups.items()
    ]
    if report.unread:
        lines.append(f"- **{_some_names(report.unread, shown)}** not tried yet: Read the day.")
    kept = len(lines)
    while kept:
        rest = [f"- and {len(lines) - kept} more causes: see all_users"]
        text = "\n".join(lines if kept == len(lines) else [*lines[:kept], *rest])
        if len(text) <= SHOWN_AT_ONCE:
            return text
        kept -= 1
    return ""


_STATE: Final = {DayState.FAILED: "failed", DayState.WAITING: "waits for a person"}


def day_link(page: PageSettings, day: date) -> str:
    """Where Dagster's UI reads a day again: it is chosen there already."""
    return f"{page.dagster_url}/assets/call_logs?view=partitions&partition={day}"


def _amounts(report: DayReport, talk: Talk) -> dict[str, Any]:
    places = {row.location_id: row for row in report.complete}.values()
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


def differences_table(places: Sequence[LocationComparison]) -> str:
    """Every day that differs, and every location of which nothing can be said."""
    rows = [_differing(place, day) for place in places for day in place.days if day.difference]
    rows += [
        {"location": shown(place.name, NAME_LENGTH), "day": "", "HighLevel": None,
         "stored": None, "difference": None, "what follows": shown(str(place.failure))}
        for place in places
        if place.failure is not None
    ]  # fmt: skip
    silent = {
        place: [day.day for day in place.days if day.verdict is Verdict.NO_TOTAL]
        for place in places
    }
    rows += [
        {"location": shown(place.name, NAME_LENGTH), "day": span(days), "HighLevel": None,
         "stored": None, "difference": None,
         "what follows": "HighLevel gave no total: nothing can be said"}
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
        f"- {shown(place.name, NAME_LENGTH)}, {day.day}: HighLevel counts {day.total}, "
        f"{day.stored} are stored; {_FOLLOWS[day.verdict]}."
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
        "location": shown(place.name, NAME_LENGTH),
        "day": str(day.day),
        "HighLevel": day.total,
        "stored": day.stored,
        "difference": Markup(f"{day.difference:+}"),
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


def history_table(events: Sequence[Entry], page: PageSettings) -> str:
    """What happened to a connection, newest first."""
    rows = [
        {
            "when (UTC)": f"{event.at:%Y-%m-%d %H:%M:%S}",
            "what happened": event.sentence,
            "by": event.actor,
            "run": Markup(f"[{event.run_id[:8]}]({page.dagster_url}/runs/{event.run_id})")
            if event.run_id
            else "",
        }
        for event in events
    ]
    return _markdown(rows) if rows else "Nothing is recorded yet."


def connections_text(people: Sequence[Connection]) -> str:
    """Whose connection needs a person, why, and what that person has to do."""
    lines = [
        f"- {shown(one.user.name, NAME_LENGTH)}: {shown(for_user(one.message, one.user.id))}."
        for one in people
    ]
    return "\n".join(_at_most(lines))


def refresh_failure_text(failed: Mapping[User, PipelineError], total: int, circuit: Circuit) -> str:
    """The text of a red refresh run, no Markdown: how many, who, why, and what to do; what befell
    everybody is said once."""
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
        lines.append(f"- {_some_names(shared, cleaned)}: {cleaned(circuit_text(circuit))}")
    lines += _at_most(
        [
            f"- {_some_names(users, cleaned)}: "
            f"{cleaned(for_user(why, users[0].id) if len(users) == 1 else why)}"
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
    rows = {
        row.user: f"{shown(row.user.name, NAME_LENGTH)}: {shown(_for_user(row))}" for row in people
    }
    return "\n".join(_at_most([f"- {text}" for text in rows.values()]))


def failure_text(outcomes: Sequence[DayResult], medium: Shown) -> str:
    """The text of a red run or check: how many, who, which days, why, and what to do."""
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
            f"- {medium(name, NAME_LENGTH)}, {span([row.day for row in rows])}: "
            f"{medium(why, SENTENCE_LENGTH)}"
            for (name, why), rows in by_reason.items()
        ]
    )
    lines.append("")
    lines.append(
        'Then materialize these days again ("Failed and missing"): only who failed is read.'
    )
    return "\n".join(lines)


def twice_text(calls: Mapping[str, Sequence[str]], names: Mapping[str, str]) -> str:
    """Calls that are stored under several locations, and what that means.

    Args:
        calls: by call id, the ids of its locations.
        names: of locations, by id.
    """
    lines = _at_most(
        [
            f"- {shown(call_id, NAME_LENGTH)}: "
            f"{', '.join(shown(names.get(place, place), NAME_LENGTH) for place in places)}"
            for call_id, places in calls.items()
        ],
        "",
    )
    return "\n".join(
        [
            f"{len(calls)} calls are stored under more than one location, and would count more "
            "than once. HighLevel gives every call an id of its own, so one of the locations "
            "answers for another: compare the locations of these users on the page Connections, "
            "and connect again whoever has the wrong one.",
            "",
            *lines,
        ]
    )


def types_text(types: Mapping[str, int]) -> str:
    """Action types that nobody has documented, and how often each was met."""
    lines = _at_most(
        [f"- {shown(kind, NAME_LENGTH)}: {count} actions" for kind, count in types.items()], ""
    )
    return "\n".join(
        [
            "The calls hold actions of types that HighLevel does not document. They are stored as "
            "they are; metrics by action count them as unknown. Tell the engineers, so that "
            "they get a name.",
            "",
            *lines,
        ]
    )


def volume_text(judged: Sequence[Judgement], names: Mapping[str, str]) -> str:
    """What is usual, and what is not."""
    together = [one for one in judged if one.location_id is None]
    if not judged:
        return (
            f"There is nothing to compare with yet: it takes {volume_anomalies.MIN_WEEKS} complete "
            "weeks of the same weekday."
        )
    odd = [one for one in judged if not one.is_usual]
    parts = [
        f"All together on {one.day:%A} {one.day}: {one.calls} calls; usual are {one.band.low} to "
        f"{one.band.high} (by {one.band.weeks} weeks)."
        for one in together[-1:]
    ]
    if not odd:
        return " ".join([*parts, f"All {len(judged)} comparisons are within their bands."])
    lines = []
    for one in odd:
        who = names.get(one.location_id, one.location_id) if one.location_id else "All together"
        than = "fewer" if one.calls < one.band.low else "more"
        lines.append(
            f"- {shown(who, NAME_LENGTH)}, {one.day:%A} {one.day}: {one.calls} calls, "
            f"{than} than the usual {one.band.low} to {one.band.high} (by {one.band.weeks} weeks)"
        )
    parts.append(
        f"{len(odd)} of {len(judged)} comparisons are outside their bands. Every day named here is "
        "complete, so it is as HighLevel has it: ask the location, or see whether its agent or "
        "number was changed."
    )
    return "\n".join([" ".join(parts), "", *_at_most(lines, "")])


def stale_text(
    found: Sequence[StaleUser], rows: Mapping[UUID, DayResult], able: int, due: date
) -> str:
    """Who is not up to date, since when, why and what to do.

    Args:
        rows: what the ledger holds of ``due``, by user id.
        able: how many users can be synced.
    """
    lines = []
    for one in found:
        user = one.connection.user
        last = f"complete up to {one.last_complete}" if one.last_complete else "never complete"
        row = rows.get(user.id)
        why = (
            _for_user(row)
            if row is not None and row.state is DayState.FAILED
            else "Nobody has tried to read it. Fix: see whether the daemon runs and its schedules "
            f"are on, then read {due} again."
        )
        lines.append(f"- {shown(user.name, NAME_LENGTH)}, {last}: {shown(why)}")
    return "\n".join(
        [
            f"{len(found)} of {able} users who can be synced are not complete up to {due}:",
            "",
            *_at_most(lines),
        ]
    )


def _at_most(lines: Sequence[str], where: str = ": voiceai-pipeline users") -> list[str]:
    """Nobody reads a thousand lines, and Dagster keeps every one of them for ever."""
    rest = len(lines) - LINES
    return [*lines[:LINES], *([f"- and {rest} more{where}"] if rest > 0 else [])]


def _for_user(row: DayResult) -> str:
    return f"{for_user(row.message.rstrip('.'), row.user.id)}."


def _some_names(users: Sequence[User], medium: Shown) -> str:
    """At least one, and as many more as there is room for."""
    names: list[str] = []
    for user in users[:NAMES]:
        # Invisible characters leave an empty name, and empty bold shows its asterisks.
        name = medium(user.name, NAME_LENGTH) or str(user.id)
        if names and len(", ".join([*names, name])) > ROOM:
            break
        names.append(name)
    rest = len(users) - len(names)
    return f"{', '.join(names)} and {rest} more" if rest > 0 else ", ".join(names)


def _utc(instant: datetime) -> str:
    return f"{instant:%Y-%m-%d %H:%M} UTC"


def _cells(one: DayResult | User) -> dict[str, Any]:
    if isinstance(one, User):
        return {
            "user": shown(one.name, NAME_LENGTH),
            "state": "not tried",
            "calls": None,
            _WORDS: "",
        }
    done = one.state is DayState.COMPLETE
    return {
        "user": shown(one.user.name, NAME_LENGTH),
        "state": one.state.value,
        "calls": one.stored,
        _WORDS: "" if done else _for_user(one),
    }


_WORDS: Final = "what happened, what to do"


def _markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table of rows that have the same names."""
    return "\n".join(markdown.table(list(rows[0]), [list(row.values()) for row in rows]))


def _read_until(report: DayReport) -> dict[str, Any]:
    """Up to when everybody's calls are known."""
    instants = [row.read_until for row in report.complete if row.read_until]
    return {"read_until": dg.MetadataValue.timestamp(min(instants))} if instants else {}
