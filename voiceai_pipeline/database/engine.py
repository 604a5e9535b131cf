"""Connecting to the database, its clock, and its errors as sentences.

Nothing relies on session state (no session-level advisory locks, no prepared statements), so a
pooler in transaction mode works too (decision 1).
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

import psycopg
import sqlalchemy as sa

from voiceai_pipeline.core.failures import FailureClass, PipelineError
from voiceai_pipeline.core.secret import Secret

DEFAULT_POOL_SIZE: Final = 8
"""Connections kept open; up to as many more are opened temporarily."""

_FRESH: Final = 1.0
"""Seconds after its last use for which a connection counts as alive. Many statements are short and
follow at once: a check before each would cost as much as the statement."""

_POOL_TIMEOUT: Final = 300.0
"""Seconds to wait for a connection from the pool. Transactions are short, but the last of many
workers may wait behind some that write a lot."""


def open_engine(url: Secret, *, pool_size: int = DEFAULT_POOL_SIZE) -> sa.Engine:
    """An engine for ``url`` (a ``postgresql+psycopg`` URL); nothing is connected yet.

    Bind values never appear in errors or logs: they hold tokens and calls.
    """
    engine = sa.create_engine(
        url.reveal(),
        hide_parameters=True,
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_timeout=_POOL_TIMEOUT,
        connect_args={"prepare_threshold": None, "connect_timeout": 10},
    )
    sa.event.listen(engine, "checkin", _note_use)
    sa.event.listen(engine, "checkout", _check_alive)
    return engine


def _note_use(_connection: Any, record: sa.pool.ConnectionPoolEntry) -> None:
    record.info["used_at"] = time.monotonic()


def _check_alive(connection: Any, record: sa.pool.ConnectionPoolEntry, _proxy: object) -> None:
    """Test a connection that was idle (``pool_pre_ping`` tests every one); the pool replaces it
    if the server closed it."""
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
    return PipelineError(failure, f"{name}, SQLSTATE {state}" if state else name)


def is_of_data(error: BaseException) -> bool:
    """True if a value is at fault (SQLSTATE classes 22 and 54): without it, the rest can be
    stored."""
    original = getattr(error, "orig", None)
    state = getattr(original, "sqlstate", None) or ""
    return isinstance(original, psycopg.DataError) or state.startswith(("22", "54"))


def is_unreachable(error: BaseException) -> bool:
    """True if the database cannot be reached or closed the connection, as in a restart; False if it
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
    """The simulated clock where there is one, else the database's (UTC)."""
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
"""Drivers' connection errors, in words that repeat nothing of the URL."""

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
