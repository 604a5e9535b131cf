"""Checks an installation and says what to fix. Reads only."""

import platform
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from typing import Any, Final, Literal

import requests
import sqlalchemy as sa

from voiceai_pipeline.calls import freshness, stored_redaction
from voiceai_pipeline.cli.existing_data import NoDataError, require_data
from voiceai_pipeline.connections import circuit_breaker, key_rotation, token_row
from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core import disk, installation
from voiceai_pipeline.core.connection import Connection, missing_scopes
from voiceai_pipeline.core.failures import OUR_FAILURES, FailureClass, PipelineError
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.core.settings import Settings
from voiceai_pipeline.core.settings_parsing import SettingsError
from voiceai_pipeline.core.webhook import Refusal
from voiceai_pipeline.database import app_role, grants, migrate, row_security, sql_access
from voiceai_pipeline.database.embedded_server import PostgresError
from voiceai_pipeline.database.engine import database_now, database_sentence
from voiceai_pipeline.database.view_sources import SCHEMA
from voiceai_pipeline.highlevel.transport import USER_AGENT, open_session
from voiceai_pipeline.pipeline import (
    open_database,
    open_vault,
    pairs_path,
    server_version,
    spool_path,
)

Level = Literal["ok", "warning", "error"]

MAX_SKEW: Final = 30.0
"""Seconds by which clocks may differ without a warning."""

_PACKAGES: Final = ("dagster", "dagster-webserver", "dagster-postgres", "sqlalchemy", "psycopg")


@dataclass(frozen=True)
class Finding:
    """The result of one check; ``text`` says what to do if it is not ok."""

    name: str
    level: Level
    text: str


@dataclass(frozen=True)
class Report:
    """The results of all checks.

    Attributes:
        database_url: for an SQL client, without a password; None if unknown.
        analyst_url: opens a read-only session with the rights of analysts on the embedded server,
            where users have no logins of their own. None on an external server.
        sql_url: where SQL tools reach the embedded server over TCP; None: VOICEAI_SQL_PORT is not
            set, or the server does not listen there.
    """

    findings: Sequence[Finding]
    database_url: str | None
    analyst_url: str | None = None
    sql_url: str | None = None

    @property
    def has_errors(self) -> bool:
        return any(finding.level == "error" for finding in self.findings)

    def as_json(self) -> dict[str, Any]:
        return {
            "ok": not self.has_errors,
            "database_url": self.database_url,
            "analyst_url": self.analyst_url,
            "sql_url": self.sql_url,
            "findings": [vars(finding) for finding in self.findings],
        }


def examine(env: Mapping[str, str]) -> Report:
    """Check the installation that ``env`` describes."""
    findings = [_versions(), *_environment(env)]
    try:
        settings = Settings.load(env)
    except SettingsError as error:
        return Report([*findings, Finding("settings", "error", str(error))], None)
    findings += [Finding("settings", "ok", f"data in {settings.home}"), _disk(settings)]
    findings.append(_highlevel(settings))
    findings += unguarded_dagster()
    url: str | None = None
    analyst_url: str | None = None
    sql_url: str | None = None
    with ExitStack() as stack:
        try:
            require_data(settings)
            engine = stack.enter_context(open_database(settings, pool_size=1))
            url = _for_sql_tools(engine.url)
            with engine.begin() as db:
                findings += _database(db)
                hidden = row_security.obstacles(db)
                findings += [Finding("row security", "error", text) for text in hidden]
                if migrate.is_current(db) and not hidden:
                    findings += [
                        *_connections(db, settings),
                        _webhooks(db, settings),
                        _analysts(db),
                        _redaction(db),
                        _role(db, settings),
                    ]
                    if settings.database_url is None and not grants.missing_roles(db):
                        options = {"options": f"-crole={grants.ANALYST}"}
                        analyst_url = _for_sql_tools(engine.url.update_query_dict(options))
                    if settings.database_url is None and settings.sql_port is not None:
                        obstacle = sql_access.obstacle(db, settings.sql_port)
                        if obstacle is None:
                            sql_url = sql_access.url(settings.home, settings.sql_port)
                        level: Level = "ok" if obstacle is None else "warning"
                        findings.append(Finding("SQL tools", level, obstacle or f"at {sql_url}"))
        except NoDataError as error:
            findings.append(Finding("database", "warning", str(error)))
        except (PostgresError, SettingsError) as error:
            findings.append(Finding("database", "error", str(error)))
        except sa.exc.DBAPIError as error:
            findings.append(Finding("database", "error", database_sentence(error)))
    if settings.dagster_url is not None:
        findings.append(_dagster_database(settings.dagster_url))
    return Report(findings, url, analyst_url, sql_url)


def _disk(settings: Settings) -> Finding:
    warning = disk.room_warning(settings.home)
    text = f"enough room on the disk of {settings.home}"
    return Finding("disk", "warning" if warning else "ok", warning or text)


def _for_sql_tools(url: sa.URL) -> str:
    """A libpq URL, without the SQLAlchemy driver and without any password."""
    query = {name: value for name, value in url.query.items() if "password" not in name}
    plain = sa.URL.create("postgresql", url.username, None, url.host, url.port, url.database, query)
    return plain.render_as_string(hide_password=True)


