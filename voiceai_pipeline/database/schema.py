"""What the modules of tables share: the metadata, and the tables that another system may own.

``migrations/`` creates the tables; a test checks that both are equal. ``migrate`` writes the
comments of all tables and columns into the database. ``users``, ``api_keys`` and ``sync_status``
keep the source system's columns, so that the existing application can read them; our columns are
nullable or have a default.
"""

from typing import Any, Final

import sqlalchemy as sa

from voiceai_pipeline.database.engine import UtcDateTime

metadata = sa.MetaData()

ADOPTED: Final = ("users", "api_keys", "sync_status")
"""Tables that the source system may have created."""

VERSION_TABLE: Final = "voiceai_alembic_version"
"""Our own name: Dagster's ``alembic_version`` is in the same search path (decision 1)."""


def instant(name: str, **options: Any) -> sa.Column[Any]:
    """A column that holds a point in time; Python reads and writes it in UTC."""
    return sa.Column(name, UtcDateTime, **options)
