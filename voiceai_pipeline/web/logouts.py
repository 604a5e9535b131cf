"""Sessions that were logged out before they expired, so that a copied cookie stops working.

In a file, because a session cookie stays valid across a restart (``cookies.Signer``).
"""

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from voiceai_pipeline.web.cookies import SESSION_LIFE

log = logging.getLogger(__name__)


class Logouts:
    """Ids of sessions that were logged out.

    Args:
        path: one line per logout, its time and the id; created with the first one.
        now: seconds since the epoch.
    """

    def __init__(self, path: Path, now: Callable[[], float] = time.time) -> None:
        self._path = path
        self._now = now
        self._at = self._read()

    def __contains__(self, session_id: str) -> bool:
        return session_id in self._at

    def add(self, session_id: str) -> None:
        """Remember a logout. If the file cannot be written, only until the process ends."""
        self._at = {**self._recent(), session_id: self._now()}
        draft = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            draft.write_text("".join(f"{at:.0f} {id_}\n" for id_, at in self._at.items()))
            draft.replace(self._path)
        except OSError as error:
            log.warning("%s cannot be written: %s", self._path, error.strerror)

    def _recent(self) -> dict[str, float]:
        """Without sessions whose cookie has expired since."""
        oldest = self._now() - SESSION_LIFE
        return {id_: at for id_, at in self._at.items() if at > oldest}

    def _read(self) -> dict[str, float]:
        try:
            lines = self._path.read_text().splitlines()
        except FileNotFoundError:
            return {}
        except (OSError, UnicodeDecodeError) as error:
            log.warning("%s cannot be read: %s", self._path, type(error).__name__)
            return {}
        found = (line.partition(" ") for line in lines)
        return {id_: float(at) for at, _, id_ in found if at.isdecimal() and id_}