def _versions() -> Finding:
    packages = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    return Finding("versions", "ok", f"Python {platform.python_version()}, {packages}")


def _environment(env: Mapping[str, str]) -> list[Finding]:
    findings = []
    leaked = sorted(name for name in env if name.startswith("VITE_") and "SECRET" in name)
    if leaked:
        findings.append(
            Finding(
                "client secret",
                "error",
                f"{', '.join(leaked)} is set: VITE_ variables are built into web pages, so this "
                "secret is public. Create a new one in the HighLevel marketplace and keep it only "
                "in HIGHLEVEL_CLIENT_SECRET.",
            )
        )
    if env.get("VOICEAI_READ_ONLY_PORT"):
        text = (
            "It has no effect any more: there is one address for all. Set VOICEAI_PAGE_SECRET and "
            "VOICEAI_ANALYST_SECRET, and let analysts log in with the second one."
        )
        findings.append(Finding("VOICEAI_READ_ONLY_PORT", "warning", text))
    dagster = env.get("DAGSTER_POSTGRES_URL", "")
    if dagster and not dagster.startswith("postgresql+psycopg2://"):
        findings.append(
            Finding(
                "DAGSTER_POSTGRES_URL",
                "warning",
                "It should start with postgresql+psycopg2://. `up` and `dg dev` correct it; an "
                "instance with `storage: postgres`, as in deploy/, would use psycopg 3, which "
                "Dagster's storage does not support.",
            )
        )
    return findings


def unguarded_dagster(url: str = "http://127.0.0.1:3000") -> list[Finding]:
    """A warning if Dagster's own web server answers on this machine, as ``dagster dev`` starts it.

    Args:
        url: where it listens unless told otherwise.
    """
    with suppress(requests.RequestException, ValueError):
        answer = requests.get(f"{url}/server_info", timeout=2)
        if answer.ok and "dagster_version" in answer.json():
            text = (
                f"Dagster's own web server answers at {url}: any website open in a browser on this "
                "machine can change everything in it. Use it with the sandbox only and stop it "
                "when you are done; make up shows the same UI at /dagster, guarded."
            )
            return [Finding("Dagster's UI", "warning", text)]
    return []


def _highlevel(settings: Settings) -> Finding:
    target = "the sandbox" if settings.highlevel.is_sandbox else settings.highlevel.api_url
    asked = datetime.now(UTC)
    try:
        with open_session() as session:
            answer = session.get(
                settings.highlevel.api_url, headers={"User-Agent": USER_AGENT}, timeout=10
            )
    except requests.RequestException as error:
        start = f"Start it with: {installation.START}"
        hint = start if settings.highlevel.is_sandbox else "Check the network."
        text = f"{target} cannot be reached ({type(error).__name__}). {hint}"
        return Finding("HighLevel", "warning" if settings.highlevel.is_sandbox else "error", text)
    skew = 0.0
    with suppress(KeyError, TypeError, ValueError):  # no date, or not a valid one
        date = parsedate_to_datetime(answer.headers["Date"])
        skew = abs((date - asked).total_seconds())
    if skew > MAX_SKEW:
        text = f"{target}: its clock and this machine's differ by {skew:.0f} s. Use NTP here."
        return Finding("HighLevel", "warning", text)
    return Finding("HighLevel", "ok", f"{target} answers, API {settings.highlevel.api_version}")


def _database(db: sa.Connection) -> list[Finding]:
    server = db.execute(sa.text("SHOW server_version")).scalar_one()
    findings = [Finding("database", "ok", f"PostgreSQL {server}")]
    skew = abs((database_now(db) - datetime.now(UTC)).total_seconds())
    if skew > MAX_SKEW:
        text = f"the database's clock and this machine's differ by {skew:.0f} s; the database's is "
        findings.append(Finding("clock", "warning", text + "used for tokens. Use NTP on both."))
    else:
        findings.append(Finding("clock", "ok", f"within {skew:.1f} s of the database's"))
    revision = migrate.current(db)
    if revision == migrate.head():
        findings.append(Finding("tables", "ok", f"revision {revision}"))
    else:
        text = f"revision {revision or 'none'}, needed {migrate.head()}: voiceai-pipeline migrate"
        findings.append(Finding("tables", "error", text))
    return findings


def _webhooks(db: sa.Connection, settings: Settings) -> Finding:
    found = freshness.delivery(db)
    unsigned = found.refused.get(Refusal.UNSIGNED, 0)
    counted = f"{found.messages} messages in the last day"
    if unsigned:
        text = (
            f"{counted}, and {unsigned} without a valid signature, which were refused. If they are "
            "HighLevel's, its key has changed: set HIGHLEVEL_WEBHOOK_KEYS"
        )
        return Finding("webhooks", "warning", text)
    if found.polled:
        text = (
            f"{counted}, but calls of {', '.join(found.polled[:5])} are found by syncs only: check "
            "that VoiceAiCallEnd is on and delivery is not paused, in the app's Webhooks page"
        )
        return Finding("webhooks", "warning", text)
    if found.last_message_at is None:
        text = (
            "none has arrived, so calls are found by the next sync. To see them within seconds, "
            f"set the app's Default Webhook URL to {settings.page.url}/webhooks/highlevel"
        )
        return Finding("webhooks", "ok", text)
    return Finding("webhooks", "ok", f"{counted}, the last {found.last_message_at:%H:%M} UTC")


