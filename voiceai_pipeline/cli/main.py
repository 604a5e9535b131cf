"""The command line: ``voiceai-pipeline``. Parses, calls the core, prints; decides nothing.

Exit codes: 0 done, 1 it failed (the text says why and what to do), 2 the words were wrong.
"""

import contextlib
import json
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Final

import click
import dotenv
import sqlalchemy as sa
from alembic.util import CommandError

from voiceai_pipeline.calls import ledger
from voiceai_pipeline.calls.sync import SyncRequestError
from voiceai_pipeline.cli import doctor as examinations
from voiceai_pipeline.cli import oauth_callback
from voiceai_pipeline.cli import output as printing
from voiceai_pipeline.cli import up as everything
from voiceai_pipeline.cli.supervisor import ChildError
from voiceai_pipeline.connections import history
from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.connections.consent import ChooseLocationError, ConsentError
from voiceai_pipeline.connections.history import Actor
from voiceai_pipeline.connections.queries import UnknownUserError
from voiceai_pipeline.core.connection import Connection
from voiceai_pipeline.core.days import DayState
from voiceai_pipeline.core.failures import PipelineError
from voiceai_pipeline.core.settings import Settings
from voiceai_pipeline.core.settings_parsing import SettingsError
from voiceai_pipeline.database import engine as database_engine
from voiceai_pipeline.database import grants, migrate
from voiceai_pipeline.database.embedded_server import PostgresError
from voiceai_pipeline.marts import extracts
from voiceai_pipeline.marts.export import ExportError, Format, Order, export
from voiceai_pipeline.pipeline import Pipeline, open_database, open_pipeline

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
        _fail(database_engine.database_sentence(error))
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
    redirect_uri = _settings().highlevel.redirect_uri
    with _pipeline() as pipeline:
        person = _find(pipeline.engine, user)
        begun = pipeline.consent.begin(person.user.id, location)
        click.echo(f"Give consent for {person.user.name} here:\n\n  {begun.url}\n")
        oauth_callback.follow(pipeline.consent, begun, redirect_uri, open_browser=not no_browser)
        after = _find(pipeline.engine, str(person.user.id))
    printing.show_users([after])
    if after.obstacle:
        sys.exit(1)


@cli.command()
@click.argument("user")
@click.confirmation_option(prompt="This destroys the stored tokens; the calls stay. Disconnect?")
def disconnect(user: str) -> None:
    """Destroy USER's tokens. The user stays listed, the calls stay stored."""
    with _pipeline() as pipeline:
        after = pipeline.consent.disconnect(_find(pipeline.engine, user).user.id)
    printing.show_users([after])


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
            people = [person] if person else connections.all_connections(db)
    if person and as_json:
        facts = printing.user_facts(person, statuses.get(person.user.id))
        click.echo(
            json.dumps({**facts, "history": [printing.event_facts(e) for e in entries]}, indent=2)
        )
    elif person:
        printing.show_user(person, statuses.get(person.user.id), entries)
    elif as_json:
        click.echo(
            json.dumps([printing.user_facts(p, statuses.get(p.user.id)) for p in people], indent=2)
        )
    else:
        printing.show_users(people, statuses)


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
            **printing.user_facts(result.connection, None),
            "ok": result.failure is None,
            "failure": result.failure.failure.value if result.failure else None,
            "message": printing.outcome(result),
        }
        click.echo(json.dumps(facts, indent=2))
    else:
        printing.show_users([result.connection])
        click.echo(printing.outcome(result))
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
        from voiceai_pipeline.cli import launch

        days = launch.days_between(first, last, datetime.now(pipeline.zone).date())
        with printing.progress_bar(pipeline.engine, days, wanted):
            error = launch.sync_calls(days, wanted, only_failed=only_failed)
        with pipeline.engine.begin() as db:
            rows = ledger.results(db, days=days, user_ids=wanted)
    if as_json:
        click.echo(json.dumps([printing.day_facts(row) for row in rows], indent=2))
    else:
        printing.show_rows(rows)
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
        printing.show_findings(report.findings)
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
        people = connections.all_connections(db)
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


if __name__ == "__main__":
    main()
