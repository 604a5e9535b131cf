"""What the commands print: tables and sentences for the terminal, facts for JSON."""

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import click
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from voiceai_pipeline.calls import ledger
from voiceai_pipeline.calls.day_status import span
from voiceai_pipeline.cli.doctor import Finding
from voiceai_pipeline.connections.connection_test import Check
from voiceai_pipeline.connections.history import Entry
from voiceai_pipeline.core.connection import LIVE_STATES, Connection, ConnectionState
from voiceai_pipeline.core.days import DayResult, DayState
from voiceai_pipeline.core.failures import for_user
from voiceai_pipeline.core.foreign_text import NAME_LENGTH, cleaned, printable

_COLOURS = {
    ConnectionState.CONNECTED: "green",
    ConnectionState.EXPIRING: "green",
    ConnectionState.REFRESHING: "green",
    ConnectionState.IN_DOUBT: "yellow",
    ConnectionState.PAUSED: "yellow",
    ConnectionState.NEEDS_RECONNECT: "red",
    ConnectionState.DISCONNECTED: "red",
    ConnectionState.NEVER_CONNECTED: "dim",
}

_WIDE = 140
"""Width of a terminal from which tables show all columns; ids are shown whole or not at all."""

_ID_WIDTH = 37
"""Minimum width of a column of sentences: one may name a user's id, which must not be broken."""


_CELL_LENGTH = 10_000
"""Maximum characters of a cell: a sentence may list many users."""


class Table(RichTable):
    """A table whose cells are cleaned of what a terminal would interpret."""

    def add_row(self, *cells: Any, **options: Any) -> None:
        clean = (cleaned(c, _CELL_LENGTH) if isinstance(c, str) else c for c in cells)
        super().add_row(*clean, **options)


def say(text: str, *, err: bool = False) -> None:
    """Print lines of ours, which may quote foreign text."""
    click.echo(printable(text), err=err)


def show_json(facts: object) -> None:
    """Print facts of plain types."""
    click.echo(json.dumps(facts, indent=2))


def show_result(connection: Connection, *, as_json: bool) -> None:
    """Print the state of a connection after a command."""
    if as_json:
        show_json(user_facts(connection, None))
    else:
        show_users([connection])


def show_consent(name: str, url: str, *, err: bool) -> None:
    """Print the URL at which consent for a user is given."""
    say(f"Give consent for {cleaned(name)} here:\n\n  {url}\n", err=err)


def show_users(
    connections: Sequence[Connection], statuses: Mapping[UUID, ledger.UserStatus] | None = None
) -> None:
    """Print a row per user; with the last sync if ``statuses`` are given."""
    if not connections:
        say("No users yet. Add and connect one: voiceai-pipeline connect NAME --new", err=True)
        return
    console = _console()
    table = Table("User", box=None, pad_edge=False)
    if is_wide := console.width >= _WIDE:
        table.add_column("Id", no_wrap=True)
    table.add_column("State")
    if is_wide:
        table.add_column("Since")
        table.add_column("Location")
    table.add_column("What to do", min_width=_ID_WIDTH)
    if statuses is not None:
        table.add_column("Last sync")
    for connection in connections:
        place = connection.location_name or connection.location_id or ""
        cells: list[str | Text] = [
            cleaned(connection.user.name, NAME_LENGTH),
            *([str(connection.user.id)] if is_wide else []),
            _state(connection),
            *([_minute(connection.since), place] if is_wide else []),
            _what_to_do(connection) or "",
        ]
        if statuses is not None:
            cells.append(_last_sync(statuses.get(connection.user.id)))
        table.add_row(*cells)
    console.print(table)


def _state(connection: Connection) -> Text:
    colour = "yellow" if connection.pause else _COLOURS[connection.status]
    return Text(connection.label, colour)


def _last_sync(status: ledger.UserStatus | None) -> str:
    if status is None or status.last_sync_at is None:
        return "never"
    return f"{_minute(status.last_sync_at)} {status.status}"


def _minute(instant: datetime | None) -> str:
    return f"{instant:%Y-%m-%d %H:%M}Z" if instant else ""


def _what_to_do(connection: Connection) -> str | None:
    """Cause and fix; None if nothing is wrong."""
    fine = connection.can_sync and connection.last_failure is None
    if fine and not connection.rotation_is_due:
        return None
    return for_user(connection.message, connection.user.id)


