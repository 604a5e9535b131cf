"""The command line, ``voiceai-pipeline``: parses, calls the pipeline, prints; decides nothing.

Exit codes: 0 success, 1 failure (stderr says why and what to do), 2 wrong usage, 130 interrupted.
"""

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

import click
import sqlalchemy as sa
from alembic.util import CommandError

from voiceai_pipeline.calls import ledger, stored_redaction
from voiceai_pipeline.cli import doctor as diagnosis
from voiceai_pipeline.cli import oauth_callback, output
from voiceai_pipeline.cli import up as running
from voiceai_pipeline.cli.arguments import (
    added_user,
    day_range,
    entered_token,
    find_user,
    from_option,
    json_option,
    new_option,
    private_token_option,
    to_option,
)
from voiceai_pipeline.cli.backup_command import backup_command, restore_command
from voiceai_pipeline.cli.existing_data import NoDataError, require_data
from voiceai_pipeline.cli.export_command import export_command
from voiceai_pipeline.cli.keys_command import keys_command
from voiceai_pipeline.cli.pause_command import pause_command, resume_command
from voiceai_pipeline.cli.preflight import UpError
from voiceai_pipeline.cli.progress import progress_bar
from voiceai_pipeline.cli.signals import stop_on_hangup
from voiceai_pipeline.cli.stored_rows import change_stored_rows
from voiceai_pipeline.cli.supervisor import ChildError
from voiceai_pipeline.connections import history
from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.connections.consent_errors import (
    NO_APP,
    NO_APP_VERSION,
    ChooseLocationError,
    ConsentError,
)
from voiceai_pipeline.connections.history import Actor
from voiceai_pipeline.connections.new_users import NewUserError
from voiceai_pipeline.connections.private_tokens import PrivateTokenError
from voiceai_pipeline.connections.queries import UnknownUserError
from voiceai_pipeline.core import env_file, installation
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
    NewUserError,
    NoDataError,
    PipelineError,
    PostgresError,
    PrivateTokenError,
    SettingsError,
    UnknownUserError,
    UpError,
    migrate.IncompatibleDatabaseError,
)


def main() -> None:
    """Entry point: turns failures into a sentence and an exit code; a bug is logged with frames."""
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
            f"{installation.UPDATE}."
        )
    except Exception as error:
        _fail(str(unexpected(error)))


def _fail(message: str, code: int = 1) -> None:
    output.say(f"Error: {message}", err=True)
    sys.exit(code)


_COMPLETION: Final = """\b
Tab completion, in ~/.bashrc (in ~/.zshrc: zsh_source):
  eval "$(_VOICEAI_PIPELINE_COMPLETE=bash_source voiceai-pipeline)"
"""


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, epilog=_COMPLETION)
@click.version_option(package_name="voiceai-pipeline", message="%(prog)s %(version)s")
def cli() -> None:
    """HighLevel Voice AI call logs, complete and on time, in PostgreSQL.

    USER is a user's id, or a name that only one user has. Settings come from the environment or
    a file .env in this folder. Exit codes: 0 success, 1 failure, 2 wrong usage, 130 interrupted.
    """


for _command in (backup_command, export_command, keys_command, pause_command, restore_command):
    cli.add_command(_command)
cli.add_command(resume_command)


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
            output.say(f"{seconds:6.1f}s  {line}" if line else "")

    with contextlib.suppress(KeyboardInterrupt):
        running.run(_settings(), port, report)


@cli.command()
@click.argument("user")
@click.option("--location", help="Id of the location: one of an agency's, or a private token's.")
@new_option
@private_token_option
@click.option("--no-browser", is_flag=True, help="Print the URL; do not open it.")
@json_option
def connect(
    user: str,
    location: str | None,
    new: bool,
    private_token: bool,
    no_browser: bool,
    as_json: bool,
) -> None:
    """Connect or reconnect USER in the browser, or with a private integration token.

    After consent, calls are synced automatically.
    """
    settings = _settings()
    with _pipeline() as pipeline:
        before = (added_user if new else find_user)(pipeline.engine, user)
        if private_token:
            token, where = entered_token(location)
            after = pipeline.private_tokens.connect(before.user.id, token, where)
            output.show_result(after, as_json=as_json)
            return
        if not settings.highlevel.has_app:
            raise ConsentError(NO_APP)
        begun = pipeline.consent.begin(before.user.id, location)
        # If the result is JSON, this goes to stderr, for the user who gives consent.
        output.show_consent(before.user.name, begun.url, err=as_json)
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
    output.show_result(after, as_json=as_json)
    if after.obstacle:
        sys.exit(1)


@cli.command()
@click.argument("user")
@click.confirmation_option(prompt="This deletes the stored tokens; all calls are kept. Disconnect?")
@json_option
def disconnect(user: str, as_json: bool) -> None:
    """Delete USER's tokens. The user and all calls are kept."""
    with _pipeline() as pipeline:
        after = pipeline.consent.disconnect(find_user(pipeline.engine, user).user.id)
    output.show_result(after, as_json=as_json)


@cli.command()
@click.argument("user", required=False)
@json_option
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
        output.show_json({**facts[0], "history": events})
    elif one:
        output.show_user(one, statuses.get(one.user.id), entries)
    elif as_json:
        output.show_json(facts)
    else:
        output.show_users(listed, statuses)


