"""Tokens at rest: AES-256-GCM, bound to the row and column they are stored in (decision 4).

``enc:v2:<key id>:<base64 of nonce and ciphertext>``. The additional data is table, column, user and
the generation of the row (``token_version``), so a ciphertext moved to another row or column, or an
older one put back, does not decrypt. ``enc:v1:`` came before and lacks the generation; it is read
until it is encrypted again (``key_rotation.py``). Values without a prefix are plain text written by
the source system; they are read as they are, unless that is refused.
"""

import base64
import contextlib
import hashlib
import hmac
import secrets
from collections.abc import Callable, Mapping
from typing import Final
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from msgspec import Raw

from voiceai_pipeline.core.call import digest
from voiceai_pipeline.core.failures import FailureClass, PipelineError
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.core.settings_parsing import SettingsError

_PREFIX: Final = "enc:v2:"
_WITHOUT_GENERATION: Final = "enc:v1:"
_ANY_VERSION: Final = "enc:"
_NONCE_BYTES: Final = 12


CALL_LABEL: Final = b"call fingerprint 2"
"""With a new label, each call is parsed at its next sync, and stored again if its stored form
changes. Change the label whenever that form changes, or unchanged calls keep the old one (a test
checks it)."""


class TokenVault:
    """Encrypts with the first key of the keyring; decrypts with the key that a value names.

    Args:
        keys: key id to 32 bytes, newest first.
        refuse_plain: refuse tokens stored in plain text.
        reload: reads the keyring again if a value's key is not in it, because another process may
            have added the key.
    """

    def __init__(
        self,
        keys: Mapping[str, bytes],
        *,
        refuse_plain: bool = False,
        reload: Callable[[], Mapping[str, bytes]] | None = None,
    ) -> None:
        self._refuse_plain = refuse_plain
        self._reload = reload
        self._use(keys)

    def _use(self, keys: Mapping[str, bytes]) -> None:
        if not keys:
            raise ValueError("the keyring is empty")
        self._ciphers = {key_id: AESGCM(key) for key_id, key in keys.items()}
        self.current = next(iter(keys))
        self._fingerprint_key = hmac.digest(keys[self.current], b"token fingerprint", "sha256")
        self._call_key = hmac.digest(keys[self.current], CALL_LABEL, "sha256")

    @property
    def key_ids(self) -> list[str]:
        """The keys of the ring; the first one, ``current``, encrypts."""
        return list(self._ciphers)

    def seal(
        self, token: Secret | None, column: str, user_id: UUID, generation: int = 0
    ) -> str | None:
        """``encrypt``; None for None."""
        return self.encrypt(token, column, user_id, generation) if token else None

    def encrypt(self, token: Secret, column: str, user_id: UUID, generation: int = 0) -> str:
        """The text to store in ``api_keys.<column>`` of ``user_id``.

        Args:
            generation: the ``token_version`` that the row will have with this value.
        """
        nonce = secrets.token_bytes(_NONCE_BYTES)
        current, ciphers = self.current, self._ciphers
        sealed = ciphers[current].encrypt(
            nonce, token.reveal().encode(), _context(column, user_id, generation)
        )
        return f"{_PREFIX}{current}:{base64.b64encode(nonce + sealed).decode()}"

    def decrypt(self, stored: str, column: str, user_id: UUID, generation: int = 0) -> Secret:
        """The token behind a stored value.

        Args:
            generation: the row's ``token_version``.

        Raises:
            PipelineError: TOKEN_UNREADABLE: the key is unknown; the value is damaged, or of another
                row, column or generation; or it is plain text, and that is refused.
        """
        if not stored.startswith(_ANY_VERSION):
            if self._refuse_plain:
                raise PipelineError(
                    FailureClass.TOKEN_UNREADABLE,
                    "it is stored in plain text, which VOICEAI_PLAIN_TOKENS=refuse forbids",
                )
            return Secret(stored)
        if not stored.startswith((_PREFIX, _WITHOUT_GENERATION)):
            raise PipelineError(FailureClass.TOKEN_UNREADABLE, "a newer version encrypted it")
        is_bound = stored.startswith(_PREFIX)
        key_id, _, encoded = stored[len(_PREFIX) :].partition(":")
        cipher = self._cipher(key_id)
        if cipher is None:
            raise PipelineError(FailureClass.TOKEN_UNREADABLE, f"no key {key_id!r} in the keyring")
        context = _context(column, user_id, generation if is_bound else None)
        try:
            sealed = base64.b64decode(encoded, validate=True)
            plain = cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], context)
        except (InvalidTag, ValueError):
            raise PipelineError(
                FailureClass.TOKEN_UNREADABLE,
                f"key {key_id!r} does not open it: a new key of that name, another row, an older "
                "token put back, or damage",
            ) from None
        return Secret(plain.decode())

    def is_current(self, stored: str) -> bool:
        """Whether a stored value has the current format and is encrypted with the newest key."""
        return stored.startswith(f"{_PREFIX}{self.current}:")

    def _cipher(self, key_id: str) -> AESGCM | None:
        if key_id not in self._ciphers and self._reload is not None:
            with contextlib.suppress(OSError, SettingsError):
                self._use(self._reload())
        return self._ciphers.get(key_id)

    def fingerprint(self, token: Secret) -> str:
        """A keyed hash that tells two tokens apart and reveals nothing about them."""
        return hmac.digest(self._fingerprint_key, token.reveal().encode(), "sha256").hex()[:12]

    def call_fingerprint(self, sent: Raw) -> bytes:
        """A keyed hash of a call as it was sent, third-party secrets included. Without the key,
        trying candidates does not reveal them."""
        return digest(hashlib.blake2b(key=self._call_key, digest_size=16), sent)


def is_sealed(stored: str) -> bool:
    """Whether a stored value is encrypted, by this version or a newer one."""
    return stored.startswith(_ANY_VERSION)


def _context(column: str, user_id: UUID, generation: int | None) -> bytes:
    bound = "" if generation is None else f"|{generation}"
    return f"api_keys|{column}|{user_id}{bound}".encode()
