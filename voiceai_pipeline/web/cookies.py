"""Signed cookies: the session, the message for the next page, the consents in progress.

They hold no names and no tokens: anyone who has a signed cookie can read it. Which requests need a
login, and which forms are accepted, is decided in ``access``. Starlette's ``SessionMiddleware``
would keep all of it in one cookie: two tabs would overwrite each other's consents, every change
would extend the session, and each part would still need its own expiry.
"""

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final
from uuid import UUID

from itsdangerous import BadData, URLSafeTimedSerializer
from starlette.responses import Response

from voiceai_pipeline.core.dagster_access import Role
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.core.settings import CALLBACK_PATH

SESSION: Final = "voiceai_session"
FLASH: Final = "voiceai_flash"
_CONSENT: Final = "voiceai_consent_"

SESSION_LIFE: Final = 12 * 3600
"""Seconds until a user has to log in again, and until a form expires."""

_FLASH_LIFE: Final = 120
_CONSENT_LIFE: Final = 30 * 60
"""In seconds, as long as a consent request is valid (``consent_requests.LIFE``)."""


class Signer:
    """Signs values, each for one purpose, and reads only what it has signed.

    Args:
        passwords: the page's. The key is derived from them, so that sessions survive a restart
            and become invalid when one changes. Without any: a random key for this process.
    """

    def __init__(self, *passwords: Secret | None) -> None:
        given = [one.reveal().encode() for one in passwords if one is not None]
        if not given:
            self._key = secrets.token_bytes(32)
        else:
            # Slow on purpose: the login page hands out signed cookies, on which passwords could
            # be tried offline.
            password = b"\0".join(given)
            self._key = hashlib.scrypt(password, salt=b"voiceai page", n=2**14, r=8, p=1, dklen=32)

    def sign(self, purpose: str, value: Any) -> str:
        return self._serializer(purpose).dumps(value)

    def unsign(self, purpose: str, signed: str | None, max_age: int) -> Any:
        """The value, or None if the signature is not ours, for another purpose, or too old.

        Args:
            max_age: in seconds.
        """
        if not signed:
            return None
        try:
            return self._serializer(purpose).loads(signed, max_age=max_age)
        except BadData:
            return None

    def _serializer(self, purpose: str) -> URLSafeTimedSerializer:
        return URLSafeTimedSerializer(
            self._key,
            salt=purpose,
            signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha256},
        )


@dataclass(frozen=True)
class Jar:
    """Reads and writes cookies, all of them with the same attributes.

    Attributes:
        secure: sent over HTTPS only.
    """

    signer: Signer
    secure: bool

    def set(self, response: Response, name: str, value: Any, max_age: int, path: str = "/") -> None:
        # Lax, not Strict: the redirect back from HighLevel has to carry them.
        response.set_cookie(
            name,
            self.signer.sign(name, value),
            max_age=max_age,
            path=path,
            secure=self.secure,
            httponly=True,
            samesite="lax",
        )

    def delete(self, response: Response, name: str, path: str = "/") -> None:
        response.delete_cookie(name, path=path, secure=self.secure, httponly=True, samesite="lax")

    def read(self, cookies: Mapping[str, str], name: str, max_age: int) -> Any:
        """A cookie's value; None if it is absent, expired or not ours."""
        return self.signer.unsign(name, cookies.get(name), max_age)


# The session -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Session:
    """A browser's session; forms are bound to its id.

    Attributes:
        role: who logged in; None: not logged in.
    """

    id: str
    role: Role | None = None

    @classmethod
    def new(cls, role: Role | None = None) -> "Session":
        return cls(secrets.token_urlsafe(16), role)


def read_session(jar: Jar, cookies: Mapping[str, str]) -> Session | None:
    found = jar.read(cookies, SESSION, SESSION_LIFE)
    if not found:
        return None
    roles = {role.value: role for role in Role}
    return Session(found["id"], roles.get(found.get("role")))


def put_session(jar: Jar, response: Response, session: Session) -> None:
    value = {"id": session.id, "role": session.role}
    jar.set(response, SESSION, value, SESSION_LIFE)


def form_token(signer: Signer, session: Session) -> str:
    """The token that each form of this session carries against forgery (CSRF)."""
    return signer.sign("form", session.id)


def is_form_token(signer: Signer, session: Session, token: str) -> bool:
    found = signer.unsign("form", token, SESSION_LIFE)
    return isinstance(found, str) and secrets.compare_digest(found, session.id)


# The message for the next page -------------------------------------------------------------------


@dataclass(frozen=True)
class Flash:
    """The result of an action, shown once, on the next page.

    Attributes:
        tone: ``good``, ``bad`` or ``plain``.
        title: a few words; ``{user}`` stands for the user's name, which no cookie holds.
        text: details in sentences, if any.
        run_ids: Dagster runs to link to.
    """

    tone: str
    title: str
    text: str = ""
    user_id: str = ""
    run_ids: tuple[str, ...] = ()

    @classmethod
    def about(
        cls, user_id: UUID, tone: str, title: str, text: str = "", run_ids: tuple[str, ...] = ()
    ) -> "Flash":
        return cls(tone, title, text, str(user_id), run_ids)


def put_flash(jar: Jar, response: Response, flash: Flash) -> None:
    jar.set(response, FLASH, asdict(flash), _FLASH_LIFE)


def read_flash(jar: Jar, cookies: Mapping[str, str]) -> Flash | None:
    found = jar.read(cookies, FLASH, _FLASH_LIFE)
    return Flash(**{**found, "run_ids": tuple(found["run_ids"])}) if found else None


# Consents in progress ----------------------------------------------------------------------------


@dataclass(frozen=True)
class PendingConsent:
    """A consent that this browser started.

    Attributes:
        back: the page to return to when it is finished.
    """

    user_id: UUID
    back: str


def put_consent(jar: Jar, response: Response, state: Secret, pending: PendingConsent) -> None:
    """Remember a consent in a cookie of its own, so that several can be in progress. Browsers send
    it to the callback only."""
    digest = _digest(state)
    value = {"state": digest, "user": str(pending.user_id), "back": pending.back}
    jar.set(response, _CONSENT + digest[:16], value, _CONSENT_LIFE, CALLBACK_PATH)


def read_consent(
    jar: Jar, cookies: Mapping[str, str], state: Secret | None
) -> PendingConsent | None:
    """The consent that ``state`` identifies; None if this browser did not start it."""
    if state is None:
        return None
    digest = _digest(state)
    found = jar.read(cookies, _CONSENT + digest[:16], _CONSENT_LIFE)
    if not found or not secrets.compare_digest(found["state"], digest):
        return None
    return PendingConsent(UUID(found["user"]), found["back"])


def delete_consent(jar: Jar, response: Response, state: Secret) -> None:
    jar.delete(response, _CONSENT + _digest(state)[:16], CALLBACK_PATH)


def _digest(state: Secret) -> str:
    return hashlib.sha256(state.reveal().encode()).hexdigest()
