"""The command line: ``voiceai-pipeline``. Parses, calls the core, prints; decides nothing.

Exit codes: 0 done, 1 it failed (the text says why and what to do), 2 the words were wrong.
"""

import contextlib
import http.server
import json
import os
import queue
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit
from urllib.request import urlopen
from uuid import UUID

import click
import dotenv
import sqlalchemy as sa
from alembic.util import CommandError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from voiceai_pipeline import doctor as examinations
from voiceai_pipeline import up as everything
from voiceai_pipeline.consent import CONNECTED, Begun, ChooseLocationError, ConsentError
from voiceai_pipeline.day_report import span
from voiceai_pipeline.export import ExportError, Format, Order, export
from voiceai_pipeline.models import (
    LIVE_STATES,
    Connection,
    ConnectionState,
    DayResult,
    DayState,
    PipelineError,
    Secret,
    for_user,
)
from voiceai_pipeline.pipeline import Pipeline, open_database, open_pipeline
from voiceai_pipeline.postgres import PostgresError
from voiceai_pipeline.settings import Settings, SettingsError
from voiceai_pipeline.storage import connections, extracts, grants, history, ledger, migrate
from voiceai_pipeline.storage.history import Actor, Entry
from voiceai_pipeline.supervisor import ChildError
from voiceai_pipeline.sync import SyncRequestError
from voiceai_pipeline.tokens import Check, UnknownUserError

_CALLBACK_TIMEOUT: Final = 600.0
"""Seconds a person has to give consent in the browser."""

_NOBODY_CAME: Final = (
    "Nobody gave consent within 10 minutes; nothing was changed. Run the command again."
)

_EVENTS: Final = 30
"""How much of a user's history is shown."""

_EXPECTED = (
    ChildError,
    ChooseLocationError,
    ConsentError,
    ExportError,
    PipelineError,
    PostgresError,
    SettingsError,
    SyncRequestError,
    UnknownUserError,
    everything.UpError,
    migrate.IncompatibleDatabaseError,
)


def main() -> None:
    """Entry point; turns what can be expected to fail into a sentence and exit code 1."""
    # Dagster's programs read the same file; what the environment says already wins.
    dotenv.load_dotenv(".env")
    try:
        cli.main(prog_name="voiceai-pipeline", standalone_mode=False)
    except click.Abort:
        _fail("Cancelled.", code=130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except _EXPECTED as error:
        _fail(str(error))
    except sa.exc.DBAPIError as error:
        _fail(examinations.database_sentence(error))
    except CommandError:
        _fail(
            "The database was migrated by a newer version of this program. Update the program: "
            "git pull, then make up."
        )


def _fail(message: str, code: int = 1) -> None:
    click.echo(f"Error: {message}", err=True)
    sys.exit(code)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """HighLevel Voice AI call logs, complete and on time, in PostgreSQL.

    USER is a user's id or, where only one has it, a name. Settings come from the environment; see
    .env.example.
    """


@cli.command()
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    default=3000,
    show_default=True,
    help="Port of the Dagster webserver.",
)
def up(port: int) -> None:
    """Start everything and keep it running until Ctrl-C."""
    started = datetime.now(UTC)

    def tell(line: str) -> None:
        seconds = (datetime.now(UTC) - started).total_seconds()
        # Who listened may have gone: a closed terminal or pipe must not keep it from tidying up.
        with contextlib.suppress(OSError):
            click.echo(f"{seconds:6.1f}s  {line}" if line else "")

    with contextlib.suppress(KeyboardInterrupt):
        everything.run(_settings(), port, tell)


@cli.command()
@click.argument("user")
@click.option("--location", help="Which location of an agency (its id).")
@click.option("--no-browser", is_flag=True, help="Only print the address; do not open it.")
def connect(user: str, location: str | None, no_browser: bool) -> None:
    """Connect or reconnect USER: consent in the browser, then the calls come by themselves."""
    with _pipeline() as pipeline:
        person = _find(pipeline.engine, user)
        begun = pipeline.consent.begin(person.user.id, location)
        click.echo(f"Give consent for {person.user.name} here:\n\n  {begun.url}\n")
        after = _consent(pipeline, person, begun, open_browser=not no_browser)
    _show([after])
    if after.obstacle:
        sys.exit(1)


@cli.command()
@click.argument("user")
@click.confirmation_option(prompt="This destroys the stored tokens; the calls stay. Disconnect?")
def disconnect(user: str) -> None:
    """Destroy USER's tokens. The user stays listed, the calls stay stored."""
    with _pipeline() as pipeline:
        after = pipeline.consent.disconnect(_find(pipeline.engine, user).user.id)
    _show([after])


