"""Sessions that were logged out before they expired, so that a copied cookie stops working.

In a file, because a session cookie stays valid across a restart (``cookies.Signer``). Every process
that shares the folder appends to it and notices what the others appended.
"""

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from voiceai_pipeline.web.cookies import SESSION_LIFE

log = logging.getLogger(__name__)

_TIDY_AT: Final = 64 * 1024
"""Size in bytes above which the file is rewritten without expired entries: almost two thousand
logouts."""


class Logouts:
    """Ids of sessions that were logged out.

    Args:
        path: a file with a line per logout, its time and the id; created by the first logout.
        now: seconds since the epoch.
    """

    def __init__(self, path: Path, now: Callable[[], float] = time.time) -> None:
        self._path = path
        self._now = now
        self._at: dict[str, float] = {}
        self._seen: tuple[int, int, int] | None = None
        self._read()

    def __contains__(self, session_id: str) -> bool:
        self._read()
        return session_id in self._at

    def add(self, session_id: str) -> None:
        """Remember a logout. If the file cannot be written, only until the process ends."""
        self._read()
        self._at[session_id] = self._now()
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self._seen is not None and self._seen[2] > _TIDY_AT:
                self._rewrite()
                return
            # One write per line, so that the lines of two processes do not mix.
            line = f"{self._at[session_id]:.0f} {session_id}\n".encode()
            file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                os.write(file, line)
            finally:
                os.close(file)
        except OSError as error:
            log.warning("%s cannot be written: %s", self._path, error.strerror)

    def _rewrite(self) -> None:
        oldest = self._now() - SESSION_LIFE
        self._at = {id_: at for id_, at in self._at.items() if at > oldest}
        draft = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        draft.write_text("".join(f"{at:.0f} {id_}\n" for id_, at in self._at.items()))
        draft.chmod(0o600)
        draft.replace(self._path)

    def _read(self) -> None:
        """Read the file if it has changed; logouts that this process knows are kept."""
        try:
            found = self._path.stat()
            seen = (found.st_ino, found.st_mtime_ns, found.st_size)
            if seen == self._seen:
                return
            lines = self._path.read_text().splitlines()
        except (FileNotFoundError, NotADirectoryError):
            return
        except (OSError, UnicodeDecodeError) as error:
            log.warning("%s cannot be read: %s", self._path, type(error).__name__)
            return
        self._seen = seen
        parts = (line.partition(" ") for line in lines)
        self._at |= {id_: float(at) for at, _, id_ in parts if at.isdecimal() and id_}