def _analysts(db: sa.Connection) -> Finding:
    missing = grants.missing_roles(db)
    if missing:
        return Finding("analysts", "warning", grants.missing_roles_text(missing))
    text = f"read the schema {SCHEMA} as {grants.ANALYST}; conversations need {grants.CONTENT} too"
    return Finding("analysts", "ok", text)


def _role(db: sa.Connection, settings: Settings) -> Finding:
    is_separate, text = app_role.standing(db)
    # The embedded server has one login, of the user who runs it.
    is_fine = is_separate or settings.database_url is None
    return Finding("database role", "ok" if is_fine else "warning", text)


def _redaction(db: sa.Connection) -> Finding:
    if stored_redaction.is_pending(db):
        text = "rows that an older version stored are not redacted by today's rules yet: "
        return Finding("redaction", "warning", text + "voiceai-pipeline migrate")
    return Finding("redaction", "ok", "every stored call is redacted by today's rules")


def _dagster_database(url: Secret) -> Finding:
    name = "Dagster's database"
    try:
        return Finding(name, "ok", f"PostgreSQL {server_version(url, 'DAGSTER_POSTGRES_URL')}")
    except SettingsError as error:
        return Finding(name, "error", str(error))
    except sa.exc.DBAPIError as error:
        return Finding(name, "error", database_sentence(error))


def _connections(db: sa.Connection, settings: Settings) -> list[Finding]:
    users = connections.all_connections(db)
    paused = sum(one.pause is not None for one in users)
    able = sum(one.can_sync for one in users)
    waiting = len(users) - able - paused
    lacking = [one for one in users if missing_scopes(one.scope)]
    findings = [
        Finding(
            "users",
            "warning" if waiting else "ok",
            f"{able} of {len(users)} can be synced"
            + (f", {paused} paused by an operator" if paused else "")
            + (": see voiceai-pipeline users" if waiting else ""),
        )
    ]
    old = [one.user.name for one in users if one.rotation_is_due]
    if old:
        text = f"{', '.join(old)}: {PipelineError(FailureClass.PRIVATE_TOKEN_OLD)}"
        findings.append(Finding("private tokens", "warning", text))
    if lacking:
        names = ", ".join(one.user.name for one in lacking)
        needed = ", ".join(sorted({s for p in lacking for s in missing_scopes(p.scope)}))
        findings.append(Finding("scopes", "warning", f"{names}: {needed} missing, reconnect"))
    else:
        findings.append(Finding("scopes", "ok", "every user has the scopes to read calls"))
    findings += [_refreshes(db), _keys(db, users, settings), _spool(settings)]
    return findings


def _refreshes(db: sa.Connection) -> Finding:
    state = circuit_breaker.read(db)
    if not state.is_open or state.reason is None:
        return Finding("refresh", "ok", "tokens are refreshed automatically")
    why = PipelineError(state.reason, state.detail)
    text = f"suspended for all users since {state.opened_at:%Y-%m-%d %H:%M} UTC. {why}"
    return Finding("refresh", "error" if state.reason in OUR_FAILURES else "warning", text)


def _spool(settings: Settings) -> Finding:
    waiting = len(list((settings.home / "spool").glob("*.json")))
    if waiting:
        text = (
            f"{waiting} token pairs are on disk, not in the database yet: do not delete "
            f"{settings.home / 'spool'}; the next refresh stores them"
        )
        return Finding("spool", "warning", text)
    return Finding("spool", "ok", "no token pair is waiting for the database")


def _keys(db: sa.Connection, users: Sequence[Connection], settings: Settings) -> Finding:
    try:
        vault: TokenVault = open_vault(settings, db.engine)
    except SettingsError as error:
        return Finding("keys", "error", str(error))
    closed = []
    for one in users:
        row = token_row.read(db, one.user.id, None)
        if row is None:
            continue
        try:
            for column in ("access_token", "refresh_token", "location_access_token"):
                row.token(vault, column)
        except PipelineError as error:
            closed.append(f"{one.user.name} ({error.detail})")
    if closed:
        return Finding("keys", "error", f"cannot decrypt the tokens of {', '.join(closed)}")
    usage = key_rotation.usage(db, spool_path(settings), pairs_path(settings))
    old = sum(map(usage.needed, usage.key_ids - {vault.current}))
    if old or usage.unbound:
        text = (
            f"{old} connections still need an older key than {vault.current}, and {usage.unbound} "
            "are not bound to their generation: voiceai-pipeline keys encrypt"
        )
        return Finding("keys", "warning", text)
    return Finding("keys", "ok", "every stored token can be decrypted")
