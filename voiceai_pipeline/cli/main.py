"""The command line, ``voiceai-pipeline``: parses, calls the pipeline, prints; decides nothing.

Exit codes: 0 success, 1 failure (stderr says why and what to do), 2 wrong usage.
"""

import contextlib
import json
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import click
import sqlalchemy as sa
from alembic.util import CommandError

from voiceai_pipeline.calls import ledger, stored_redaction
from voiceai_pipeline.cli import doctor as diagnosis
from voiceai_pipeline.cli import oauth_callback, output
from voiceai_pipeline.cli import up as running
from voiceai_pipeline.cli.arguments import day_range, entered_token, find_user
from voiceai_pipeline.cli.export_command import export_command
from voiceai_pipeline.cli.keys_command import keys_command
from voiceai_pipeline.cli.preflight import UpError
from voiceai_pipeline.cli.progress import progress_bar, rows_bar
from voiceai_pipeline.cli.signals import stop_on_hangup
from voiceai_pipeline.cli.supervisor import ChildError
from voiceai_pipeline.connections import history
from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.connections.consent_errors import (
    NO_APP_VERSION,
    ChooseLocationError,
    ConsentError,
)
from voiceai_pipeline.connections.history import Actor
from voiceai_pipeline.connections.private_tokens import PrivateTokenError
from voiceai_pipeline.connections.queries import UnknownUserError
from voiceai_pipeline.core import env_file
from voiceai_pipeline.core.days import DaysError, DayState
from voiceai_pipeline.core.failures import PipelineError
from voiceai_pipeline.core.settings import Settings
from voiceai_pipeline.core.settings_parsing import SettingsError
from voiceai_pipeline.core.unexpected import unexpected
from voiceai_pipeline.database import engine as database_engine
from voiceai_pipeline.database import grants, migrate
from voiceai_pipeline.database.embedded_server import PostgresError
from voiceai_pipeline.marts.export import ExportError
from voiceai_pipeline.pipeline import Pipeline, open_database, open_pipeline

_EVENTS: Final = 30
"""How many events of a user's history are shown."""

_EXPECTED = (
    ChildError,
    ChooseLocationError,
    ConsentError,
    DaysError,
    ExportError,
    PipelineError,
    PostgresError,
    PrivateTokenError,
    SettingsError,
    UnknownUserError,
    UpError,
    migrate.IncompatibleDatabaseError,
)


def main() -> None:
    """Entry point: turns failures into one sentence and an exit code; a bug leaves its frames."""
    try:
        env_file.load()  # Dagster's programs read the same file
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
    except Exception as error:
        _fail(str(unexpected(error)))


def _fail(message: str, code: int = 1) -> None:
    click.echo(f"Error: {message}", err=True)
    sys.exit(code)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """HighLevel Voice AI call logs, complete and on time, in PostgreSQL.

    USER is a user's id, or a name that only one user has. Settings come from the environment; see
    .env.example.
    """


cli.add_command(export_command)
cli.add_command(keys_command)


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

    def report(line: str) -> None:
        seconds = (datetime.now(UTC) - started).total_seconds()
        # The terminal or pipe may be closed by now, which must not stop the cleanup.
        with contextlib.suppress(OSError):
            click.echo(f"{seconds:6.1f}s  {line}" if line else "")

    with contextlib.suppress(KeyboardInterrupt):
        running.run(_settings(), port, report)


@cli.command()
@click.argument("user")
@click.option("--location", help="Id of the location: of an agency, or of a private token.")
@click.option(
    "--private-token",
    is_flag=True,
    help="Connect a location of your own with a private integration token instead of an app. It is "
    "asked for, or read from standard input: token and location id on a line each.",
)
@click.option("--no-browser", is_flag=True, help="Print the URL; do not open it.")
def connect(user: str, location: str | None, private_token: bool, no_browser: bool) -> None:
    """Connect or reconnect USER in the browser, or with a private integration token.

    After consent, calls are synced automatically.
    """
    settings = _settings()
    with _pipeline() as pipeline:
        before = find_user(pipeline.engine, user)
        if private_token:
            token, where = entered_token(location)
            output.show_users([pipeline.private_tokens.connect(before.user.id, token, where)])
            return
        begun = pipeline.consent.begin(before.user.id, location)
        click.echo(f"Give consent for {before.user.name} here:\n\n  {begun.url}\n")
        if not settings.highlevel.is_sandbox:
            click.echo(f"{NO_APP_VERSION}\n", err=True)
        oauth_callback.follow(
            pipeline.consent,
            begun,
            before.user,
            settings.highlevel.redirect_uri,
            open_browser=not no_browser,
        )
        after = find_user(pipeline.engine, str(before.user.id))
    output.show_users([after])
    if after.obstacle:
        sys.exit(1)


@cli.command()
@click.argument("user")
@click.confirmation_option(prompt="This deletes the stored tokens; all calls are kept. Disconnect?")
def disconnect(user: str) -> None:
    """Delete USER's tokens. The user and all calls are kept."""
    with _pipeline() as pipeline:
        after = pipeline.consent.disconnect(find_user(pipeline.engine, user).user.id)
    output.show_users([after])


