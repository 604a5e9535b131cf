"""Sends queries without SQLAlchemy, for the few that are so frequent that its share matters (190 of
300 µs of a short query)."""

from collections.abc import Sequence
from typing import Any, LiteralString

import sqlalchemy as sa

from voiceai_pipeline.database.copy_format import errors_as_sqlalchemys


def rows_of(db: sa.Connection, query: LiteralString, values: Sequence[Any]) -> list[Any]:
    """The rows of a query with psycopg's placeholders.

    Raises:
        sqlalchemy.exc.DBAPIError: as for any other statement.
    """
    driver = db.connection.driver_connection
    assert driver is not None  # noqa: S101 - a checked-out connection has one
    try:
        with errors_as_sqlalchemys(), driver.cursor() as cursor:
            found: list[Any] = cursor.execute(query, values).fetchall()
            return found
    except sa.exc.DBAPIError:
        if driver.closed:
            db.invalidate()  # else the pool would hand it out again
        raise
