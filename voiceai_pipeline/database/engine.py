"""Connecting to the database, its clock, and its errors as sentences.

The only place that opens connections. It sets what we rely on: encoding, formats, time zone,
isolation, search path, no time-outs. So neither the shell's variables nor defaults of a role or
database change what is stored (decision 29). Nothing relies on other session state (no
session-level advisory locks, no prepared statements), so a pooler in transaction mode works too
(decision 1).
"""

import errno
import logging
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

import psycopg
import sqlalchemy as sa

from voiceai_pipeline.core.failures import FailureClass, PipelineError
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.database.libpq_environment import ignore_environment

DEFAULT_POOL_SIZE: Final = 8
"""Connections kept open; up to as many more are opened temporarily."""

_FRESH: Final = 1.0
"""Seconds for which a connection counts as alive after its last use. Many statements are short and
follow each other closely: a check before each would cost as much as the statement."""

_POOL_TIMEOUT: Final = 300.0
"""Seconds to wait for a connection from the pool. Transactions are short, but the last of many
workers may wait for several that write a lot."""


def _is_no_row(record: logging.LogRecord) -> bool:
    """False for rows that were read, which SQLAlchemy logs at DEBUG: ``hide_parameters`` hides only
    bind values."""
    return record.levelno > logging.DEBUG


# A filter, because setting the logger's level would make SQLAlchemy log statements.
logging.getLogger("sqlalchemy.engine.Engine").addFilter(_is_no_row)

_SETTINGS: Final = {
    "TimeZone": "UTC",
    "DateStyle": "ISO,MDY",
    "IntervalStyle": "postgres",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "standard_conforming_strings": "on",
    "array_nulls": "on",
    "transform_null_equals": "off",
    "search_path": '"$user",public',
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    "default_transaction_deferrable": "off",
    "row_security": "on",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
}
"""What all sessions rely on, whatever the defaults of the role, database or server are."""

_REPORTED: Final = ("TimeZone", "DateStyle", "IntervalStyle", "standard_conforming_strings")
"""Those of them that a server reports automatically (ParameterStatus)."""


def open_engine(url: Secret, *, pool_size: int = DEFAULT_POOL_SIZE) -> sa.Engine:
    """An engine for ``url`` (a ``postgresql+psycopg`` URL); nothing is connected yet.

    Bind values never appear in errors or logs: they hold tokens and calls.

    Raises:
        PipelineError: DATABASE, later, on connecting: the database's encoding is not UTF-8.
    """
    engine = _create_engine(
        url, {"prepare_threshold": None},
        pool_size=pool_size, max_overflow=pool_size, pool_timeout=_POOL_TIMEOUT,
    )  # fmt: skip
    sa.event.listen(engine, "do_connect", _connect)
    sa.event.listen(engine, "connect", _settle)
    sa.event.listen(engine, "checkin", _note_use)
    sa.event.listen(engine, "checkout", _check_alive)
    return engine


def server_version(url: Secret) -> str:
    """The version of the server at ``url``, which may name either driver.

    Raises:
        sqlalchemy.exc.OperationalError: it does not answer.
    """
    engine = _create_engine(url, {}, poolclass=sa.NullPool)
    with engine.connect() as db:
        version: str = db.execute(sa.text("SHOW server_version")).scalar_one()
    return version


def _create_engine(url: Secret, arguments: dict[str, Any], **options: Any) -> sa.Engine:
    ignore_environment()
    address = sa.make_url(url.reveal())
    given = address.query.get("options", "")
    own = " ".join(f"-c {name}={value.replace(' ', _SPACE)}" for name, value in _SETTINGS.items())
    arguments = {
        "connect_timeout": 10,
        "client_encoding": "UTF8",
        # The URL's options come last, so that the schema that it names is the search path.
        "options": f"{own} {given if isinstance(given, str) else ' '.join(given)}".rstrip(),
        **arguments,
    }
    address = address.difference_update_query(["options", "client_encoding"])
    return sa.create_engine(address, hide_parameters=True, connect_args=arguments, **options)


_SPACE: Final = "\\ "


def _connect(dialect: Any, _record: Any, cargs: Any, cparams: dict[str, Any]) -> Any:
    """Connect; if a pooler refuses our settings, without them: ``_settle`` then sets them."""
    try:
        return dialect.connect(*cargs, **cparams)
    except psycopg.OperationalError as error:
        if "startup parameter" not in str(error):
            raise
        return dialect.connect(*cargs, **{**cparams, "options": ""})


def _settle(connection: psycopg.Connection, _record: Any) -> None:
    """Check a new connection; set what a pooler left out.

    Raises:
        PipelineError: DATABASE: the database's encoding is not UTF-8.
    """
    reported = connection.info.parameter_status
    encoding = reported("server_encoding")
    if encoding not in (None, "UTF8"):
        connection.close()
        raise PipelineError(
            FailureClass.DATABASE,
            f"the database has the encoding {encoding}: create one with ENCODING 'UTF8'",
        )
    wanted = {name: _SETTINGS[name].replace(",", ", ") for name in _REPORTED}
    if any(reported(name) != value for name, value in wanted.items()):
        with connection.cursor() as cursor:
            names, values = list(_SETTINGS), list(_SETTINGS.values())
            cursor.execute(
                "SELECT set_config(name, value, false) FROM unnest(%s::text[], %s::text[]) "
                "AS s(name, value)",
                (names, values),
            )
        connection.commit()