@cli.command()
@click.argument("user")
@json_option
def check(user: str, as_json: bool) -> None:
    """Test USER's connection.

    Refreshes the token if it is due, then reads calls with it.
    """
    with _pipeline() as pipeline:
        result = pipeline.tokens.check(find_user(pipeline.engine, user).user.id)
    if as_json:
        output.show_json(
            {
                **output.user_facts(result.connection, None),
                "ok": result.failure is None,
                "failure": result.failure.failure.value if result.failure else None,
                "message": output.outcome(result),
            }
        )
    else:
        output.show_users([result.connection])
        output.say(output.outcome(result))
    if result.failure:
        sys.exit(1)


@cli.command()
@click.option("--user", "names", multiple=True, metavar="USER", help="Only USER; repeatable.")
@from_option
@to_option
@click.option("--only-failed", is_flag=True, help="Only users whose day is not complete.")
@json_option
def sync(
    names: Sequence[str], start: str, end: str | None, only_failed: bool, as_json: bool
) -> None:
    """Sync days now, as a Dagster run that shows in the UI."""
    first, last = day_range(start, end)
    stop_on_hangup()
    with _pipeline() as pipeline, contextlib.ExitStack() as stack:
        wanted = [find_user(pipeline.engine, name).user.id for name in names] or None
        require_data(_settings(), dagster=True)
        os.environ.update(stack.enter_context(running.dagster_environment(_settings())))
        # Imported late: it takes seconds, and the partitions depend on the environment.
        from voiceai_pipeline.cli import launch

        days = launch.days_between(first, last, datetime.now(pipeline.zone).date())
        with progress_bar(pipeline.engine, days, wanted):
            error = launch.sync_calls(pipeline.engine, days, wanted, only_failed=only_failed)
        with pipeline.engine.begin() as db:
            rows = ledger.results(db, days=days, user_ids=wanted)
    if as_json:
        output.show_json([output.day_facts(row) for row in rows])
    else:
        output.show_rows(rows)
    if error or any(row.state is DayState.FAILED for row in rows):
        _fail(error or "Some syncs failed; the table shows which users and why.")


@cli.command("migrate")
@click.option("--check", "only_check", is_flag=True, help="Change nothing; exit 1 if one is due.")
@click.option("--sql", "only_sql", is_flag=True, help="Print the SQL instead of running it.")
@json_option
def migrate_command(only_check: bool, only_sql: bool, as_json: bool) -> None:
    """Create or adopt the tables.

    Also creates the views and roles for analysts. The data of an existing database of the source
    system are kept. Calls that an older version stored are redacted by today's rules. Safe to
    repeat and to interrupt.
    """
    if only_sql:
        click.echo(migrate.upgrade_sql())
        return
    settings = _settings()
    if settings.owner_url is not None:
        settings = replace(settings, database_url=settings.owner_url)
    if only_check:
        require_data(settings)
    with open_database(settings, pool_size=1) as engine:
        with engine.begin() as db:
            before = migrate.current(db)
        redacted = 0
        if not only_check:
            migrate.upgrade(engine)
            redacted = change_stored_rows(engine)
        with engine.begin() as db:
            after, missing = migrate.current(db), grants.missing_roles(db)
            is_behind = after != migrate.head()
            is_unredacted = not is_behind and stored_redaction.is_pending(db)
    if as_json:
        facts = {"before": before, "after": after, "needed": migrate.head(), "redacted": redacted}
        pending = is_behind or is_unredacted
        output.show_json({**facts, "pending": pending, "missing_roles": sorted(missing)})
    if is_behind:
        _fail(
            f"A migration is pending: {before or 'none'} to {migrate.head()}. "
            "Run: voiceai-pipeline migrate"
        )
    if is_unredacted:
        _fail(
            "Rows that an older version stored are not redacted by today's rules yet. "
            "Run: voiceai-pipeline migrate"
        )
    if as_json:
        return
    if redacted:
        click.echo(f"Redacted {redacted:,} rows that an older version had stored.")
    if before == after:
        click.echo(f"The database is up to date (revision {before}).")
    else:
        click.echo(f"Migrated from {before or 'nothing'} to {after}.")
    if missing:
        click.echo(grants.missing_roles_text(missing))


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON, including the database URL.")
def doctor(as_json: bool) -> None:
    """Check the installation and say what to fix.

    Checks versions, settings, HighLevel, database, clock, scopes, keys and more.
    """
    report = diagnosis.examine(os.environ)
    if as_json:
        output.show_json(report.as_json())
    else:
        output.show_findings(report.findings)
    if report.has_errors:
        sys.exit(1)


def _settings() -> Settings:
    return Settings.load(os.environ)


@contextmanager
def _pipeline() -> Iterator[Pipeline]:
    settings = _settings()
    require_data(settings)
    with open_pipeline(settings, actor=Actor("command line")) as pipeline:
        yield pipeline


@contextmanager
def _database() -> Iterator[sa.Engine]:
    settings = _settings()
    require_data(settings)
    with open_database(settings, pool_size=1) as engine:
        yield engine


if __name__ == "__main__":
    main()
