"""Reads a user's ``api_keys`` row: its tokens, which stay encrypted until needed, and its stamp.

Nothing is written here; ``token_store.py`` and ``connection_store.py`` write.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.connections.vault import TokenVault, is_sealed
from voiceai_pipeline.core.connection import SERVICE, Connection
from voiceai_pipeline.core.failures import PipelineError
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.database.current_connections import CURRENT_CONNECTION
from voiceai_pipeline.database.tables import api_keys, users

LIFELESS_REST: Final = timedelta(minutes=10)
"""How long a pair that was granted without a lifetime is used before it is refreshed."""


@dataclass(frozen=True)
class TokenRow:
    """The part of an ``api_keys`` row that the token lifecycle needs, decrypted on demand.

    Attributes:
        now: when it was read (UTC), by the database's clock or the caller's.
        stored_state: ``connection_state`` as stored; None in a row of the source system.
        replayed: the exchange in doubt has been replayed already.
        rows: the user's rows with their versions, as in a ``Stamp`` while there is no pause.
        tokens_mark: the mark of the tokens that the stored state describes; None if unknown.
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
    rows: str
    tokens_mark: str | None
    _stored: dict[str, str | None] = field(repr=False)

    @property
    def is_lifeless(self) -> bool:
        """Whether the pair was granted minutes ago with a lifetime of zero. It is used anyway: only
        the API can tell whether it works, and refreshing it before each use would loop."""
        granted_at, expires_at = self.connection.refreshed_at, self.connection.token_expires_at
        return (
            granted_at is not None
            and expires_at == granted_at
            and self.now < granted_at + LIFELESS_REST
        )

    @property
    def was_replaced(self) -> bool:
        """Whether another application has stored plain-text tokens since we stored the state."""
        if self.tokens_mark is None or self.tokens_mark == self.mark:
            return False
        stored = (self._stored["access_token"], self._stored["refresh_token"])
        return any(text and not is_sealed(text) for text in stored)

    @property
    def mark(self) -> str:
        """The mark of the tokens as read."""
        return mark(self._stored["access_token"], self._stored["refresh_token"])

    def has_refresh_token(self, stored: str | None, vault: TokenVault) -> bool:
        """Whether a stored refresh token of this generation is the one that was read, perhaps
        encrypted again since (``key_rotation.py``)."""
        if stored == self._stored["refresh_token"]:
            return True
        if stored is None:
            return False
        of_row = ("refresh_token", self.connection.user.id, self.version)
        try:
            return vault.decrypt(stored, *of_row) == self.token(vault, "refresh_token")
        except PipelineError:
            return False

    def of_next_generation(self, vault: TokenVault) -> dict[str, str | None]:
        """Both tokens as the next generation stores them. Encrypted ones are encrypted for that
        generation; plain text, which another application still reads, stays until its next refresh.

        Raises:
            PipelineError: TOKEN_UNREADABLE.
        """
        kept: dict[str, str | None] = {}
        for column in ("access_token", "refresh_token"):
            kept[column] = stored = self._stored[column]
            if stored and is_sealed(stored):
                token = self.token(vault, column)
                kept[column] = vault.seal(token, column, self.connection.user.id, self.version + 1)
        return kept

    def is_unchanged(self) -> sa.ColumnElement[bool]:
        """Whether the row still holds the tokens that were read."""
        return sa.and_(
            *(
                api_keys.c[name].is_not_distinct_from(self._stored[name])
                for name in ("access_token", "refresh_token")
            )
        )

    @property
    def has_access_token(self) -> bool:
        """Whether an access token is stored: an answer may have held a refresh token only."""
        return self._stored["access_token"] is not None

    @property
    def is_company(self) -> bool:
        """Whether the tokens are an agency's, which read calls only through a location token."""
        return self.connection.user_type == "Company"

    def token(self, vault: TokenVault, column: str) -> Secret | None:
        """The token in ``column``, or None.

        Raises:
            PipelineError: TOKEN_UNREADABLE.
        """
        stored = self._stored[column]
        of_row = (column, self.connection.user.id, self.version)
        return vault.decrypt(stored, *of_row) if stored else None


