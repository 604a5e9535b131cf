"""``doctor`` finds what is wrong, says what to do, and shows no secret."""

import base64
import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import psycopg
import pytest
import sqlalchemy as sa

from voiceai_pipeline.cli import doctor
from voiceai_pipeline.cli.doctor import Finding, Report
from voiceai_pipeline.connections import circuit_breaker
from voiceai_pipeline.core.failures import FailureClass
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.database import migrate
from voiceai_pipeline.database.embedded import EmbeddedPostgres
from voiceai_pipeline.database.embedded_server import DATABASE
from voiceai_pipeline.database.engine import open_engine
from voiceai_pipeline.sandbox.cast import SANDBOX_CLIENT_ID, SANDBOX_CLIENT_SECRET
from voiceai_pipeline.sandbox.server import running
from voiceai_pipeline.sandbox.world import World
from voiceai_pipeline_tests.support.demo_users import DEMO, Connector
from voiceai_pipeline_tests.support.keys import KEYS
from voiceai_pipeline_tests.support.ports import free_port
from voiceai_pipeline_tests.support.receivers import serving


@pytest.fixture
def env(tmp_path: Path, database: Secret) -> Iterator[dict[str, str]]:
    """A healthy installation."""
    with running(World(), limits=False) as highlevel:
        yield {
            "VOICEAI_HOME": str(tmp_path / "home"),
            "VOICEAI_DATABASE_URL": database.reveal(),
            "VOICEAI_TOKEN_KEYS": keyring(KEYS["test"]),
            "HIGHLEVEL_CLIENT_ID": SANDBOX_CLIENT_ID,
            "HIGHLEVEL_CLIENT_SECRET": SANDBOX_CLIENT_SECRET,
            "HIGHLEVEL_API_URL": highlevel.url,
        }


def keyring(key: bytes) -> str:
    return f"test:{base64.b64encode(key).decode()}"


def finding(env: dict[str, str], name: str) -> Finding:
    return named(doctor.examine(env), name)


def named(report: Report, name: str) -> Finding:
    (found,) = [one for one in report.findings if one.name == name]
    return found


def test_every_finding_of_a_healthy_installation_is_ok(
    env: dict[str, str], connect: Connector
) -> None:
    connect("Harbor Dental")

    report = doctor.examine(env)

    assert [(one.name, one.level) for one in report.findings] == [
        ("versions", "ok"),
        ("settings", "ok"),
        ("disk", "ok"),
        ("HighLevel", "ok"),
        ("database", "ok"),
        ("clock", "ok"),
        ("tables", "ok"),
        ("users", "ok"),
        ("scopes", "ok"),
        ("refresh", "ok"),
        ("keys", "ok"),
        ("spool", "ok"),
        ("webhooks", "ok"),
        ("analysts", "ok"),
        ("redaction", "ok"),
        # One login does everything here.
        ("database role", "warning"),
    ]
    assert not report.has_errors
    assert report.as_json()["ok"] is True
    assert "PostgreSQL 18" in named(report, "database").text
    assert "dagster 1." in named(report, "versions").text
    assert named(report, "users").text == "1 of 1 can be synced"


def test_a_secret_in_a_vite_variable_is_an_error_that_does_not_repeat_it(
    env: dict[str, str],
) -> None:
    found = finding(env | {"VITE_HIGHLEVEL_CLIENT_SECRET": "hunter2"}, "client secret")

    assert found.level == "error"
    assert found.text.startswith("VITE_HIGHLEVEL_CLIENT_SECRET is set: ")
    assert "Create a new one in the HighLevel marketplace" in found.text
    assert "hunter2" not in found.text


def test_an_invalid_setting_stops_the_checks(env: dict[str, str]) -> None:
    report = doctor.examine(env | {"VOICEAI_TIMEZONE": "Mars/Base"})

    assert named(report, "settings").level == "error"
    assert "VOICEAI_TIMEZONE" in named(report, "settings").text
    assert report.database_url is None


def test_a_dagster_url_with_another_driver_is_a_warning(
    env: dict[str, str], postgres: EmbeddedPostgres
) -> None:
    url = postgres.url("postgres", driver="psycopg2")

    assert [one.level for one in dagster_findings(env | {"DAGSTER_POSTGRES_URL": url})] == ["ok"]
    warned = dagster_findings(
        env | {"DAGSTER_POSTGRES_URL": url.replace("postgresql+psycopg2", "postgres")}
    )
    assert [one.level for one in warned] == ["warning", "ok"]
    assert "should start with postgresql+psycopg2://" in warned[0].text


