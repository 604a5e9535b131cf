"""Keeps new token pairs on disk while the database is down, so that no crash loses them.

HighLevel issues a pair once. If the database is down then, its only copy would be in the memory of
one process. There is one file per generation, with mode 0600, whose tokens are encrypted and bound
to their row as in the database. It is fsynced and renamed before anything else is tried, and
deleted once the database has the pair.
"""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from uuid import UUID

from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.connection import OAuthToken
from voiceai_pipeline.core.failures import FailureClass, PipelineError
from voiceai_pipeline.core.private_file import write_private
from voiceai_pipeline.core.secret import Secret


@dataclass(frozen=True)
class Generation:
    """The pair that a spooled one replaces: its user, row and ``token_version``."""

    user_id: UUID
    row_id: UUID
    version: int


@dataclass(frozen=True)
class SpooledPair:
    """A pair to be stored in the database.

    Attributes:
        started_at: when the POST started (UTC); the token's lifetime starts then.
    """

    token: OAuthToken
    started_at: datetime


class Spool:
    """Pairs on disk, by the generation they replace.

    Args:
        folder: created with the first pair.
    """

    def __init__(self, folder: Path, vault: TokenVault) -> None:
        self._folder = folder
        self._vault = vault

    def put(self, replaced: Generation, token: OAuthToken, started_at: datetime) -> None:
        """Keep a pair; it survives the end of the process and a power failure.

        Raises:
            OSError: it cannot be written; no partial file is left.
        """
        record = {
            "access_token": self._seal(token.access_token, "access_token", replaced),
            "refresh_token": self._seal(token.refresh_token, "refresh_token", replaced),
            # Always a lifetime in seconds, so that earlier versions can read the file.
            "expires_in": int(token.lifetime(started_at).total_seconds()),
            "remark": token.remark,
            "company_id": token.company_id,
            "user_type": token.user_type,
            "scope": token.scope,
            "trace_id": token.trace_id,
            "started_at": started_at.isoformat(),
        }
        write_private(self._path(replaced), json.dumps(record))

    def get(self, replaced: Generation) -> SpooledPair | None:
        """The pair that replaces a generation, or None.

        Raises:
            PipelineError: TOKEN_UNREADABLE: its key is missing, or the file cannot be read; the
                file stays.
        """
        path = self._path(replaced)
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:
            raise PipelineError(
                FailureClass.TOKEN_UNREADABLE,
                f"the pair in {path.name} of the spool cannot be read, {type(error).__name__}",
            ) from None

        def unseal(column: str) -> Secret | None:
            stored = record[column]
            of_row = (column, replaced.user_id, replaced.version + 1)
            return self._vault.decrypt(stored, *of_row) if stored else None

        token = OAuthToken(
            access_token=unseal("access_token"),
            expires_in=record["expires_in"],
            refresh_token=unseal("refresh_token"),
            company_id=record["company_id"],
            user_type=record["user_type"],
            scope=record["scope"],
            trace_id=record["trace_id"],
            remark=record.get("remark", ""),
        )
        return SpooledPair(token, datetime.fromisoformat(record["started_at"]))

    def _seal(self, token: Secret | None, column: str, replaced: Generation) -> str | None:
        return self._vault.seal(token, column, replaced.user_id, replaced.version + 1)

    def encrypt_again(self) -> tuple[int, list[UUID]]:
        """Encrypt all pairs on disk with the newest key. Return how many were encrypted, and
        the users whose pair cannot be read; those stay as they are."""
        done, closed = 0, list[UUID]()
        for waiting in self.waiting():
            try:
                pair = self.get(waiting)
            except PipelineError:
                closed.append(waiting.user_id)
                continue
            if pair is not None:
                # If the database stores the pair meanwhile, this rewrites a file of a spent
                # generation, which the next refresh removes.
                self.put(waiting, pair.token, pair.started_at)
                done += 1
        return done, closed

    def remove(self, replaced: Generation) -> None:
        """Delete a pair, because the database has it or a newer one."""
        self._path(replaced).unlink(missing_ok=True)

    def waiting(self) -> Iterator[Generation]:
        """The generations of all pairs on disk."""
        for path in sorted(self._folder.glob("*.json")):
            try:
                user_id, row_id, version = path.stem.split(".")
                yield Generation(UUID(user_id), UUID(row_id), int(version))
            except ValueError:
                continue  # not one of ours

    def forget(self, user_id: UUID) -> None:
        """Delete all pairs of a user, partial files included."""
        for path in (*self._folder.glob(f"{user_id}.*"), *self._folder.glob(f".{user_id}.*")):
            path.unlink(missing_ok=True)

    def _path(self, replaced: Generation) -> Path:
        name = f"{replaced.user_id}.{replaced.row_id}.{replaced.version}.json"
        return self._folder / name


def stored_tokens(folder: Path) -> Iterator[str]:
    """One encrypted token of each pair on disk; a pair's other token needs the same key."""
    for path in sorted(folder.glob("*.json")):
        with contextlib.suppress(OSError, ValueError, KeyError):
            record = json.loads(path.read_text(encoding="utf-8"))
            yield record["access_token"] or record["refresh_token"] or ""
