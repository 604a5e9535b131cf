"""Logins of the replaced dashboard: finds the user that a bearer token (a JWT) belongs to.

The login service, such as Supabase Auth, publishes the public keys that it signs with
(VOICEAI_JWKS_URL). They are cached for ten minutes: a withdrawn key is refused after that, and a
new one is fetched when a token names it. While the service is down, they are used for an hour.
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
"""Algorithms that may sign a login: only those with public keys. With a shared secret, anyone who
can verify a login can also forge one."""

KEPT: Final = 600.0
"""Seconds for which the keys are used without fetching them; Supabase caches them as long."""

KEPT_IN_NEED: Final = 3600.0
"""Seconds for which they are used while the login service cannot be reached."""

PAUSE: Final = 15.0
"""The fewest seconds between two fetches: anyone can send tokens that name unknown keys."""

TIMEOUT: Final = 5.0
"""Seconds for one fetch."""

_MAX_BYTES: Final = 64 * 1024
_LEEWAY: Final = 10.0
"""Seconds by which the login service's clock may differ from ours."""


class LoginError(Exception):
    """The token is not a valid login. The text is for users and never quotes the token."""


class LoginsUnavailableError(Exception):
    """The login service's keys cannot be read; the text names the fix."""


class DashboardLogins:
    """Verifies tokens of one login service. Safe to share between threads.

    Args:
        url: the URL of its JSON Web Key Set.
        audience: the audience (``aud``) that tokens must have.
        clock: returns monotonic seconds.
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
        """The user of a valid login.

        Raises:
            LoginError: ``token`` is not a login, has expired, or is for another audience.
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
                "The login is not for this API: it needs exp, sub, and VOICEAI_JWT_AUDIENCE as aud."
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
        """Fetch the keys; if that fails, keep the present ones."""
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
        ValueError: it is not a key set.
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
            continue  # perhaps a kind of key that comes one day
        if key.algorithm_name in ALGORITHMS and isinstance(key.key_id, str):
            found[key.key_id] = key
    return found