def test_an_unguarded_dagster_on_this_machine_is_a_warning() -> None:
    class Dagster(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b'{"dagster_version": "1"}' if self.path == "/server_info" else b"{}"
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    with serving(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Dagster)) as port:
        (found,) = doctor.unguarded_dagster(f"http://127.0.0.1:{port}")
        assert doctor.unguarded_dagster(f"http://127.0.0.1:{port}/other") == []
    assert found.level == "warning"
    assert f"http://127.0.0.1:{port}" in found.text
    assert doctor.unguarded_dagster(f"http://127.0.0.1:{free_port()}") == []


def test_a_variable_that_has_no_effect_any_more_is_a_warning(env: dict[str, str]) -> None:
    found = doctor._environment({**env, "VOICEAI_READ_ONLY_PORT": "3001"})
    assert [(one.name, one.level) for one in found] == [("VOICEAI_READ_ONLY_PORT", "warning")]
    assert "VOICEAI_ANALYST_SECRET" in found[0].text


def test_a_dagster_database_that_does_not_answer_is_an_error(env: dict[str, str]) -> None:
    url = f"postgresql+psycopg2://dagster:hunter2@127.0.0.1:{free_port()}/dagster"

    (found,) = dagster_findings(env | {"DAGSTER_POSTGRES_URL": url})

    assert found.level == "error"
    assert "nothing listens there" in found.text
    assert "DAGSTER_POSTGRES_URL" in found.text
    assert "hunter2" not in found.text


def dagster_findings(env: dict[str, str]) -> list[Finding]:
    return [one for one in doctor.examine(env).findings if "dagster" in one.name.lower()]


def test_a_database_that_is_down_is_an_error_without_its_password(env: dict[str, str]) -> None:
    env["VOICEAI_DATABASE_URL"] = f"postgresql://me:hunter2@127.0.0.1:{free_port()}/voiceai"

    report = doctor.examine(env)

    assert named(report, "database").level == "error"
    assert "nothing listens there" in named(report, "database").text
    assert report.has_errors
    assert "hunter2" not in str(report.as_json())


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:hunter2@127.0.0.1:1/voiceai?sslmode=prefer",
        "postgresql://127.0.0.1:1/voiceai?user=me&password=hunter2&sslmode=prefer",
        "postgresql://me@127.0.0.1:1/voiceai?sslpassword=hunter2&sslmode=prefer",
    ],
)
def test_the_reported_database_url_contains_no_password(env: dict[str, str], url: str) -> None:
    given = doctor.examine(env | {"VOICEAI_DATABASE_URL": url}).as_json()["database_url"]

    assert given is not None
    assert "hunter2" not in given
    assert "sslmode=prefer" in given


def test_the_reported_database_urls_open_the_embedded_server(
    env: dict[str, str], tmp_path: Path
) -> None:
    home = tmp_path / "a home, with spaces"
    env |= {"VOICEAI_HOME": str(home), "VOICEAI_DATABASE_URL": "", "VOICEAI_TOKEN_KEYS": ""}
    with EmbeddedPostgres.hold(home, durable=False) as server:
        server.create_database(DATABASE)

        report = doctor.examine(env)

        assert report.database_url is not None
        with psycopg.connect(report.database_url) as db:
            assert db.execute("SELECT current_database()").fetchone() == (DATABASE,)
        engine = open_engine(Secret(server.url(DATABASE)))
        migrate.upgrade(engine)
        engine.dispose()
        analyst_url = doctor.examine(env).as_json()["analyst_url"]
        with psycopg.connect(analyst_url) as db:
            assert db.execute("SELECT count(*) FROM voiceai.calls").fetchone() == (0,)
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                db.execute("SELECT FROM api_keys")
    assert report.analyst_url is None
    assert named(report, "tables").level == "error"
    assert named(report, "tables").text == (
        f"revision none, needed {migrate.head()}: voiceai-pipeline migrate"
    )


