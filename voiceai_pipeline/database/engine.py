"""Opens the database: one way, with settings that a transaction pooler survives.

No session state is relied upon (no advisory session locks, no prepared statements), so a pooler in
transaction mode works too (decision 1).
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
"""Connections that are kept; as many more are opened and closed where these do not suffice."""

_FRESH: Final = 1.0
"""Seconds for which a connection that has just answered is taken to be alive. Many statements are
short and follow each other at once: to ask each time first would cost as much as the statement."""

_PATIENCE: Final = 300.0
"""Seconds to wait for a connection of the pool. Everybody holds one for a short transaction only,
but the last of many workers may stand behind some that write a great deal."""


def open_engine(url: Secret, *, pool_size: int = DEFAULT_POOL_SIZE) -> sa.Engine:
    """An engine for ``url`` (a ``postgresql+psycopg`` URL); nothing is connected yet.

    Bind values never appear in errors or logs: they hold tokens and calls.
    """
    engine = sa.create_engine(
        url.reveal(),
        hide_parameters=True,
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_timeout=_PATIENCE,
        connect_args={"prepare_threshold": None, "connect_timeout": 10},
    )
    sa.event.listen(engine, "checkin", _note_use)
    sa.event.listen(engine, "checkout", _see_that_it_lives)
    return engine


def _note_use(_connection: Any, record: sa.pool.ConnectionPoolEntry) -> None:
    record.info["used_at"] = time.monotonic()


def _see_that_it_lives(
    connection: Any, record: sa.pool.ConnectionPoolEntry, _proxy: object
) -> None:
    """Ask a connection that rested whether its server is still there, as ``pool_pre_ping`` asks
    every one. The pool opens another one if it is not."""
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
    return PipelineError(FailureClass.DATABASE, f"{name}, SQLSTATE {state}" if state else name)


def is_away(error: BaseException) -> bool:
    """True if the database cannot be reached or ended the connection, as when it restarts; False
    if it refused what was asked."""
    if not isinstance(error, sa.exc.OperationalError):
        return False
    state = getattr(error.orig, "sqlstate", None)
    return state is None or state.startswith(("08", "57P"))


def asking(engine: sa.Engine) -> sa.Connection:
    """A connection on which every statement is a transaction of its own: for a single question, for
    which BEGIN and COMMIT would be two more round trips."""
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
    """``timestamptz`` that takes and gives aware UTC times only."""

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
    "password": "it does not accept the user and password",
    "does not exist": "there is no such database or user",
    "too many": "it has no free connection",
}
"""What drivers say when they cannot connect, in words that repeat nothing of the URL."""

_NO_TABLES: Final = ("42P01", "42703")
"""SQLSTATEs of a table and of a column that is not there."""


def database_sentence(error: sa.exc.DBAPIError) -> str:
    """What the database refused and what to do, without its URL, a password or a row."""
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