def mark(access_token: str | None, refresh_token: str | None) -> str:
    """The mark of two stored tokens: it shows whether another application has replaced them, and
    reveals no more than the stored tokens do."""
    return hashlib.sha256(f"{access_token or ''}|{refresh_token or ''}".encode()).hexdigest()


_TOKEN_COLUMNS: Final = ("access_token", "refresh_token", "location_access_token")

_COLUMNS: Final = (
    *("id", "connection_state", "lease_id", "refresh_replayed", "location_token_expires_at"),
    *("tokens_mark", *_TOKEN_COLUMNS),
)
"""Those that a ``Connection`` has not."""


_ROWS: Final = "string_agg(id::text || ' ' || xmin::text, ',' ORDER BY id)"


def _reading(now: datetime | None) -> sa.Select[Any]:
    rows = f"(SELECT {_ROWS} FROM api_keys WHERE user_id = users.id AND service = '{SERVICE}')"  # noqa: S608
    these = users.c.id == sa.func.any(sa.bindparam("users", type_=ARRAY(sa.Uuid)))
    # Without an order, which is not needed: psycopg parses a text above 4 kB each time.
    of_users = connections.as_of(now).where(these).order_by(None)
    own = (CURRENT_CONNECTION.c[name] for name in _COLUMNS)
    return of_users.add_columns(*own, sa.literal_column(rows, sa.Text).label("rows"))


_READING: Final = _reading(None)
"""Built once: every run sends it many times, and building it takes longer."""


def read(db: sa.Connection, user_id: UUID, now: datetime | None) -> TokenRow | None:
    """The current row of a user; None if the user never connected or does not exist."""
    return next(iter(read_all(db, [user_id], now)), None)


def read_all(db: sa.Connection, user_ids: Sequence[UUID], now: datetime | None) -> list[TokenRow]:
    """The current rows of these users, as far as they have one."""
    query = _READING if now is None else _reading(now)
    rows = db.execute(query, {"users": list(user_ids)}).mappings().all()
    return [_token_row(row) for row in rows if row["id"] is not None]


def _token_row(row: sa.RowMapping) -> TokenRow:
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
        tokens_mark=row["tokens_mark"],
        _stored={column: row[column] for column in _TOKEN_COLUMNS},
    )


@dataclass(frozen=True)
class Stamp:
    """Shows whether a user's tokens or the pause of the user's syncs have changed since they were
    read.

    Attributes:
        rows: the rows and their versions, and a pause; equal means unchanged.
        expires_at: the first expiry of a token in use (UTC); None if there is none.
        now: the database's clock.
    """

    rows: str
    expires_at: datetime | None
    now: datetime


def stamps(db: sa.Connection, user_ids: Sequence[UUID]) -> dict[UUID, Stamp]:
    """The stamp of each user's rows; far cheaper than ``read``."""
    found = db.execute(_STAMPS, {"users": list(user_ids), "service": SERVICE})
    return {row.id: Stamp(row.rows, row.expires_at, row.now) for row in found}


_STAMPS: Final = sa.text(
    # During a pause the stamp is that of no row: the row is read, and says so.
    "SELECT u.id, concat(s.rows, ' paused ' || p.since) AS rows, s.expires_at, "  # noqa: S608 - our own names
    "clock_timestamp() AS now "
    "FROM unnest(:users) AS u(id) LEFT JOIN sync_pauses AS p ON p.user_id = u.id, "
    f"LATERAL (SELECT {_ROWS} AS rows, "
    "min(CASE user_type WHEN 'Company' THEN location_token_expires_at "
    "WHEN 'Private' THEN clock_timestamp() + interval '1 day' ELSE token_expires_at END) "
    "FILTER (WHERE is_active IS NOT FALSE) AS expires_at "
    "FROM api_keys WHERE user_id = u.id AND service = :service) AS s"
).bindparams(sa.bindparam("users", type_=ARRAY(sa.Uuid)))