def show_user(
    connection: Connection, status: ledger.UserStatus | None, entries: Sequence[Entry]
) -> None:
    """Print one user: the state of the connection and its history."""
    facts = Table.grid(padding=(0, 2))
    token_expires, refresh = connection.token_expires_at, connection.refresh_at
    location = (connection.location_name, connection.location_id, connection.location_timezone)
    rows: dict[str, str | Text] = {
        "State": _state(connection),
        "Since": _minute(connection.since),
        **_paused(connection),
        "Why": for_user(connection.cause, connection.user.id),
        "What to do": for_user(connection.fix, connection.user.id) or "nothing",
        "Location": " ".join(filter(None, location)),
        "Scopes": connection.scope or "unknown",
        "Access token": f"private, entered {_minute(connection.refreshed_at)}"
        if connection.is_private
        else f"valid until {_minute(token_expires)}"
        if token_expires
        else "none",
        "Next refresh": (_minute(refresh) or "before it expires")
        if connection.state in LIVE_STATES and not connection.is_private
        else "none",
        "Last sync": _last_sync(status),
        "Message": for_user(status.message or "", connection.user.id) if status else "",
    }
    for name, value in rows.items():
        facts.add_row(Text(name, "dim"), value)
    console = _console()
    events = Table("When", "Event", "By", box=None, pad_edge=False)
    if is_wide := console.width >= _WIDE:
        events.add_column("Run", no_wrap=True)
    for entry in entries:
        run = [entry.run_id or ""] if is_wide else []
        events.add_row(f"{entry.at:%Y-%m-%d %H:%M:%S}Z", entry.sentence, entry.actor, *run)
    console.print(f"{connection.user.name}  {connection.user.id}\n", facts, "")
    console.print(events if entries else "No events yet.")


def _paused(connection: Connection) -> dict[str, str]:
    """When, where and why the syncs were paused, if they are."""
    pause = connection.pause
    if pause is None:
        return {}
    why = f": {pause.reason}" if pause.reason else ""
    return {"Syncs paused": f"{_minute(pause.since)}, {pause.by}{why}"}


def show_rows(rows: Sequence[DayResult]) -> None:
    """Print a row per user and outcome; days with the same outcome share a row."""
    table = Table("User", "State", "Days", "Calls", "New", "Changed", box=None)
    table.add_column("Message", min_width=_ID_WIDTH)
    colours = {DayState.COMPLETE: "green", DayState.FAILED: "red", DayState.WAITING: "yellow"}
    groups: dict[tuple[UUID, DayState, str], list[DayResult]] = {}
    for row in rows:
        groups.setdefault((row.user.id, row.state, row.message), []).append(row)
    for (user_id, state, message), group in groups.items():
        sums = [
            sum(counts) if state is DayState.COMPLETE else ""
            for counts in zip(
                *((row.stored or 0, row.new, row.changed) for row in group), strict=True
            )
        ]
        table.add_row(
            group[0].user.name,
            Text(state.value, colours.get(state, "")),
            span([row.day for row in group]),
            *map(str, sums),
            for_user(message, user_id),
        )
    _console().print(table)


def show_findings(findings: Sequence[Finding]) -> None:
    """Print a row per finding."""
    table = Table("", "Check", "Result", box=None, pad_edge=False)
    marks = {"ok": Text("ok", "green"), "warning": Text("!", "yellow"), "error": Text("x", "red")}
    for item in findings:
        table.add_row(marks[item.level], item.name, item.text)
    _console().print(table)


def outcome(result: Check) -> str:
    """The result of a connection test, in a sentence."""
    if result.failure is None and result.drift:
        return (
            f"Calls can be read, but differ from HighLevel's published schema ({result.drift}). "
            "No data are lost; please report it, because the API may be changing."
        )
    if result.failure is None:
        return "Calls can be read."
    return for_user(str(result.failure), result.connection.user.id)


def _console() -> Console:
    """A console that prints names literally, without markup or emoji codes.

    If the output is not a terminal, it is wide enough for whole sentences.
    """
    width = None if sys.stdout.isatty() else 1000
    return Console(width=width, markup=False, emoji=False, highlight=False)


def user_facts(connection: Connection, status: ledger.UserStatus | None) -> dict[str, Any]:
    """A user, for JSON."""
    return {
        "id": str(connection.user.id),
        "name": connection.user.name,
        "state": connection.status.value,
        "reason": connection.reason.value if connection.reason else None,
        "since": _iso(connection.since),
        "syncs_paused_since": _iso(connection.pause.since) if connection.pause else None,
        "syncs_paused_by": connection.pause.by if connection.pause else None,
        "syncs_paused_because": connection.pause.reason if connection.pause else None,
        "what_to_do": _what_to_do(connection),
        "location_id": connection.location_id,
        "location_name": connection.location_name,
        "token_expires_at": _iso(connection.token_expires_at),
        "scopes": connection.scope.split() if connection.scope else None,
        "last_sync_at": _iso(status.last_sync_at) if status else None,
        "last_sync_status": status.status if status else None,
        "last_sync_message": status.message if status else None,
        "records_synced": status.records_synced if status else None,
    }


def event_facts(entry: Entry) -> dict[str, Any]:
    """An event of a connection, for JSON."""
    return {
        "at": _iso(entry.at),
        "event": str(entry.event),
        "what": entry.sentence,
        "state": entry.state,
        "actor": entry.actor,
        "run_id": entry.run_id,
        "version_before": entry.version_before,
        "version_after": entry.version_after,
        "trace_id": entry.trace_id,
    }


def day_facts(row: DayResult) -> dict[str, Any]:
    """A user's day, for JSON."""
    return {
        "user_id": str(row.user.id),
        "user": row.user.name,
        "day": str(row.day),
        "state": row.state.value,
        "failure": row.failure.value if row.failure else None,
        "message": for_user(row.message, row.user.id),
        "calls": row.stored,
        "new": row.new,
        "changed": row.changed,
        "missing": row.missing,
    }


def _iso(instant: datetime | None) -> str | None:
    return instant.isoformat() if instant else None
