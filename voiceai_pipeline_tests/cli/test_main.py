"""The commands, and the failures of an installation: one sentence and an exit code."""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import click
import psycopg
import pytest
from click.testing import CliRunner

from voiceai_pipeline.cli import main
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.database import migrate
from voiceai_pipeline.database.embedded import EmbeddedPostgres
from voiceai_pipeline.sandbox.world import World
from voiceai_pipeline_tests.support.command_line import (
    A_DAY,
    OTHER_KEYRING,
    Program,
    plain,
    tables,
)
from voiceai_pipeline_tests.support.demo_users import DEMO
from voiceai_pipeline_tests.support.ports import free_port


def test_check_reads_calls_for_real(program: Program) -> None:
    (user,) = program.connect("Harbor Dental")

    checked = program("check", "harbor dental")

    assert checked.code == 0
    assert checked.out.splitlines()[-1] == "Calls can be read."
    assert program.highlevel.requests[-1].path == "/voice-ai/dashboard/call-logs"
    assert program("check", str(user), "--json").json["ok"] is True


def test_check_of_a_revoked_connection_says_how_to_fix_it(program: Program, world: World) -> None:
    (user,) = program.connect("Larch Auto Care")
    world.revoke(DEMO["Larch Auto Care"].installs_on)

    checked = program("check", "Larch Auto Care")

    assert checked.code == 1
    assert "Failed to refresh token" in checked.out.splitlines()[-1]
    assert f"voiceai-pipeline connect {user}." in checked.out.splitlines()[-1]
    assert " USER" not in checked.out
    facts = program("check", str(user), "--json")
    assert facts.code == 1
    assert facts.json["failure"] == "refresh_rejected"
    assert facts.json["state"] == "needs_reconnect"


def test_check_names_a_missing_scope(program: Program) -> None:
    program.connect("Cedar Vets")

    checked = program("check", "Cedar Vets")

    assert checked.code == 1
    assert "The connection lacks a scope (voice-ai-dashboard.readonly)" in checked.out
    assert "Add the scope to the app in the HighLevel marketplace" in checked.out


def test_check_of_a_user_without_a_location_is_one_sentence(program: Program) -> None:
    (user,) = program.connect("Harbor Dental")
    program.execute("UPDATE api_keys SET location_id = NULL WHERE user_id = :user", user=user)

    checked = program("check", "Harbor Dental")

    assert checked.code == 1
    assert checked.out.splitlines()[-1].startswith("No location ID found for user. Fix: ")


def test_an_unreachable_highlevel_is_one_sentence(program: Program) -> None:
    program.connect("Harbor Dental")
    unused = f"http://127.0.0.1:{free_port()}"

    checked = program.apart("check", "Harbor Dental", HIGHLEVEL_API_URL=unused)

    assert checked.code == 1
    assert checked.out.splitlines()[-1].startswith("HighLevel could not be reached")
    assert "Check the network and HIGHLEVEL_API_URL" in checked.out


def test_a_wrong_key_is_one_sentence(program: Program) -> None:
    (user,) = program.connect("Harbor Dental")

    checked = program("check", "Harbor Dental", VOICEAI_TOKEN_KEYS=OTHER_KEYRING)

    assert checked.code == 1
    assert "The stored token cannot be decrypted" in checked.out.splitlines()[-1]
    assert "Put the key that encrypted it back into VOICEAI_TOKEN_KEYS" in checked.out
    assert [one["id"] for one in program("users", "--json").json] == [str(user)]


def test_disconnect_asks_first_and_keeps_the_user(program: Program) -> None:
    program.connect("Harbor Dental")

    refused = program("disconnect", "Harbor Dental", typed="n\n")
    assert refused.code != 0
    assert "This deletes the stored tokens; all calls are kept. Disconnect?" in refused.out
    assert program.ask("SELECT refresh_token IS NULL FROM api_keys") == [(False,)]

    assert program("disconnect", "Harbor Dental", typed="y\n").code == 0
    assert program.ask("SELECT refresh_token IS NULL FROM api_keys") == [(True,)]
    (user,) = program("users", "--json").json
    assert (user["name"], user["state"]) == ("Harbor Dental", "disconnected")


def test_migrate_creates_the_tables_once(program: Program, empty_database: Secret) -> None:
    env = {"VOICEAI_DATABASE_URL": empty_database.reveal()}
    head = migrate.head()

    due = program("migrate", "--check", **env)
    assert (due.code, due.err) == (
        1,
        f"Error: A migration is pending: none to {head}. Run: voiceai-pipeline migrate\n",
    )
    assert program("migrate", **env).out == f"Migrated from nothing to {head}.\n"
    again = program("migrate", "--check", **env)
    assert (again.code, again.out) == (0, f"The database is up to date (revision {head}).\n")


