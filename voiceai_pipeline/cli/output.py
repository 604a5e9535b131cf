"""What the command line prints: tables and sentences for people, facts for JSON, a bar meanwhile.

Nothing is decided or changed here; only the bar reads, as the run goes on, how far it is.
"""

import contextlib
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from voiceai_pipeline.calls import ledger
from voiceai_pipeline.calls.day_status import span
from voiceai_pipeline.cli.doctor import Finding
from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.connections.connection_test import Check
from voiceai_pipeline.connections.history import Entry
from voiceai_pipeline.core.connection import LIVE_STATES, Connection, ConnectionState
from voiceai_pipeline.core.days import DayResult, DayState
from voiceai_pipeline.core.failures import for_user
from voiceai_pipeline.database.engine import database_now

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


def show_users(
    people: Sequence[Connection], statuses: Mapping[UUID, ledger.UserStatus] | None = None
) -> None:
    """A row per user, with how the last sync went where ``statuses`` are given."""
    columns = ("User", "Id", "State", "Since", "Location", "What to do")
    table = Table(*columns, box=None, pad_edge=False)
    if statuses is not None:
        table.add_column("Last sync")
    for person in people:
        cells: list[str | Text] = [
            person.user.name,
            str(person.user.id),
            Text(person.label, _COLOURS[person.status]),
            _minute(person.since),
            person.location_name or person.location_id or "",
            _what_to_do(person) or "",
        ]
        if statuses is not None:
            cells.append(_last_sync(statuses.get(person.user.id)))
        table.add_row(*cells)
    _console().print(table)


def _last_sync(status: ledger.UserStatus | None) -> str:
    if status is None or status.last_sync_at is None:
        return "never"
    return f"{_minute(status.last_sync_at)} {status.status}"


def _minute(instant: datetime | None) -> str:
    return f"{instant:%Y-%m-%d %H:%M}Z" if instant else ""


def _what_to_do(person: Connection) -> str | None:
    """Cause and fix; None for who is well, or is by themselves in a moment."""
    if person.can_sync and person.last_failure is None:
        return None
    return for_user(person.message, person.user.id)


def show_user(
    person: Connection, status: ledger.UserStatus | None, entries: Sequence[Entry]
) -> None:
    """One user: how they stand, and what happened since when."""
    facts = Table.grid(padding=(0, 2))
    token_ends, renewal = person.token_expires_at, person.refresh_at
    rows: dict[str, str | Text] = {
        "State": Text(person.label, _COLOURS[person.status]),
        "Since": _minute(person.since),
        "Why": for_user(person.cause, person.user.id),
        "What to do": for_user(person.fix, person.user.id) or "nothing",
        "Location": " ".join(
            filter(None, (person.location_name, person.location_id, person.location_timezone))
        ),
        "Scopes": person.scope or "unknown",
        "Access token": f"until {_minute(token_ends)}" if token_ends else "none",
        "Next renewal": (_minute(renewal) or "before it expires")
        if person.state in LIVE_STATES
        else "none",
        "Last sync": _last_sync(status),
        "Message": for_user(status.message or "", person.user.id) if status else "",
    }
    for name, value in rows.items():
        facts.add_row(Text(name, "dim"), value)
    events = Table("When", "What happened", "By", "Run", box=None, pad_edge=False)
    for entry in entries:
        events.add_row(
            f"{entry.at:%Y-%m-%d %H:%M:%S}Z", entry.sentence, entry.actor, entry.run_id or ""
        )
    console = _console()
    console.print(f"{person.user.name}  {person.user.id}\n", facts, "")
    console.print(events if entries else "Nothing has happened to this connection yet.")


def show_rows(rows: Sequence[DayResult]) -> None:
    """A row per user and outcome: seven days that went the same way are one row."""
    table = Table("User", "State", "Days", "Calls", "New", "Changed", "Message", box=None)
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
            Text(state.value, colours[state]),
            span([row.day for row in group]),
            *map(str, sums),
            for_user(message, user_id),
        )
    _console().print(table)


def show_findings(findings: Sequence[Finding]) -> None:
    """A row per thing examined."""
    table = Table("", "What", "Found", box=None, pad_edge=False)
    marks = {"ok": Text("ok", "green"), "warning": Text("!", "yellow"), "error": Text("x", "red")}
    for item in findings:
        table.add_row(marks[item.level], item.name, item.text)
    _console().print(table)


def outcome(result: Check) -> str:
    """How the test of a connection went, in a sentence."""
    if result.failure is None and result.drift:
        return (
            f"Calls can be read. They differ from what HighLevel publishes ({result.drift}): "
            "nothing is lost, but report it, for the API may be changing."
        )
    if result.failure is None:
        return "Calls can be read."
    return for_user(str(result.failure), result.connection.user.id)


def _console() -> Console:
    """Shows names as they are: what stands in brackets or colons is no markup.

    Wide enough for whole sentences where the output is not a terminal.
    """
    width = None if sys.stdout.isatty() else 1000
    return Console(width=width, markup=False, emoji=False, highlight=False)


def user_facts(person: Connection, status: ledger.UserStatus | None) -> dict[str, Any]:
    """A user, for JSON."""
    return {
        "id": str(person.user.id),
        "name": person.user.name,
        "state": person.status.value,
        "reason": person.reason.value if person.reason else None,
        "since": _iso(person.since),
        "what_to_do": _what_to_do(person),
        "location_id": person.location_id,
        "location_name": person.location_name,
        "token_expires_at": _iso(person.token_expires_at),
        "scopes": person.scope.split() if person.scope else None,
        "last_sync_at": _iso(status.last_sync_at) if status else None,
        "last_sync_status": status.status if status else None,
        "last_sync_message": status.message if status else None,
        "records_synced": status.records_synced if status else None,
    }


def event_facts(entry: Entry) -> dict[str, Any]:
    """What happened to a connection, for JSON."""
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


@contextmanager
def progress_bar(
    engine: sa.Engine, days: Sequence[date], user_ids: Sequence[UUID] | None
) -> Iterator[None]:
    """A bar that follows the ledger while the run fills it."""
    with engine.begin() as db:
        people = connections.all_connections(db, user_ids)
        since = database_now(db)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    done = threading.Event()
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("User days", total=len(people) * len(days))

        def follow() -> None:
            while not done.wait(0.5):
                update()

        def update() -> int:
            with contextlib.suppress(sa.exc.SQLAlchemyError), engine.begin() as db:
                rows = ledger.results(db, days=days, user_ids=user_ids)
                finished = sum(1 for row in rows if row.finished_at and row.finished_at >= since)
                progress.update(task, completed=finished)
                return finished
            return 0

        follower = threading.Thread(target=follow, daemon=True)
        follower.start()
        try:
            yield
        finally:
            done.set()
            follower.join()
            # Days that were complete before are not read again: the bar ends with those that were.
            progress.update(task, total=update())