def _note_use(_connection: Any, record: sa.pool.ConnectionPoolEntry) -> None:
    record.info["used_at"] = time.monotonic()


def _check_alive(connection: Any, record: sa.pool.ConnectionPoolEntry, _proxy: object) -> None:
    """Test a connection that was idle, so that the pool replaces it if the server closed it.
    (``pool_pre_ping`` would test it before each use.)"""
    used_at = record.info.get("used_at")
    if used_at is None or time.monotonic() - used_at < _FRESH:
        return
    try:
        connection.execute("SELECT 1")
        connection.rollback()
    except psycopg.Error:
        raise sa.exc.DisconnectionError from None


def database_error(error: sa.exc.SQLAlchemyError) -> PipelineError:
    """The failure to show for a database error: its kind, never its text, which may quote a row."""
    original = getattr(error, "orig", None) or error
    state = getattr(original, "sqlstate", None)
    name = type(original).__name__
    failure = FailureClass.UNSTORABLE if is_of_data(error) else FailureClass.DATABASE
    if _is_disk_full(original):
        failure = FailureClass.DISK_FULL
    return PipelineError(failure, f"{name}, SQLSTATE {state}" if state else name)


def _is_disk_full(original: object) -> bool:
    """Also true if the server cannot even open a connection, an error without SQLSTATE."""
    state = getattr(original, "sqlstate", None)
    return state == _DISK_FULL or os.strerror(errno.ENOSPC).lower() in str(original).lower()


def is_of_data(error: BaseException) -> bool:
    """True if a value caused the error (SQLSTATE classes 22 and 54): without that value, the rest
    can be stored."""
    original = getattr(error, "orig", None)
    state = getattr(original, "sqlstate", None) or ""
    return isinstance(original, psycopg.DataError) or state.startswith(("22", "54"))


def is_unreachable(error: BaseException) -> bool:
    """True if the database cannot be reached, or closed the connection as in a restart; False if it
    refused the request."""
    if not isinstance(error, sa.exc.OperationalError):
        return False
    state = getattr(error.orig, "sqlstate", None)
    return state is None or state.startswith(("08", "57P"))


def autocommit(engine: sa.Engine) -> sa.Connection:
    """A connection in autocommit mode: a single query needs no round trips for BEGIN and COMMIT."""
    return engine.connect().execution_options(isolation_level="AUTOCOMMIT")


def database_now(db: sa.Connection) -> datetime:
    """The database's clock (UTC): the one clock that all processes share (REQUIREMENTS T12)."""
    now: datetime = db.execute(_NOW).scalar_one()
    return now.astimezone(UTC)


_NOW: Final = sa.text("SELECT clock_timestamp()")


def read_clock(db: sa.Connection, simulated: Callable[[], datetime] | None) -> datetime:
    """The time of the simulated clock if there is one, else of the database's (UTC)."""
    return simulated() if simulated else database_now(db)


class UtcDateTime(sa.types.TypeDecorator[datetime]):
    """``timestamptz`` that accepts only aware times and returns aware UTC times."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> datetime | None:
        if value is not None and value.tzinfo is None:
            raise ValueError("a naive datetime reached the database; pass an aware UTC one")
        return value

    def process_result_value(self, value: datetime | None, dialect: Any) -> datetime | None:
        return value and value.astimezone(UTC)


_UNREACHABLE: Final = {
    "refused": "nothing listens there",
    "no such file": "nothing listens there",
    "resolve host": "there is no such host",
    "translate host": "there is no such host",
    "timeout": "no answer in time",
    "timed out": "no answer in time",
    "password": "it rejected the user or password",
    "does not exist": "there is no such database or user",
    "too many": "it has no free connection",
}
"""Parts of drivers' connection errors, and our words for them, which reveal nothing of the URL."""

_NO_RIGHT: Final = "42501"
"""SQLSTATE of a missing privilege."""

_DISK_FULL: Final = "53100"

_NO_TABLES: Final = ("42P01", "42703")
"""SQLSTATEs of a missing table and of a missing column."""


def database_sentence(error: sa.exc.DBAPIError) -> str:
    """A sentence: what failed and what to do, without the URL, a password or a row."""
    kind = type(error.orig).__name__
    state = getattr(error.orig, "sqlstate", None)
    if state in _NO_TABLES:
        return (
            "The database does not have our tables yet, or only older ones. Create them with: "
            "voiceai-pipeline migrate"
        )
    if state == _NO_RIGHT:
        return (
            "The database user may not do this. Tables are created and migrated by their owner: "
            "run voiceai-pipeline migrate with VOICEAI_OWNER_DATABASE_URL; it also gives the "
            "application's role its rights. Nothing was half written."
        )
    if _is_disk_full(error.orig):
        return f"{database_error(error)}"
    if not isinstance(error, sa.exc.OperationalError):
        return (
            f"The database refused a request ({kind}, SQLSTATE {state}); nothing was half written. "
            "Examine it with: voiceai-pipeline doctor"
        )
    said = str(error.orig).lower()
    reason = next((plain for words, plain in _UNREACHABLE.items() if words in said), kind)
    dagster = type(error.orig).__module__.startswith("psycopg2")
    name = "DAGSTER_POSTGRES_URL" if dagster else "VOICEAI_DATABASE_URL"
    return (
        f"The database does not answer: {reason}. Check that it runs and that {name} names it: "
        "host, port, database, user and password."
    )