def test_migrate_redacts_what_an_older_version_stored(program: Program) -> None:
    program.execute(
        "INSERT INTO voiceai_agents (location_id, agent_id, name, raw, first_seen_at, "
        """last_seen_at) VALUES ('Loc1', 'a', 'A', '{"webhookAuth": "hunter2"}', now(), now())"""
    )
    program.execute("UPDATE redaction_progress SET rules = 1 WHERE table_name = 'voiceai_agents'")

    due = program("migrate", "--check")
    assert (due.code, due.err) == (
        1,
        "Error: Rows that an older version stored are not redacted by today's rules yet. "
        "Run: voiceai-pipeline migrate\n",
    )
    done = program("migrate")
    assert done.code == 0
    assert "Redacted 1 rows that an older version had stored.\n" in done.out
    assert program.ask("SELECT raw FROM voiceai_agents") == [({"webhookAuth": "[redacted]"},)]
    assert program("migrate", "--check").code == 0


def test_migrate_sql_prints_the_sql_and_changes_nothing(
    program: Program, empty_database: Secret
) -> None:
    printed = program("migrate", "--sql", VOICEAI_DATABASE_URL=empty_database.reveal())

    assert printed.code == 0
    assert "CREATE TABLE" in printed.out
    assert tables(empty_database) == []


def test_migrate_refuses_a_database_that_cannot_be_adopted(
    program: Program, empty_database: Secret
) -> None:
    with psycopg.connect(plain(empty_database)) as db:
        db.execute("CREATE TABLE users (id integer PRIMARY KEY)")

    refused = program("migrate", VOICEAI_DATABASE_URL=empty_database.reveal())

    assert refused.code == 1
    assert refused.err.startswith("Error: This database cannot be adopted; nothing was changed. ")
    assert tables(empty_database) == ["users"]


def test_a_database_of_a_newer_version_is_one_sentence(program: Program) -> None:
    program.execute("UPDATE voiceai_alembic_version SET version_num = '9999_from_the_future'")

    refused = program("migrate")

    assert refused.code == 1
    assert refused.err == (
        "Error: The database was migrated by a newer version of this program. Update the program: "
        "git pull, then make up.\n"
    )


@pytest.mark.parametrize(
    "table", ["", "CREATE TABLE users (id uuid PRIMARY KEY); CREATE TABLE api_keys (id uuid)"]
)
def test_a_database_that_was_not_migrated_is_one_sentence(
    program: Program, empty_database: Secret, table: str
) -> None:
    with psycopg.connect(plain(empty_database)) as db:
        db.execute(table.encode() or b"SELECT 1")

    refused = program("users", VOICEAI_DATABASE_URL=empty_database.reveal())

    assert refused.code == 1
    assert refused.err == (
        "Error: The database does not have our tables yet, or only older ones. Create them with: "
        "voiceai-pipeline migrate\n"
    )


def test_every_command_and_option_has_help() -> None:
    for name, command in {"": main.cli, **main.cli.commands}.items():
        shown = CliRunner().invoke(main.cli, [*name.split(), "--help"])
        assert shown.exit_code == 0
        assert command.help
        assert command.help.splitlines()[0] in " ".join(shown.output.split())
        for option in command.params:
            assert isinstance(option, click.Argument) or getattr(option, "help", None), option


@pytest.mark.parametrize("command", ["users", "check x", "migrate", "disconnect x --yes"])
def test_a_database_that_is_down_is_one_sentence(program: Program, command: str) -> None:
    url = f"postgresql://someone:hunter2@127.0.0.1:{free_port()}/nowhere"

    refused = program(*command.split(), VOICEAI_DATABASE_URL=url)

    assert refused.code == 1
    assert refused.out == ""
    assert refused.err == (
        "Error: The database does not answer: nothing listens there. Check that it runs and that "
        "VOICEAI_DATABASE_URL names it: host, port, database, user and password.\n"
    )


def test_a_database_that_does_not_exist_is_one_sentence(
    program: Program, postgres: EmbeddedPostgres
) -> None:
    refused = program("users", VOICEAI_DATABASE_URL=postgres.url("no_such_database"))

    assert refused.code == 1
    assert "does not answer: there is no such database or user." in refused.err


