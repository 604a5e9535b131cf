"""Tokens at rest: AES-256-GCM, bound to the row and column they are stored in (decision 4).

``enc:v1:<key id>:<base64 of nonce and ciphertext>``. The additional data is table, column and user,
so a ciphertext moved to another row or column does not decrypt. Values without the prefix are
plain text written by the source system; they are read as they are, unless that is refused.
"""

import base64
import contextlib
import hashlib
import hmac
import os
import secrets
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from msgspec import Raw

from voiceai_pipeline.core.call import digest
from voiceai_pipeline.core.failures import FailureClass, PipelineError
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.core.settings_parsing import parse_keys

_PREFIX: Final = "enc:v1:"
_ANY_VERSION: Final = "enc:"
_NONCE_BYTES: Final = 12


CALL_LABEL: Final = b"call fingerprint 2"
"""With a new label every call is parsed at its next sync, and stored again if what is stored of it
changes. Change it with what is stored, or unchanged calls keep the old form (a test checks it)."""


class TokenVault:
    """Encrypts with the first key of the keyring; decrypts with the key that a value names.

    Args:
        keys: key id to 32 bytes, newest first.
        refuse_plain: refuse tokens stored in plain text.
    """

    def __init__(self, keys: Mapping[str, bytes], *, refuse_plain: bool = False) -> None:
        if not keys:
            raise ValueError("the keyring is empty")
        self._refuse_plain = refuse_plain
        self._ciphers = {key_id: AESGCM(key) for key_id, key in keys.items()}
        self._current = next(iter(keys))
        self._fingerprint_key = hmac.digest(keys[self._current], b"token fingerprint", "sha256")
        self._call_key = hmac.digest(keys[self._current], CALL_LABEL, "sha256")

    def seal(self, token: Secret | None, column: str, user_id: UUID) -> str | None:
        """``encrypt``; None for None."""
        return self.encrypt(token, column, user_id) if token else None

    def encrypt(self, token: Secret, column: str, user_id: UUID) -> str:
        """The text to store in ``api_keys.<column>`` of ``user_id``."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        sealed = self._ciphers[self._current].encrypt(
            nonce, token.reveal().encode(), _context(column, user_id)
        )
        return f"{_PREFIX}{self._current}:{base64.b64encode(nonce + sealed).decode()}"

    def decrypt(self, stored: str, column: str, user_id: UUID) -> Secret:
        """The token behind a stored value.

        Raises:
            PipelineError: TOKEN_UNREADABLE: unknown key, another row or column, or damaged; or
                plain text where that is refused.
        """
        if not stored.startswith(_ANY_VERSION):
            if self._refuse_plain:
                raise PipelineError(
                    FailureClass.TOKEN_UNREADABLE,
                    "it is stored in plain text, which VOICEAI_PLAIN_TOKENS=refuse forbids",
                )
            return Secret(stored)
        if not stored.startswith(_PREFIX):
            raise PipelineError(FailureClass.TOKEN_UNREADABLE, "a newer version encrypted it")
        key_id, _, encoded = stored.removeprefix(_PREFIX).partition(":")
        cipher = self._ciphers.get(key_id)
        if cipher is None:
            raise PipelineError(FailureClass.TOKEN_UNREADABLE, f"no key {key_id!r} in the keyring")
        try:
            sealed = base64.b64decode(encoded, validate=True)
            plain = cipher.decrypt(
                sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], _context(column, user_id)
            )
        except (InvalidTag, ValueError):
            raise PipelineError(
                FailureClass.TOKEN_UNREADABLE,
                f"key {key_id!r} does not open it: a new key of that name, another row, or damage",
            ) from None
        return Secret(plain.decode())

    def fingerprint(self, token: Secret) -> str:
        """A keyed hash that tells two tokens apart and reveals nothing about them."""
        return hmac.digest(self._fingerprint_key, token.reveal().encode(), "sha256").hex()[:12]

    def call_fingerprint(self, sent: Raw) -> bytes:
        """A keyed hash of a call as it was sent, third-party secrets included: without the key they
        cannot be guessed by trial."""
        return digest(hashlib.blake2b(key=self._call_key, digest_size=16), sent)


def _context(column: str, user_id: UUID) -> bytes:
    return f"api_keys|{column}|{user_id}".encode()


def local_keys(path: Path) -> dict[str, bytes]:
    """The keyring of the embedded server: a file with mode 0600, created at first use."""
    if not path.exists():
        # A unique name, not the pid: threads share one, and containers reuse it.
        descriptor, name = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)
        draft = Path(name)
        with os.fdopen(descriptor, "w") as file:
            file.write(f"local:{base64.b64encode(secrets.token_bytes(32)).decode()}\n")
        # link() never replaces: one of two processes wins, and no partial file is ever seen.
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(draft)
        draft.unlink()
    return parse_keys(path.read_text().strip())
