"""A new token pair on disk while the database cannot take it, so that no crash loses it.

HighLevel gives a pair once. Where the database is away at that very moment, the pair's only copy
would be in the memory of one process. One file per generation, 0600, the tokens encrypted and bound
to their row just as in the database; synced and renamed before anything else is tried, deleted once
the database has it.
"""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from uuid import UUID

from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.connection import OAuthToken
from voiceai_pipeline.core.failures import FailureClass, PipelineError
from voiceai_pipeline.core.secret import Secret


@dataclass(frozen=True)
class Generation:
    """Which pair a spooled one replaces: the row, its user and its ``token_version``."""

    user_id: UUID
    row_id: UUID
    version: int


@dataclass(frozen=True)
class SpooledPair:
    """A pair that waits for the database.

    Attributes:
        started_at: when the POST began (UTC); the expiry counts from here.
    """

    token: OAuthToken
    started_at: datetime


class Spool:
    """Pairs on disk, found again by the generation they replace.

    Args:
        folder: made when the first pair comes.
    """

    def __init__(self, folder: Path, vault: TokenVault) -> None:
        self._folder = folder
        self._vault = vault

    def put(self, replaced: Generation, token: OAuthToken, started_at: datetime) -> None:
        """Keep a pair; it survives the process and a power cut.

        Raises:
            OSError: it cannot be written; nothing is half there.
        """
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        seal, user_id = self._vault.seal, replaced.user_id
        record = {
            "access_token": seal(token.access_token, "access_token", user_id),
            "refresh_token": seal(token.refresh_token, "refresh_token", user_id),
            # Its lifetime is settled here: the file stays readable for earlier versions.
            "expires_in": int(token.lifetime(started_at).total_seconds()),
            "remark": token.remark,
            "company_id": token.company_id,
            "user_type": token.user_type,
            "scope": token.scope,
            "trace_id": token.trace_id,
            "started_at": started_at.isoformat(),
        }
        prefix = f".{replaced.user_id}."
        descriptor, name = tempfile.mkstemp(prefix=prefix, dir=self._folder)  # 0600
        draft = Path(name)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(record, file)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self._path(replaced))
        except BaseException:
            with contextlib.suppress(OSError):
                draft.unlink()
            raise
        _sync_folder(self._folder)

    def get(self, replaced: Generation) -> SpooledPair | None:
        """The pair that replaces a generation; None if none waits.

        Raises:
            PipelineError: TOKEN_UNREADABLE: its key is gone, or the file cannot be read; it stays
                for when it can.
        """
        path = self._path(replaced)
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:
            raise PipelineError(
                FailureClass.TOKEN_UNREADABLE,
                f"a pair waits in {path.name} of the spool and cannot be read, "
                f"{type(error).__name__}",
            ) from None

        def unseal(column: str) -> Secret | None:
            stored = record[column]
            return self._vault.decrypt(stored, column, replaced.user_id) if stored else None

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

    def remove(self, replaced: Generation) -> None:
        """The database has it, or a newer one."""
        self._path(replaced).unlink(missing_ok=True)

    def waiting(self) -> Iterator[Generation]:
        """What waits, whoever's."""
        for path in sorted(self._folder.glob("*.json")):
            try:
                user_id, row_id, version = path.stem.split(".")
                yield Generation(UUID(user_id), UUID(row_id), int(version))
            except ValueError:
                continue  # somebody else's file

    def forget(self, user_id: UUID) -> None:
        """Destroy whatever waits for a user, half-written files too."""
        for path in (*self._folder.glob(f"{user_id}.*"), *self._folder.glob(f".{user_id}.*")):
            path.unlink(missing_ok=True)

    def _path(self, replaced: Generation) -> Path:
        name = f"{replaced.user_id}.{replaced.row_id}.{replaced.version}.json"
        return self._folder / name


def _sync_folder(folder: Path) -> None:
    """Make the new name survive a power cut too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