@pytest.mark.parametrize("name", ["VOICEAI_DATABASE_URL", "DAGSTER_POSTGRES_URL"])
def test_an_invalid_database_url_is_one_sentence_that_repeats_none_of_it(
    program: Program, name: str
) -> None:
    program.env[name] = "postgresql://someone:p@ss:hunter2@db.example.test/voiceai"

    refused = program("sync", "--start", A_DAY)

    assert refused.code == 1
    assert refused.err == (
        f"Error: {name} cannot be read. Write postgresql://user:password@host:5432/name, with "
        "every @, : and / inside the password percent-encoded (%40, %3A, %2F).\n"
    )


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"VOICEAI_TOKEN_KEYS": "test:hunter2"}, "VOICEAI_TOKEN_KEYS: entry 1 is not usable."),
        ({"VOICEAI_TOKEN_KEYS": ""}, "VOICEAI_DATABASE_URL is set but VOICEAI_TOKEN_KEYS is not."),
        ({"HIGHLEVEL_CLIENT_SECRET": ""}, "HIGHLEVEL_CLIENT_SECRET is not. Set both"),
        ({"VOICEAI_DATABASE_URL": "mysql://x"}, "VOICEAI_DATABASE_URL must be a PostgreSQL URL"),
        ({"VOICEAI_TIMEZONE": "Mars/Base"}, "VOICEAI_TIMEZONE is 'Mars/Base'."),
    ],
)
def test_a_wrong_setting_is_one_sentence(
    program: Program, variables: Mapping[str, str], words: str
) -> None:
    refused = program("check", "x", **variables)

    assert refused.code == 1
    assert refused.err.startswith("Error: ")
    assert words in refused.err


def test_an_unusable_home_or_key_file_is_one_sentence(program: Program, tmp_path: Path) -> None:
    a_file = tmp_path / "file"
    a_file.write_text("")
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "token.key").touch(mode=0o600)
    (damaged / "postgres" / "data").mkdir(parents=True)
    (damaged / "postgres" / "data" / "PG_VERSION").write_text("18")
    embedded = {"VOICEAI_DATABASE_URL": "", "VOICEAI_TOKEN_KEYS": ""}

    unusable = program("check", "x", VOICEAI_HOME=str(a_file), **embedded)
    keyless = program("check", "x", VOICEAI_HOME=str(damaged), **embedded)

    assert (unusable.code, keyless.code) == (1, 1)
    assert f"There are no data in {a_file}." in unusable.err
    assert f"{damaged / 'token.key'} is damaged" in keyless.err


def test_dot_env_is_read_and_the_environment_takes_precedence(
    program: Program, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("VOICEAI_TIMEZONE=Nowhere/Land\n")
    program.monkeypatch.chdir(tmp_path)
    refused = program.apart("users")
    assert refused.code == 1
    assert "VOICEAI_TIMEZONE is 'Nowhere/Land'" in refused.err
    assert program.apart("users", VOICEAI_TIMEZONE="UTC").code == 0


def test_a_bug_is_a_sentence_and_its_frames_and_never_its_text(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @click.command()
    def broken() -> None:
        raise KeyError("CANARY-TOKEN")

    monkeypatch.setitem(main.cli.commands, "broken", broken)
    monkeypatch.setattr("sys.argv", ["voiceai-pipeline", "broken"])
    with pytest.raises(SystemExit) as caught:
        main.main()
    printed = capsys.readouterr()
    assert caught.value.code == 1
    assert "Error: Unexpected error" in printed.err
    assert "CANARY" not in printed.err + printed.out


@pytest.mark.parametrize(
    "words",
    [
        ["users"],
        ["check", "Harbor Dental"],
        ["connect", "Harbor Dental"],
        ["disconnect", "Harbor Dental", "--yes"],
        ["sync", "--from", "2026-11-20"],
        ["export", "calls", "--from", "2026-11-20"],
        ["migrate", "--check"],
        ["backup", "folder"],
        ["keys"],
    ],
    ids=lambda words: str(words[0]),
)
def test_without_data_a_command_creates_nothing_and_says_where_it_looked(
    words: list[str], program: Program, tmp_path: Path
) -> None:
    home = tmp_path / "nowhere"
    named = {"VOICEAI_DATABASE_URL": "", "DAGSTER_POSTGRES_URL": "", "VOICEAI_TOKEN_KEYS": ""}
    refused = program(*words, VOICEAI_HOME=str(home), **named)
    assert refused.code == 1
    assert refused.err.startswith(f"Error: There are no data in {home}. ")
    assert "set VOICEAI_HOME" in refused.err
    assert not home.exists()


def test_the_version_is_the_packages(program: Program) -> None:
    assert program("--version").out == f"voiceai-pipeline {version('voiceai-pipeline')}\n"


def test_the_line_in_the_help_completes_commands(program: Program) -> None:
    assert "_VOICEAI_PIPELINE_COMPLETE=bash_source voiceai-pipeline" in program("--help").out
    typed = {"COMP_WORDS": "voiceai-pipeline us", "COMP_CWORD": "1"}
    offered = program.apart(_VOICEAI_PIPELINE_COMPLETE="bash_complete", **typed)
    assert offered.out == "plain,users\n"


def test_what_is_done_is_said_in_json_too(program: Program) -> None:
    (user,) = program.connect("Harbor Dental")
    done = program("disconnect", str(user), "--yes", "--json").json
    assert (done["id"], done["state"]) == (str(user), "disconnected")
    migrated = program("migrate", "--json").json
    assert (migrated["before"], migrated["after"]) == (migrate.head(), migrate.head())
    assert not migrated["pending"]