def test_an_unreachable_highlevel_is_an_error_and_an_absent_sandbox_a_warning(
    env: dict[str, str],
) -> None:
    port = free_port()
    real = finding(env | {"HIGHLEVEL_API_URL": f"http://127.0.0.1:{port}"}, "HighLevel")
    env |= {"HIGHLEVEL_CLIENT_ID": "", "HIGHLEVEL_CLIENT_SECRET": "", "HIGHLEVEL_API_URL": ""}
    sandbox = finding(env | {"VOICEAI_SANDBOX_PORT": str(port)}, "HighLevel")

    assert (real.level, sandbox.level) == ("error", "warning")
    assert real.text.endswith("cannot be reached (ConnectionError). Check the network.")
    assert sandbox.text.endswith("cannot be reached (ConnectionError). Start it with: make up")


@pytest.mark.parametrize(
    ("date", "level"),
    [
        ("Mon, 01 Jan 2024 00:00:00 GMT", "warning"),
        ("Mon, 01 Jan 2024 00:00:00 -0000", "ok"),
        ("the day before yesterday", "ok"),
        (None, "ok"),
    ],
)
def test_a_wrong_clock_is_a_warning_and_a_missing_date_is_not(
    env: dict[str, str], date: str | None, level: str
) -> None:
    with dated(date) as url:
        found = finding(env | {"HIGHLEVEL_API_URL": url}, "HighLevel")

    assert found.level == level
    assert ("Use NTP here." in found.text) is (level == "warning")


@contextmanager
def dated(date: str | None) -> Iterator[str]:
    """A server with this Date header."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response_only(200)
            if date:
                self.send_header("Date", date)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_users_who_cannot_be_synced_and_missing_scopes_are_warnings(
    env: dict[str, str], connect: Connector
) -> None:
    connect("Harbor Dental")
    connect("Cedar Vets")
    connect.add("Juniper Fitness")

    report = doctor.examine(env)

    assert named(report, "users") == Finding(
        "users", "warning", "1 of 3 can be synced: see voiceai-pipeline users"
    )
    assert named(report, "scopes") == Finding(
        "scopes", "warning", "Cedar Vets: voice-ai-dashboard.readonly missing, reconnect"
    )
    assert not report.has_errors


def test_a_wrong_key_is_an_error_that_names_the_users_it_cannot_decrypt(
    env: dict[str, str], connect: Connector
) -> None:
    connect("Harbor Dental")

    found = finding(env | {"VOICEAI_TOKEN_KEYS": keyring(b"o" * 32)}, "keys")

    assert found.level == "error"
    assert found.text.startswith("cannot decrypt the tokens of Harbor Dental (key 'test' does not")
    missing = finding(env | {"VOICEAI_TOKEN_KEYS": ""}, "keys")
    assert missing.level == "error"
    assert "VOICEAI_TOKEN_KEYS is not" in missing.text


@pytest.mark.parametrize("column", ["access_token", "refresh_token", "location_access_token"])
def test_every_stored_token_is_decrypted(
    env: dict[str, str], connect: Connector, engine: sa.Engine, column: str
) -> None:
    connect("Harbor Dental")
    with engine.begin() as db:
        db.execute(
            sa.text(f"UPDATE api_keys SET {column} = 'enc:v1:lost:AAAA' WHERE user_id = :user"),  # noqa: S608
            {"user": UUID(DEMO["Harbor Dental"].id)},
        )

    assert finding(env, "keys").text == (
        "cannot decrypt the tokens of Harbor Dental (no key 'lost' in the keyring)"
    )


@pytest.mark.parametrize(
    ("reason", "level", "fix"),
    [
        (FailureClass.CLIENT_REFUSED, "error", "Correct HIGHLEVEL_CLIENT_ID"),
        (FailureClass.PROVIDER_ERROR, "warning", "No action needed"),
    ],
)
def test_suspended_refreshes_are_reported_with_the_reason_and_the_fix(
    reason: FailureClass, level: str, fix: str, env: dict[str, str], engine: sa.Engine
) -> None:
    with engine.begin() as db:
        for _ in range(circuit_breaker.THRESHOLD):
            circuit_breaker.count_failure(db, reason, "POST /oauth/token", datetime.now(UTC), None)
    found = finding(env, "refresh")
    assert found.level == level
    assert "suspended for all users since" in found.text
    assert reason.explanation.message in found.text
    assert fix in found.text


def test_a_token_pair_on_disk_is_a_warning(env: dict[str, str]) -> None:
    spool = Path(env["VOICEAI_HOME"]) / "spool"
    spool.mkdir(parents=True)
    (spool / "user.row.1.json").write_text("{}")
    found = finding(env, "spool")
    assert found.level == "warning"
    assert found.text.startswith("1 token pairs are on disk, not in the database yet: do not ")
    assert str(spool) in found.text
