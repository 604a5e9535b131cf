"""What the browser keeps for us, signed: its session, the message to show next, the consents that
it began.

No names and no tokens are in it: a signed cookie can be read by whoever has it. Who must log in and
which forms are believed is decided in ``access``.
"""

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final
from uuid import UUID

from itsdangerous import BadData, URLSafeTimedSerializer
from starlette.responses import Response

from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.core.settings import CALLBACK_PATH

SESSION: Final = "voiceai_session"
FLASH: Final = "voiceai_flash"
_CONSENT: Final = "voiceai_consent_"

SESSION_LIFE: Final = 12 * 3600
"""Seconds until a person has to log in again, and until a form is too old to be believed."""

_FLASH_LIFE: Final = 120
_CONSENT_LIFE: Final = 30 * 60
"""As long as the core remembers a consent (``connect_requests.LIFE``)."""


class Seal:
    """Signs values for one purpose each, and opens only what it has signed.

    Args:
        secret: the page's password, from which the key is derived, so that sessions outlive a
            restart and end when the password is changed; None: a key of this process.
    """

    def __init__(self, secret: Secret | None) -> None:
        if secret is None:
            self._key = secrets.token_bytes(32)
        else:
            # Slow on purpose: everybody gets a signed cookie with the login page, and could try
            # passwords on it at home.
            password = secret.reveal().encode()
            self._key = hashlib.scrypt(password, salt=b"voiceai page", n=2**14, r=8, p=1, dklen=32)

    def close(self, purpose: str, value: Any) -> str:
        return self._serializer(purpose).dumps(value)

    def open(self, purpose: str, sealed: str | None, max_age: int) -> Any:
        """The value, or None if it was not signed here for this purpose, or too long ago.

        Args:
            max_age: in seconds.
        """
        if not sealed:
            return None
        try:
            return self._serializer(purpose).loads(sealed, max_age=max_age)
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
    """Writes cookies the way all of ours are written.

    Attributes:
        secure: for https only.
    """

    seal: Seal
    secure: bool

    def put(self, response: Response, name: str, value: Any, max_age: int, path: str = "/") -> None:
        # Lax, not Strict: HighLevel sends the browser back here, and that must be recognized.
        response.set_cookie(
            name,
            self.seal.close(name, value),
            max_age=max_age,
            path=path,
            secure=self.secure,
            httponly=True,
            samesite="lax",
        )

    def drop(self, response: Response, name: str, path: str = "/") -> None:
        response.delete_cookie(name, path=path, secure=self.secure, httponly=True, samesite="lax")

    def read(self, cookies: Mapping[str, str], name: str, max_age: int) -> Any:
        """What a cookie holds; None if it is absent, old or not ours."""
        return self.seal.open(name, cookies.get(name), max_age)


# The session -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Session:
    """A browser that visits the page; its id binds forms to it."""

    id: str
    is_logged_in: bool = False

    @classmethod
    def fresh(cls, *, is_logged_in: bool = False) -> "Session":
        return cls(secrets.token_urlsafe(16), is_logged_in)


def read_session(jar: Jar, cookies: Mapping[str, str]) -> Session | None:
    found = jar.read(cookies, SESSION, SESSION_LIFE)
    return Session(found["id"], found["in"]) if found else None


def put_session(jar: Jar, response: Response, session: Session) -> None:
    value = {"id": session.id, "in": session.is_logged_in}
    jar.put(response, SESSION, value, SESSION_LIFE)


def form_token(seal: Seal, session: Session) -> str:
    """What a form of this session carries to be believed."""
    return seal.close("form", session.id)


def is_form_token(seal: Seal, session: Session, token: str) -> bool:
    found = seal.open("form", token, SESSION_LIFE)
    return isinstance(found, str) and secrets.compare_digest(found, session.id)


# The message to show next ------------------------------------------------------------------------


@dataclass(frozen=True)
class Flash:
    """What came of an action, shown on the next page and then forgotten.

    Attributes:
        tone: ``good``, ``bad`` or ``plain``.
        title: in a few words; ``{user}`` stands for the name, which no cookie holds.
        text: more, where there is more to say, in sentences.
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
    jar.put(response, FLASH, asdict(flash), _FLASH_LIFE)


def read_flash(jar: Jar, cookies: Mapping[str, str]) -> Flash | None:
    found = jar.read(cookies, FLASH, _FLASH_LIFE)
    return Flash(**{**found, "run_ids": tuple(found["run_ids"])}) if found else None


# Consents that this browser began ----------------------------------------------------------------


@dataclass(frozen=True)
class BegunHere:
    """A consent that this browser began: for whom, and where to return to when it is over."""

    user_id: UUID
    back: str


def put_consent(jar: Jar, response: Response, state: Secret, begun: BegunHere) -> None:
    """Remember a consent. A cookie each, so that several can be under way; it goes to the callback
    only."""
    digest = _digest(state)
    value = {"state": digest, "user": str(begun.user_id), "back": begun.back}
    jar.put(response, _CONSENT + digest[:16], value, _CONSENT_LIFE, CALLBACK_PATH)


def read_consent(jar: Jar, cookies: Mapping[str, str], state: Secret | None) -> BegunHere | None:
    """What is known of the consent that ``state`` names; None if this browser did not begin it."""
    if state is None:
        return None
    digest = _digest(state)
    found = jar.read(cookies, _CONSENT + digest[:16], _CONSENT_LIFE)
    if not found or not secrets.compare_digest(found["state"], digest):
        return None
    return BegunHere(UUID(found["user"]), found["back"])


def drop_consent(jar: Jar, response: Response, state: Secret) -> None:
    jar.drop(response, _CONSENT + _digest(state)[:16], CALLBACK_PATH)


def _digest(state: Secret) -> str:
    return hashlib.sha256(state.reveal().encode()).hexdigest()