@cli.command()
@click.argument("user", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def users(user: str | None, as_json: bool) -> None:
    """List everyone: how they are connected, what to do, and how their last sync went.

    With USER, show one, and what happened to the connection and when.
    """
    with _database() as engine:
        person = _find(engine, user) if user else None
        with engine.begin() as db:
            statuses = ledger.statuses(db, [person.user.id] if person else None)
            entries = history.of_user(db, person.user.id, _EVENTS) if person else []
            people = [person] if person else connections.everyone(db)
    if person and as_json:
        facts = _as_json(person, statuses.get(person.user.id))
        click.echo(json.dumps({**facts, "history": [_event(e) for e in entries]}, indent=2))
    elif person:
        _show_person(person, statuses.get(person.user.id), entries)
    elif as_json:
        click.echo(json.dumps([_as_json(p, statuses.get(p.user.id)) for p in people], indent=2))
    else:
        _show(people, statuses)


@cli.command()
@click.argument("user")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check(user: str, as_json: bool) -> None:
    """Test USER's connection for real: renew the token if due and read calls with it."""
    with _pipeline() as pipeline:
        person = _find(pipeline.engine, user)
        result = pipeline.tokens.check(person.user.id)
    if as_json:
        facts = {
            **_as_json(result.connection, None),
            "ok": result.failure is None,
            "failure": result.failure.failure.value if result.failure else None,
            "message": _outcome(result),
        }
        click.echo(json.dumps(facts, indent=2))
    else:
        _show([result.connection])
        click.echo(_outcome(result))
    if result.failure:
        sys.exit(1)


@cli.command()
@click.option("--user", "names", multiple=True, metavar="USER", help="Only USER; repeatable.")
@click.option("--start", required=True, metavar="YYYY-MM-DD", help="First day.")
@click.option("--end", metavar="YYYY-MM-DD", help="Last day, included; default: the first day.")
@click.option("--only-failed", is_flag=True, help="Only users whose day is not complete.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def sync(
    names: Sequence[str], start: str, end: str | None, only_failed: bool, as_json: bool
) -> None:
    """Sync days now, as a Dagster run that shows in the UI."""
    first, last = _range("--start", start, "--end", end)
    with _pipeline() as pipeline, everything.dagster_environment(_settings()) as env:
        wanted = [_find(pipeline.engine, name).user.id for name in names] or None
        os.environ.update(env)
        # Dagster's notes that a parameter is beta are for us, not for whoever runs this.
        warnings.simplefilter("ignore")
        # Imported late: it takes seconds, and the partitions depend on the environment.
        from voiceai_pipeline.defs import launch

        days = launch.days_between(first, last, datetime.now(pipeline.zone).date())
        with _progress(pipeline, days, wanted):
            error = launch.sync_calls(days, wanted, only_failed=only_failed)
        with pipeline.engine.begin() as db:
            rows = ledger.results(db, days=days, user_ids=wanted)
    if as_json:
        click.echo(json.dumps([_row_as_json(row) for row in rows], indent=2))
    else:
        _show_rows(rows)
    if error or any(row.state is DayState.FAILED for row in rows):
        _fail(error or "Some syncs failed; the table says who and why.")


@cli.command("export")
@click.argument("what", type=click.Choice([extracts.CALLS, *extracts.MART_NAMES]))
@click.option("--from", "start", required=True, metavar="YYYY-MM-DD", help="First day.")
@click.option("--to", "end", metavar="YYYY-MM-DD", help="Last day, included; default: the first.")
@click.option(
    "--user", "names", multiple=True, metavar="USER", help="Only USER's location; repeatable."
)
@click.option(
    "--format",
    "format_name",
    type=click.Choice([one.value for one in Format]),
    help="Default: what FILE ends with, else csv.",
)
@click.option("--include-trial", is_flag=True, help="With test calls.")
@click.option("--include-missing", is_flag=True, help="With calls HighLevel no longer lists.")
@click.option("--content", is_flag=True, help="With numbers, transcripts, summaries, data.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    metavar="FILE",
    help="Where to; default: standard output (csv).",
)
def export_command(
    what: str,
    start: str,
    end: str | None,
    names: Sequence[str],
    format_name: str | None,
    include_trial: bool,
    include_missing: bool,
    content: bool,
    output: Path | None,
) -> None:
    """Write calls, or a table of metrics, to a CSV or Parquet file.

    Days are those of VOICEAI_TIMEZONE for calls, and the location's own for metrics. Times are UTC.
    Test calls and calls that HighLevel no longer lists are left out, as in every metric, and so is
    what was said and by whom, unless you ask for them. A file that is there is never overwritten;
    one with content is readable by you alone.

    \b
    voiceai-pipeline export calls --from 2026-11-01 --to 2026-11-07 -o week.parquet
    """
    first, last = _range("--from", start, "--to", end)
    if what != extracts.CALLS and (include_trial or include_missing or content):
        raise click.UsageError(
            "--include-trial, --include-missing and --content are for calls: metrics count none of "
            "these, and tell beside how many there are."
        )
    file = None if output is None or str(output) == "-" else output
    guess = Format.PARQUET if file and file.suffix == ".parquet" else Format.CSV
    format_ = Format(format_name) if format_name else guess
    if file is None and format_ is Format.PARQUET:
        raise click.UsageError("Parquet needs a file: -o FILE.parquet.")
    settings = _settings()
    with open_database(settings, pool_size=1) as engine:
        people = [_find(engine, name) for name in names]
        homeless = [person.user.name for person in people if not person.location_id]
        if homeless:
            _fail(f"{', '.join(homeless)}: no location yet, so no calls. Nothing was written.")
        order = Order(
            what,
            first,
            last,
            settings.timezone,
            {str(person.location_id) for person in people} if people else None,
            trial=include_trial,
            missing=include_missing,
            content=content,
        )
        try:
            count = export(engine, order, format_, file or sys.stdout.buffer)
        except BrokenPipeError:
            # Whoever read it has seen enough; nothing must be flushed there at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
    rows = "calls" if what == extracts.CALLS else "rows"
    place = f" to {file}" if file else ""
    days = str(first) if first == last else f"{first} to {last}"
    click.echo(f"Wrote {count:,} {rows} of {days}{place}.", err=True)


@cli.command("migrate")
@click.option("--check", "only_check", is_flag=True, help="Change nothing; exit 1 if one is due.")
@click.option("--sql", "only_sql", is_flag=True, help="Print the SQL instead of running it.")
def migrate_command(only_check: bool, only_sql: bool) -> None:
    """Create or adopt the tables; make the views and roles for analysts.

    An existing database of the source system is kept as it is. Safe to repeat.
    """
    if only_sql:
        click.echo(migrate.upgrade_sql())
        return
    with _database() as engine:
        with engine.begin() as db:
            before = migrate.current(db)
        if only_check and before != migrate.head():
            _fail(
                f"A migration is due: {before or 'none'} to {migrate.head()}. "
                "Run: voiceai-pipeline migrate"
            )
        if not only_check:
            migrate.upgrade(engine)
        if before == migrate.head():
            click.echo(f"The database is up to date (revision {before}).")
        else:
            click.echo(f"Migrated from {before or 'nothing'} to {migrate.head()}.")
        with engine.begin() as db:
            missing = grants.missing_roles(db)
        if missing:
            click.echo(grants.how_to_make(missing))


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with the database's URL.")
def doctor(as_json: bool) -> None:
    """Examine the installation: database, versions, scopes, keys, clock; say what to mend."""
    report = examinations.examine(os.environ)
    if as_json:
        click.echo(json.dumps(report.as_json(), indent=2))
    else:
        table = Table("", "What", "Found", box=None, pad_edge=False)
        marks = {
            "ok": Text("ok", "green"),
            "warning": Text("!", "yellow"),
            "error": Text("x", "red"),
        }
        for item in report.findings:
            table.add_row(marks[item.level], item.name, item.text)
        _console().print(table)
    if report.has_errors:
        sys.exit(1)


# Opening -----------------------------------------------------------------------------------------


def _settings() -> Settings:
    return Settings.load(os.environ)


@contextmanager
def _pipeline() -> Iterator[Pipeline]:
    with open_pipeline(_settings(), actor=Actor("command line")) as pipeline:
        yield pipeline


@contextmanager
def _database() -> Iterator[sa.Engine]:
    with open_database(_settings(), pool_size=1) as engine:
        yield engine


def _find(engine: sa.Engine, name: str) -> Connection:
    """The user of that id, or the only one of that name."""
    with engine.begin() as db:
        people = connections.everyone(db)
    found = [p for p in people if name.lower() in (str(p.user.id), p.user.name.lower())]
    if len(found) == 1:
        return found[0]
    if found:
        ids = ", ".join(str(person.user.id) for person in found)
        raise UnknownUserError(f"{len(found)} users are called {name!r}; use an id: {ids}")
    raise UnknownUserError(f"No user {name!r}. List the users with: voiceai-pipeline users")


def _range(start_option: str, start: str, end_option: str, end: str | None) -> tuple[date, date]:
    """The first day and the last, both included."""
    first, last = _day(start, start_option), _day(end or start, end_option)
    if first > last:
        raise click.UsageError(f"{start_option} {first} lies after {end_option} {last}.")
    return first, last


def _day(text: str, option: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise click.UsageError(f"{option} {text!r} is no day; write it as YYYY-MM-DD.") from None


# Consent -----------------------------------------------------------------------------------------


def _consent(
    pipeline: Pipeline, person: Connection, begun: Begun, *, open_browser: bool
) -> Connection:
    """See a consent through: HighLevel's redirect is caught on loopback where it leads there, by
    this program or by the Connections page that listens already; else its address is pasted.

    Codes are secrets: they are never an argument.
    """
    redirect_uri = _settings().highlevel.redirect_uri
    target = urlsplit(redirect_uri)
    if target.hostname not in ("127.0.0.1", "localhost") or not target.port:
        if open_browser:
            click.launch(begun.url)
        pasted = click.prompt("Paste the address you were sent to", hide_input=True)
        query: Mapping[str, list[str]] = parse_qs(urlsplit(pasted.strip()).query)
    elif _is_connections_page(f"http://{target.netloc}/health"):
        if open_browser:
            click.launch(begun.url)
        return _wait_for_page(pipeline, person, begun)
    else:
        query = _catch_redirect(
            target.hostname, target.port, target.path, begun.url if open_browser else None
        )
    state, code, error = (query.get(name, [""])[0] for name in ("state", "code", "error"))
    if state != begun.state.reveal():
        raise ConsentError(
            "That is not the answer to this request (another state, or none). Nothing was changed; "
            "run the command again and use the new address."
        )
    return pipeline.consent.finish(begun.state, Secret(code) if code else None, error or None)


def _is_connections_page(url: str) -> bool:
    try:
        with urlopen(url, timeout=2) as answer:  # noqa: S310 - loopback, from our own settings
            return b"voiceai-pipeline connections" in answer.read(200)
    except (OSError, ValueError):
        return False


def _wait_for_page(pipeline: Pipeline, person: Connection, begun: Begun) -> Connection:
    """The page takes the redirect and finishes the consent; the database tells how it ended."""
    deadline = time.monotonic() + _CALLBACK_TIMEOUT
    while (outcome := pipeline.consent.outcome(begun.state)) is None:
        if time.monotonic() > deadline:
            raise ConsentError(_NOBODY_CAME)
        time.sleep(0.5)
    if outcome != CONNECTED:
        raise ConsentError(outcome)
    return _find(pipeline.engine, str(person.user.id))


def _catch_redirect(
    host: str, port: int, path: str, open_url: str | None
) -> Mapping[str, list[str]]:
    answers: queue.Queue[Mapping[str, list[str]]] = queue.Queue()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = urlsplit(self.path)
            query = parse_qs(asked.query)
            if asked.path != path or not query:
                self.send_error(404)
                return
            body = b"Received. The terminal says how it went; you can close this page."
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            answers.put(query)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: the request line holds the code."""

    try:
        # A thread per connection: browsers open some in advance and send nothing on them.
        server = http.server.ThreadingHTTPServer((host, port), Handler)
    except OSError as error:
        raise click.ClickException(
            f"{host}:{port}, where HIGHLEVEL_REDIRECT_URI leads, cannot be listened on "
            f"({error.strerror}). Stop the program that uses it, or change the variable."
        ) from error
    with server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        if open_url:
            click.launch(open_url)
        try:
            return answers.get(timeout=_CALLBACK_TIMEOUT)
        except queue.Empty:
            raise ConsentError(_NOBODY_CAME) from None
        finally:
            server.shutdown()


# Printing ----------------------------------------------------------------------------------------

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


def _show(
    people: Sequence[Connection], statuses: Mapping[UUID, ledger.UserStatus] | None = None
) -> None:
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


def _show_person(
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


def _show_rows(rows: Sequence[DayResult]) -> None:
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


def _outcome(result: Check) -> str:
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


def _as_json(person: Connection, status: ledger.UserStatus | None) -> dict[str, Any]:
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


def _event(entry: Entry) -> dict[str, Any]:
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


def _row_as_json(row: DayResult) -> dict[str, Any]:
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
def _progress(
    pipeline: Pipeline, days: Sequence[date], user_ids: Sequence[UUID] | None
) -> Iterator[None]:
    """A bar that follows the ledger while the run fills it."""
    with pipeline.engine.begin() as db:
        people = connections.everyone(db, user_ids)
        since = db.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
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
            with contextlib.suppress(sa.exc.SQLAlchemyError), pipeline.engine.begin() as db:
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


if __name__ == "__main__":
    main()
