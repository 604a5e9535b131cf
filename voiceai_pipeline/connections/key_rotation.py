"""Finds the keys that the stored tokens need, and encrypts all tokens with the newest one.

All rows count, also those of paused and disconnected users and those that the source system left
behind, and so do pairs on disk (``spool.py``). Each row is a short transaction, so refreshes go on.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa

from voiceai_pipeline.connections.newest_pairs import NewestPairs
from voiceai_pipeline.connections.spool import Spool, stored_tokens
from voiceai_pipeline.connections.token_row import mark
from voiceai_pipeline.connections.vault import TokenVault, is_sealed
from voiceai_pipeline.core.failures import PipelineError
from voiceai_pipeline.database.tables import api_keys

COLUMNS: Final = ("access_token", "refresh_token", "location_access_token")

PLAIN: Final = "plain text"
"""Stands for the key of tokens that are not encrypted."""


@dataclass(frozen=True)
class Usage:
    """How many stored tokens need each key.

    Attributes:
        rows: by key id, or ``PLAIN``: number of rows with a token that needs it.
        unbound: number of rows with a token that is not bound to its generation yet.
        spooled: by key id: number of pairs on disk that need it.
    """

    rows: Counter[str]
    unbound: int
    spooled: Counter[str]

    def needed(self, key_id: str) -> int:
        """How many rows and pairs cannot be read without this key."""
        return self.rows[key_id] + self.spooled[key_id]

    @property
    def key_ids(self) -> set[str]:
        """The keys that are needed."""
        return {key_id for key_id in (*self.rows, *self.spooled) if key_id != PLAIN}


@dataclass(frozen=True)
class Rotated:
    """The result of encrypting everything with the newest key.

    Attributes:
        done: rows and pairs that were encrypted again.
        busy: rows that were left alone, because their refresh is not settled yet.
        unreadable: users with a token that cannot be decrypted; it was not changed.
    """

    done: int
    busy: int
    unreadable: Sequence[UUID]


def usage(db: sa.Connection, *folders: Path) -> Usage:
    """The keys that the stored tokens need.

    Args:
        folders: those with pairs on disk that count too.
    """
    rows: Counter[str] = Counter()
    unbound = 0
    for row in db.execute(_ROWS):
        values = [value for column in COLUMNS if (value := getattr(row, column))]
        rows.update({key_of(value) for value in values})
        unbound += any(value.startswith("enc:v1:") for value in values)
    return Usage(
        rows,
        unbound,
        Counter(key_of(token) for folder in folders for token in stored_tokens(folder)),
    )


def key_of(stored: str) -> str:
    """The id of the key that a stored token needs, or ``PLAIN``."""
    return stored.split(":", 3)[2] if stored.startswith("enc:") and stored.count(":") > 2 else PLAIN


def encrypt_again(
    engine: sa.Engine,
    vault: TokenVault,
    spool: Spool,
    show: Callable[[int, int], None] | None = None,
    pairs: NewestPairs | None = None,
) -> Rotated:
    """Encrypt every encrypted token with the newest key, bound to its generation.

    Plain text, which another application may still read, stays so until its next refresh.

    Args:
        show: called after each row with the number of rows done and of all rows.
        pairs: the copies of the newest pairs, which are encrypted again too, but not counted.
    """
    with engine.begin() as db:
        ids = list(db.execute(_IDS).scalars())
    done, busy, unreadable = 0, 0, list[UUID]()
    for number, row_id in enumerate(ids, start=1):
        with engine.begin() as db:
            row = db.execute(_ROW, {"id": row_id}).one_or_none()
            if row is not None and row.lease_id is not None:
                # The exchange in flight compares the stored tokens with those that it has read.
                busy += 1
            elif row is not None:
                values, is_readable = _sealed(vault, row)
                if values:
                    db.execute(sa.update(api_keys).where(api_keys.c.id == row_id).values(values))
                done += bool(values)
                unreadable += [] if is_readable else [row.user_id]
        if show:
            show(number, len(ids))
    spooled, closed = spool.encrypt_again()
    _, lost = pairs.encrypt_again() if pairs else (0, [])
    return Rotated(done + spooled, busy, [*unreadable, *closed, *lost])


def _sealed(vault: TokenVault, row: sa.Row[Any]) -> tuple[dict[str, str], bool]:
    """The columns of a row to store again, and whether all its tokens can be read."""
    values, is_readable = dict[str, str](), True
    for column in COLUMNS:
        stored = getattr(row, column)
        if not stored or not is_sealed(stored):
            continue
        of_row = (column, row.user_id, row.token_version)
        try:
            # Up-to-date tokens are decrypted too, so that unreadable ones are found.
            token = vault.decrypt(stored, *of_row)
        except PipelineError:
            is_readable = False
        else:
            if not vault.is_current(stored):
                values[column] = vault.encrypt(token, *of_row)
    if values and row.tokens_mark == mark(row.access_token, row.refresh_token):
        kept = (values.get(name, getattr(row, name)) for name in ("access_token", "refresh_token"))
        values["tokens_mark"] = mark(*kept)
    return values, is_readable


_TOKENS: Final = sa.or_(*(api_keys.c[column].is_not(None) for column in COLUMNS))
_SELECTED: Final = [
    api_keys.c.id,
    api_keys.c.user_id,
    api_keys.c.token_version,
    api_keys.c.lease_id,
    api_keys.c.tokens_mark,
    *(api_keys.c[column] for column in COLUMNS),
]
_ROWS: Final = sa.select(*_SELECTED).where(_TOKENS, api_keys.c.user_id.is_not(None))
_IDS: Final = (
    sa.select(api_keys.c.id).where(_TOKENS, api_keys.c.user_id.is_not(None)).order_by(api_keys.c.id)
)
_ROW: Final = sa.select(*_SELECTED).where(api_keys.c.id == sa.bindparam("id")).with_for_update()
