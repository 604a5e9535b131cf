"""The keyring of the embedded server: a file that only its owner can read.

One key per line, as ``id:base64 of 32 bytes``, newest first. It is never replaced by accident: it
is created only if nothing is encrypted yet, and only ``voiceai-pipeline keys`` changes it.
"""

import base64
import contextlib
import os
import secrets
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path

from voiceai_pipeline.core.settings_parsing import SettingsError, parse_keys


def create(path: Path) -> None:
    """Create the file with one key, unless it exists.

    Raises:
        OSError: it cannot be written.
    """
    draft = _draft(path, {"local": new_key()})
    # link() never replaces: one of two processes wins, and no partial file is ever seen.
    with contextlib.suppress(FileExistsError):
        path.hardlink_to(draft)
    draft.unlink()


def read(path: Path) -> dict[str, bytes]:
    """The keys of the file, the newest first.

    Raises:
        FileNotFoundError: there is no file.
        OSError: it cannot be read.
        SettingsError: it is damaged, or others can access it.
    """
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise SettingsError(
            f"{path} holds the keys of all tokens, and other users of this machine can read it "
            f"(mode {mode:o}). Forbid that: chmod 600 {path}. If they may have read it, add a new "
            "key too: voiceai-pipeline keys add."
        )
    try:
        keys = parse_keys(path.read_text(encoding="utf-8").strip().replace("\n", ","))
    except (SettingsError, UnicodeDecodeError):
        keys = {}
    if not keys:
        raise SettingsError(
            f"{path} is damaged: it should hold the keys that encrypt the tokens, each as "
            "id:base64 of 32 bytes. Put it back from a backup; or delete it, make a new one with "
            "voiceai-pipeline keys add, and connect every user again."
        )
    return keys


def write(path: Path, keys: Mapping[str, bytes]) -> None:
    """Replace the keys of the file; a reader sees either the old keys or the new ones.

    Raises:
        OSError: it cannot be written; the old file stays.
    """
    _draft(path, keys).replace(path)


def new_key() -> bytes:
    """A new random key."""
    return secrets.token_bytes(32)


def line_of(key_id: str, key: bytes) -> str:
    """A key in the form of ``VOICEAI_TOKEN_KEYS`` and of the file. Secret."""
    return f"{key_id}:{base64.b64encode(key).decode()}"


def _draft(path: Path, keys: Mapping[str, bytes]) -> Path:
    # A unique name instead of the pid, which threads share and containers reuse.
    descriptor, name = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)  # 0600
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.writelines(f"{line_of(key_id, key)}\n" for key_id, key in keys.items())
        file.flush()
        os.fsync(file.fileno())
    return Path(name)