@cli.command()
@click.argument("user", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def users(user: str | None, as_json: bool) -> None:
    """List all users: connection state, what to do, and last sync.

    With USER, show that user in detail, with the history of the connection.
    """
    with _database() as engine:
        one = find_user(engine, user) if user else None
        with engine.begin() as db:
            statuses = ledger.statuses(db, [one.user.id] if one else None)
            entries = history.of_user(db, one.user.id, _EVENTS) if one else []
            listed = [one] if one else connections.all_connections(db)
    facts = [output.user_facts(each, statuses.get(each.user.id)) for each in listed]
    if one and as_json:
        events = [output.event_facts(entry) for entry in entries]
        _print_json({**facts[0], "history": events})
    elif one:
        output.show_user(one, statuses.get(one.user.id), entries)
    elif as_json:
        _print_json(facts)
    else:
        output.show_users(listed, statuses)


@cli.command()
@click.argument("user")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check(user: str, as_json: bool) -> None:
    """Test USER's connection.

    Refreshes the token if it is due, then reads calls with it.
    """
    with _pipeline() as pipeline:
        result = pipeline.tokens.check(find_user(pipeline.engine, user).user.id)
    if as_json:
        _print_json(
            {
                **output.user_facts(result.connection, None),
                "ok": result.failure is None,
                "failure": result.failure.failure.value if result.failure else None,
                "message": output.outcome(result),
            }
        )
    else:
        output.show_users([result.connection])
        click.echo(output.outcome(result))
    if result.failure:
        sys.exit(1)


@cli.command()
@click.option("--user", "names", multiple=True, metavar="USER", help="Only USER; repeatable.")
@click.option("--start", required=True, metavar="YYYY-MM-DD", help="First day.")
@click.option("--end", metavar="YYYY-MM-DD", help="Last day, inclusive; default: the first.")
@click.option("--only-failed", is_flag=True, help="Only users whose day is not complete.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def sync(
    names: Sequence[str], start: str, end: str | None, only_failed: bool, as_json: bool
) -> None:
    """Sync days now, as a Dagster run that shows in the UI."""
    first, last = day_range("--start", start, "--end", end)
    stop_on_hangup()
    with _pipeline() as pipeline, running.dagster_environment(_settings()) as env:
        wanted = [find_user(pipeline.engine, name).user.id for name in names] or None
        os.environ.update({**env, "DAGSTER_HOME": _dagster_home() or env["DAGSTER_HOME"]})
        # Dagster's beta warnings are for developers.
        warnings.simplefilter("ignore")
        # Imported late: it takes seconds, and the partitions depend on the environment.
        from voiceai_pipeline.cli import launch

        days = launch.days_between(first, last, datetime.now(pipeline.zone).date())
        with progress_bar(pipeline.engine, days, wanted):
            error = launch.sync_calls(pipeline.engine, days, wanted, only_failed=only_failed)
        with pipeline.engine.begin() as db:
            rows = ledger.results(db, days=days, user_ids=wanted)
    if as_json:
        _print_json([output.day_facts(row) for row in rows])
    else:
        output.show_rows(rows)
    if error or any(row.state is DayState.FAILED for row in rows):
        _fail(error or "Some syncs failed; the table shows which users and why.")


@cli.command("migrate")
@click.option("--check", "only_check", is_flag=True, help="Change nothing; exit 1 if pending.")
@click.option("--sql", "only_sql", is_flag=True, help="Print the SQL instead of running it.")
def migrate_command(only_check: bool, only_sql: bool) -> None:
    """Create or adopt the tables.

    Creates the views and roles for analysts, too. The data of an existing database of the source
    system are kept. Calls that an older version stored are redacted by today's rules. Safe to
    repeat, and to stop.
    """
    if only_sql:
        click.echo(migrate.upgrade_sql())
        return
    with _database() as engine:
        with engine.begin() as db:
            before = migrate.current(db)
        if only_check and before != migrate.head():
            _fail(
                f"A migration is pending: {before or 'none'} to {migrate.head()}. "
                "Run: voiceai-pipeline migrate"
            )
        if only_check and _is_redaction_pending(engine):
            _fail(
                "Rows that an older version stored are not redacted by today's rules yet. "
                "Run: voiceai-pipeline migrate"
            )
        if not only_check:
            migrate.upgrade(engine)
            with rows_bar("Redacting") as show:
                redacted = stored_redaction.redact_again(engine, show)
            if redacted:
                click.echo(f"Redacted {redacted:,} rows that an older version had stored.")
        if before == migrate.head():
            click.echo(f"The database is up to date (revision {before}).")
        else:
            click.echo(f"Migrated from {before or 'nothing'} to {migrate.head()}.")
        with engine.begin() as db:
            missing = grants.missing_roles(db)
        if missing:
            click.echo(grants.missing_roles_text(missing))


def _is_redaction_pending(engine: sa.Engine) -> bool:
    with engine.begin() as db:
        return stored_redaction.is_pending(db)


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON, including the database URL.")
def doctor(as_json: bool) -> None:
    """Check the installation and say what to fix.

    Checks versions, settings, HighLevel, database, clock, scopes, keys and more.
    """
    report = diagnosis.examine(os.environ)
    if as_json:
        _print_json(report.as_json())
    else:
        output.show_findings(report.findings)
    if report.has_errors:
        sys.exit(1)


def _print_json(facts: object) -> None:
    click.echo(json.dumps(facts, indent=2))


def _settings() -> Settings:
    return Settings.load(os.environ)


def _dagster_home() -> str:
    """The caller's Dagster instance, so that a sync shows in the UI that they look at."""
    home = os.environ.get("DAGSTER_HOME", "")
    if home and not (Path(home) / "dagster.yaml").is_file():
        raise SettingsError(
            f"DAGSTER_HOME is {home}, where there is no dagster.yaml. Set it to the folder of your "
            "dagster.yaml, or unset it to use the instance of `make up`."
        )
    return home


@contextmanager
def _pipeline() -> Iterator[Pipeline]:
    with open_pipeline(_settings(), actor=Actor("command line")) as pipeline:
        yield pipeline


@contextmanager
def _database() -> Iterator[sa.Engine]:
    with open_database(_settings(), pool_size=1) as engine:
        yield engine


if __name__ == "__main__":
    main()
