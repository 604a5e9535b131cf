"""Keeps each user's newest token pair on disk, encrypted, in case a backup is restored.

A refresh token in a backup is spent if it was used after the backup was made. So the pair that
replaced it is kept outside the database as well: one file per user, mode 0600, written right after
the database has the pair. A disconnection is kept too, so that restoring a backup does not undo it.
``restoration.py`` decides what a newer file means for the database.
"""

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self
from uuid import UUID

from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.connection import Connection, ConnectionState, OAuthToken
from voiceai_pipeline.core.failures import PipelineError
from voiceai_pipeline.core.private_file import write_private
from voiceai_pipeline.core.secret import Secret

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class NewestPair:
    """What is kept of one user's connection.

    Attributes:
        at: when HighLevel granted the pair, or when the user was disconnected (UTC).
        is_disconnection: the user was disconnected; there are no tokens.
        witnessed: the process that got the pair wrote it; False once it was used to bring a
            restored database up to date, because another machine may have a newer one.
    """

    user_id: UUID
    at: datetime
    is_disconnection: bool
    witnessed: bool
    _sealed: dict[str, Any]

    def is_newer_than(self, connection: Connection) -> bool:
        """Whether this pair or disconnection is newer than what the database has."""
        is_disconnected = connection.state is ConnectionState.DISCONNECTED
        if self.is_disconnection and (
            is_disconnected or connection.state is ConnectionState.NEVER_CONNECTED
        ):
            return False
        ended_at = connection.since if is_disconnected else None
        known = [instant for instant in (connection.refreshed_at, ended_at) if instant]
        return not known or self.at > max(known)

    def token(self, vault: TokenVault) -> OAuthToken:
        """The pair, with its location.

        Raises:
            PipelineError: TOKEN_UNREADABLE: its key is missing, or the file is damaged.
        """
        sealed = self._sealed

        def unseal(column: str) -> Secret | None:
            stored = sealed.get(column)
            return vault.decrypt(stored, column, self.user_id) if stored else None

        return OAuthToken(
            access_token=unseal("access_token"),
            refresh_token=unseal("refresh_token"),
            expires_at=datetime.fromisoformat(sealed["expires_at"]),
            location_id=sealed["location_id"],
            company_id=sealed["company_id"],
            user_type=sealed["user_type"],
            scope=sealed["scope"],
        )

    @classmethod
    def parsed(cls, user_id: UUID, text: str) -> Self:
        """Parse a file's content.

        Raises:
            ValueError, KeyError, TypeError: it is not a file of ours, or damaged.
        """
        record = json.loads(text)
        if not record["is_disconnection"]:
            datetime.fromisoformat(record["expires_at"])
            record = dict.fromkeys(("location_id", "company_id", "user_type", "scope")) | record
        return cls(
            user_id,
            datetime.fromisoformat(record["at"]).astimezone(UTC),
            bool(record["is_disconnection"]),
            bool(record["witnessed"]),
            record,
        )


class NewestPairs:
    """The newest pair of every user, on this machine or on a volume that machines share.

    A failure to write is only logged, because the database has the pair.

    Args:
        folder: created with the first pair.
    """

    def __init__(self, folder: Path, vault: TokenVault) -> None:
        self._folder = folder
        self._vault = vault

    def keep(self, connection: Connection, token: OAuthToken, granted_at: datetime) -> None:
        """Keep a pair that the database has just stored.

        Args:
            connection: the user, and values for what the answer omits.
            token: the answer, with the stored refresh token if it has none (``with_stored``).
            granted_at: when the exchange started (UTC), as stored.
        """
        user_id, seal = connection.user.id, self._vault.seal
        self._write(
            user_id,
            {
                "at": granted_at.isoformat(),
                "is_disconnection": False,
                "witnessed": True,
                "access_token": seal(token.access_token, "access_token", user_id),
                "refresh_token": seal(token.refresh_token, "refresh_token", user_id),
                "expires_at": (granted_at + token.lifetime(granted_at)).isoformat(),
                "location_id": connection.location_id or token.location_id,
                "company_id": token.company_id or connection.company_id,
                "user_type": token.user_type or connection.user_type,
                "scope": token.scope or connection.scope,
            },
        )

    def keep_disconnection(self, user_id: UUID, at: datetime) -> None:
        """Replace a user's pair with a record that the user was disconnected ``at`` (UTC)."""
        record = {"at": at.isoformat(), "is_disconnection": True, "witnessed": True}
        self._write(user_id, record)

    def keep_location(self, user_id: UUID, location_id: str) -> None:
        """Record the location that was chosen for a user's pair."""
        pair = self.find(user_id)
        if pair is not None and not pair.is_disconnection:
            self._write(user_id, {**pair._sealed, "location_id": location_id})

    def mark_used(self, pair: NewestPair) -> None:
        """Record that the database was brought up to date with ``pair``."""
        self._write(pair.user_id, {**pair._sealed, "witnessed": False})

    def put_back(self, backup: Self) -> None:
        """Take over those pairs of a backup that are newer than ours, or that we do not have."""
        for user_id in backup.users():
            saved, ours = backup.find(user_id), self.find(user_id)
            if saved is not None and (ours is None or ours.at < saved.at):
                self.mark_used(saved)

    def encrypt_again(self) -> tuple[int, list[UUID]]:
        """Encrypt all pairs with the newest key. Return how many were encrypted, and the users
        whose pair cannot be read; those stay as they are."""
        done, closed = 0, list[UUID]()
        for user_id in self.users():
            pair = self.find(user_id)
            if pair is None or pair.is_disconnection:
                continue
            try:
                token = pair.token(self._vault)
            except PipelineError:
                closed.append(user_id)
                continue
            seal = self._vault.seal
            sealed = {
                "access_token": seal(token.access_token, "access_token", user_id),
                "refresh_token": seal(token.refresh_token, "refresh_token", user_id),
            }
            self._write(user_id, {**pair._sealed, **sealed})
            done += 1
        return done, closed

    def find(self, user_id: UUID) -> NewestPair | None:
        """What is kept of a user; None if nothing is, or the file cannot be read."""
        path = self._path(user_id)
        try:
            return NewestPair.parsed(user_id, path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("%s cannot be read (%s); it is ignored.", path, type(error).__name__)
            return None

    def users(self) -> Iterator[UUID]:
        """The users of whom something is kept."""
        for path in sorted(self._folder.glob("*.json")):
            try:
                yield UUID(path.stem)
            except ValueError:
                continue  # not one of ours

    def forget(self, user_id: UUID) -> None:
        """Delete what is kept of a user."""
        self._path(user_id).unlink(missing_ok=True)

    def _write(self, user_id: UUID, record: dict[str, Any]) -> None:
        try:
            write_private(self._path(user_id), json.dumps(record))
        except OSError as error:
            # An outdated pair must not be restored in place of the newest one.
            self._path(user_id).unlink(missing_ok=True)
            log.warning(
                "The copy of user %s's newest token pair cannot be written to %s (%s). The "
                "database has it; without the copy, restoring a backup ends this connection.",
                user_id,
                self._folder,
                error.strerror,
            )

    def _path(self, user_id: UUID) -> Path:
        return self._folder / f"{user_id}.json"


def with_stored(token: OAuthToken, refresh_token: Secret | None) -> OAuthToken:
    """The pair to store: if the answer has no refresh token, the stored one is kept."""
    return token if token.refresh_token else replace(token, refresh_token=refresh_token)
