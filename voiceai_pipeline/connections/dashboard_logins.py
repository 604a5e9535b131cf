"""The logins of the replaced dashboard: which of its users a bearer token (a JWT) speaks for.

The login service, such as Supabase Auth, publishes the public keys that it signs with
(VOICEAI_JWKS_URL). They are kept for minutes: a withdrawn key is refused after that time at the
latest, and a new one is fetched when a token names it.
"""

import json
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final
from uuid import UUID

import jwt

from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.highlevel.errors import HighLevelError
from voiceai_pipeline.highlevel.transport import Transport

log = logging.getLogger(__name__)

ALGORITHMS: Final = ("ES256", "RS256", "EdDSA")
"""What may sign a login: public keys only. With a shared secret, all who check a login can
make one."""

KEPT: Final = 600.0
"""Seconds for which the keys are used without another look; Supabase keeps them as long."""

KEPT_IN_NEED: Final = 3600.0
"""Seconds for which they are used while the login service cannot be reached."""

PAUSE: Final = 15.0
"""Seconds between two looks: a token that names an unknown key costs anyone nothing to send."""

TIMEOUT: Final = 5.0
"""Seconds for one look."""

_MAX_BYTES: Final = 64 * 1024
_LEEWAY: Final = 10.0
"""Seconds by which the clocks may differ."""


class LoginError(Exception):
    """The token speaks for no one. The text is for users and quotes nothing of the token."""


class LoginsUnavailableError(Exception):
    """The login service's keys cannot be read; the text names the fix."""


class DashboardLogins:
    """Verifies tokens of one login service. Safe to share between threads.

    Args:
        url: of its JSON Web Key Set.
        audience: what the tokens have to be for.
        clock: monotonic seconds.
    """

    def __init__(
        self, url: str, audience: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._url = url
        self._audience = audience
        self._clock = clock
        self._transport = Transport()
        self._lock = threading.Lock()
        self._keys: Mapping[str, jwt.PyJWK] = {}
        self._read_at = self._tried_at = -math.inf

    def user_of(self, token: Secret) -> UUID:
        """The user whose valid login ``token`` is.

        Raises:
            LoginError: it is none, has expired, or is for something else.
            LoginsUnavailableError: it cannot be verified now.
        """
        try:
            key_id = jwt.get_unverified_header(token.reveal()).get("kid")
        except (jwt.InvalidTokenError, RecursionError):
            raise LoginError("The bearer token is neither VOICEAI_API_KEY nor a login.") from None
        key = self._key(key_id)
        try:
            claims = jwt.decode(
                token.reveal(),
                key,
                algorithms=ALGORITHMS,
                audience=self._audience,
                leeway=_LEEWAY,
                options={"require": ["exp", "aud", "sub"]},
            )
            return UUID(claims["sub"])
        except jwt.ExpiredSignatureError:
            raise LoginError("The login has expired. Sign in again.") from None
        except (jwt.InvalidAudienceError, jwt.MissingRequiredClaimError):
            raise LoginError(
                "The login is not for this: it needs exp, sub, and aud as in VOICEAI_JWT_AUDIENCE."
            ) from None
        except (jwt.InvalidTokenError, ValueError):
            raise LoginError("The login is not valid. Sign in again.") from None

    def _key(self, key_id: object) -> jwt.PyJWK:
        with self._lock:
            now = self._clock()
            if (key_id not in self._keys or now - self._read_at > KEPT) and (
                now - self._tried_at > PAUSE
            ):
                self._tried_at = now
                self._look(now)
            if now - self._read_at > KEPT_IN_NEED:
                raise LoginsUnavailableError(
                    "Logins cannot be verified: the keys at VOICEAI_JWKS_URL cannot be read. Try "
                    "again; if that does not help, check the address and the network."
                )
            if isinstance(key_id, str) and key_id in self._keys:
                return self._keys[key_id]
        raise LoginError(
            "The login is signed with a key that VOICEAI_JWKS_URL does not list, or with a shared "
            "secret. Sign in again; the login service has to sign with ES256, RS256 or EdDSA."
        )

    def _look(self, now: float) -> None:
        """Read the keys; if that fails, keep those that there are."""
        try:
            answer = self._transport.get(
                self._url, path="the login service's keys", within=TIMEOUT, at_most=_MAX_BYTES
            )
            if answer.status != 200:
                raise ValueError
            self._keys = _keys_of(json.loads(answer.content))
        except (HighLevelError, ValueError, RecursionError) as error:
            log.warning("the keys at VOICEAI_JWKS_URL cannot be read (%s)", type(error).__name__)
        else:
            self._read_at = now


def _keys_of(body: object) -> dict[str, jwt.PyJWK]:
    """The keys of a set that may sign a login, by id.

    Raises:
        ValueError: it is no key set.
    """
    if not isinstance(body, dict) or not isinstance(body.get("keys"), list):
        raise ValueError("no key set")
    found = {}
    for entry in body["keys"]:
        if not isinstance(entry, dict) or entry.get("use", "sig") != "sig":
            continue
        try:
            key = jwt.PyJWK(entry)
        except (jwt.PyJWTError, ValueError, TypeError, KeyError):
            continue  # of a kind that may come one day
        if key.algorithm_name in ALGORITHMS and isinstance(key.key_id, str):
            found[key.key_id] = key
    return found
