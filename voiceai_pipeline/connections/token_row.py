"""Reading a user's ``api_keys`` row: its tokens, encrypted until they are asked for, and its stamp.

Nothing is written here; ``token_store.py`` and ``connection_store.py`` do that.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa

from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.connection import SERVICE, Connection
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.database.tables import users

LIFELESS_REST: Final = timedelta(minutes=10)
"""How long a pair is used that was granted with no lifetime, before it is refreshed again."""


@dataclass(frozen=True)
class TokenRow:
    """The part of an ``api_keys`` row that the token lifecycle turns on, decrypted on demand.

    Attributes:
        now: the moment of reading: the database's clock, or the caller's.
        stored_state: the column as it is; None in a row of the source system.
        replayed: the exchange in doubt has been repeated already.
        rows: the user's rows at that moment, as in a ``Stamp``.
    """

    id: UUID
    connection: Connection
    version: int
    stored_state: str | None
    lease_id: UUID | None
    lease_expires_at: datetime | None
    replayed: bool
    location_token_expires_at: datetime | None
    now: datetime
    rows: str | None
    _stored: dict[str, str | None] = field(repr=False)

    @property
    def is_lifeless(self) -> bool:
        """The pair was granted within the last minutes with a lifetime that was over at once. Only
        the API can tell whether it works, and a refresh for every use would be a loop."""
        granted_at, ends_at = self.connection.refreshed_at, self.connection.token_expires_at
        return (
            granted_at is not None
            and ends_at is not None
            and ends_at <= granted_at
            and self.now < granted_at + LIFELESS_REST
        )

    def token(self, vault: TokenVault, column: str) -> Secret | None:
        """The token in ``column``, or None.

        Raises:
            PipelineError: TOKEN_UNREADABLE.
        """
        stored = self._stored[column]
        return vault.decrypt(stored, column, self.connection.user.id) if stored else None


_TOKEN_COLUMNS = ("access_token", "refresh_token", "location_access_token")


_ROWS: Final = "string_agg(id::text || ' ' || xmin::text, ',' ORDER BY id)"


def _reading(now: datetime | None) -> sa.Select[Any]:
    rows = f"(SELECT {_ROWS} FROM api_keys WHERE user_id = users.id AND service = '{SERVICE}')"  # noqa: S608
    of_user = connections.as_of(now).where(users.c.id == sa.bindparam("user"))
    return of_user.add_columns(sa.literal_column(rows, sa.Text).label("rows"))


_READING: Final = _reading(None)
"""Every run asks it for every location, and building it takes longer than asking it."""


def read(db: sa.Connection, user_id: UUID, now: datetime | None) -> TokenRow | None:
    """The current row of a user; None if the user never connected or does not exist."""
    query = _READING if now is None else _reading(now)
    row = db.execute(query, {"user": user_id}).mappings().one_or_none()
    if row is None or row["id"] is None:
        return None
    return TokenRow(
        id=row["id"],
        connection=connections.connection_of(row),
        version=row["token_version"],
        stored_state=row["connection_state"],
        lease_id=row["lease_id"],
        lease_expires_at=row["lease_expires_at"],
        replayed=row["refresh_replayed"],
        location_token_expires_at=row["location_token_expires_at"],
        now=row["read_at"].astimezone(UTC),
        rows=row["rows"],
        _stored={column: row[column] for column in _TOKEN_COLUMNS},
    )


@dataclass(frozen=True)
class Stamp:
    """Tells whether anything about a user's tokens has changed since it was read before.

    Attributes:
        rows: which rows, in which version; equal means untouched.
        expires_at: the first expiry of a token in use there (UTC); None if there is none.
        now: the database's clock.
    """

    rows: str | None
    expires_at: datetime | None
    now: datetime


def stamp(db: sa.Connection, user_id: UUID) -> Stamp:
    """The stamp of a user's rows, at a fraction of the cost of ``read``: every request needs it."""
    row = db.execute(_STAMP, {"user": user_id, "service": SERVICE}).one()
    return Stamp(row.rows, row.expires_at, row.now)


_STAMP: Final = sa.text(
    f"SELECT {_ROWS} AS rows, "  # noqa: S608 - our own names
    "min(CASE user_type WHEN 'Company' THEN location_token_expires_at ELSE token_expires_at END) "
    "FILTER (WHERE is_active IS NOT FALSE) AS expires_at, clock_timestamp() AS now "
    "FROM api_keys WHERE user_id = :user AND service = :service"
)
