"""Authorization codes and tokens: single use, rotation, grace, expiry (CONTRACT 4.2-4.4).

No HTTP here. `world` owns the lock and the state file, and knows which locations are paused.
"""

import dataclasses
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from voiceai_pipeline.sandbox.cast import UserType

ACCESS_LIFETIME_S = 86_399
REFRESH_LIFETIME_S = 365 * 86_400
CODE_LIFETIME_S = 600
GRACE_S = 30.0
# Used and expired tokens are kept this long. Forgetting them does not change any answer.
_MEMORY_S = 3600

INVALID_REFRESH = "Invalid grant: refresh token is invalid"
INVALID_CODE = "Invalid grant: authorization code is invalid"
INVALID_REDIRECT = "Invalid grant: redirect uri is invalid"


class RefusedError(Exception):
    """The token endpoint refuses: 400 with this message."""


@dataclass(frozen=True)
class Grant:
    """What one user allowed: a location, or an agency with its approved locations."""

    user_type: UserType
    company_id: str
    location_id: str | None
    user_id: str
    scopes: tuple[str, ...]
    approved_locations: tuple[str, ...] = ()

    @property
    def resource(self) -> str:
        """What limits, faults and pauses apply to: the location or the company."""
        return self.location_id or self.company_id


@dataclass(frozen=True)
class TokenPair:
    """An answer of the token endpoint, before it is written in one of the dialects."""

    access_token: str
    refresh_token: str
    expires_in: int
    grant: Grant


@dataclass(frozen=True)
class _Code:
    grant: Grant
    redirect_uri: str
    expires_at: float


@dataclass(frozen=True)
class _Access:
    grant: Grant
    expires_at: float


@dataclass(frozen=True)
class _Refresh:
    grant: Grant
    expires_at: float
    used_at: float | None = None
    successor: tuple[str, str, int] | None = None


class OAuth:
    """All codes and tokens. `now` returns epoch seconds; `lifetime` returns, for a location or
    company, the lifetime of its access tokens in seconds."""

    def __init__(self, now: Callable[[], float], lifetime: Callable[[str], int]) -> None:
        self._now = now
        self._lifetime = lifetime
        self.grace_seconds = GRACE_S
        self._codes: dict[str, _Code] = {}
        self._access: dict[str, _Access] = {}
        self._refresh: dict[str, _Refresh] = {}

    def issue_code(self, grant: Grant, redirect_uri: str) -> str:
        """A code for the callback: valid once, for ten minutes, for this redirect URI."""
        code = f"SANDBOX-CODE.{secrets.token_urlsafe(18)}"
        self._codes[code] = _Code(grant, redirect_uri, self._now() + CODE_LIFETIME_S)
        return code

    def grant_of_code(self, code: str) -> Grant | None:
        found = self._codes.get(code)
        return found.grant if found else None

    def grant_of_refresh(self, token: str) -> Grant | None:
        found = self._refresh.get(token)
        return found.grant if found else None

    def grant_of_access(self, token: str) -> Grant | None:
        """The grant of an access token; None if it expired, was revoked or never existed."""
        found = self._access.get(token)
        return found.grant if found and self._now() < found.expires_at else None

    def exchange(self, code: str, redirect_uri: str | None) -> TokenPair:
        """Exchange a code for the first pair.

        Raises:
            RefusedError: the code is unknown, used, expired, or for another redirect URI.
        """
        found = self._codes.pop(code, None)
        if found is None or self._now() >= found.expires_at:
            raise RefusedError(INVALID_CODE)
        # `redirect_uri` is optional in the documented body, but when sent it has to match.
        if redirect_uri is not None and redirect_uri != found.redirect_uri:
            raise RefusedError(INVALID_REDIRECT)
        return self.mint(found.grant)

    def refresh(self, token: str) -> TokenPair:
        """Spend a refresh token for the next pair (CONTRACT 4.3).

        Raises:
            RefusedError: it is unknown, expired, revoked, or spent, and the grace period is over.
        """
        now = self._now()
        found = self._refresh.get(token)
        if found is None or now >= found.expires_at:
            raise RefusedError(INVALID_REFRESH)
        if found.used_at is not None and found.successor is not None:
            if now - found.used_at < self.grace_seconds:
                return TokenPair(*found.successor, found.grant)
            raise RefusedError(INVALID_REFRESH)
        pair = self.mint(found.grant)
        successor = (pair.access_token, pair.refresh_token, pair.expires_in)
        self._refresh[token] = dataclasses.replace(found, used_at=now, successor=successor)
        return pair

    def mint(self, grant: Grant) -> TokenPair:
        """A fresh pair for a grant."""
        now, lifetime = self._now(), self._lifetime(grant.resource)
        pair = TokenPair(
            access_token=f"SANDBOX-ACCESS.{grant.user_type}.{secrets.token_urlsafe(32)}",
            refresh_token=f"SANDBOX-REFRESH.{grant.user_type}.{secrets.token_urlsafe(32)}",
            expires_in=lifetime,
            grant=grant,
        )
        self._access[pair.access_token] = _Access(grant, now + lifetime)
        self._refresh[pair.refresh_token] = _Refresh(grant, now + REFRESH_LIFETIME_S)
        return pair

    def revoke(self, resource: str) -> None:
        """Forget every code and token of a location or company."""
        self._codes = {k: v for k, v in self._codes.items() if v.grant.resource != resource}
        self._access = {k: v for k, v in self._access.items() if v.grant.resource != resource}
        self._refresh = {k: v for k, v in self._refresh.items() if v.grant.resource != resource}

    def expire_access(self, resource: str) -> None:
        """Expire every access token of a location or company now; refresh tokens stay valid."""
        for token, found in self._access.items():
            if found.grant.resource == resource:
                self._access[token] = dataclasses.replace(found, expires_at=self._now())

    def connected(self, resource: str, user_id: str) -> bool:
        """Whether this user holds an unspent refresh token of the location or company."""
        return any(
            found.used_at is None
            and found.grant.resource == resource
            and found.grant.user_id == user_id
            for found in self._refresh.values()
        )

    def as_json(self) -> dict[str, Any]:
        self._forget()
        return {
            name: {key: dataclasses.asdict(value) for key, value in table.items()}
            for name, table in (
                ("codes", self._codes),
                ("access", self._access),
                ("refresh", self._refresh),
            )
        }

    def load(self, raw: Mapping[str, Any]) -> None:
        self._codes = {k: _Code(**_with_grant(v)) for k, v in raw["codes"].items()}
        self._access = {k: _Access(**_with_grant(v)) for k, v in raw["access"].items()}
        self._refresh = {}
        for token, value in raw["refresh"].items():
            successor = value["successor"]
            restored = _with_grant(value) | {"successor": successor and tuple(successor)}
            self._refresh[token] = _Refresh(**restored)

    def _forget(self) -> None:
        past = self._now() - max(_MEMORY_S, self.grace_seconds)
        self._codes = {k: v for k, v in self._codes.items() if v.expires_at > past}
        self._access = {k: v for k, v in self._access.items() if v.expires_at > past}
        self._refresh = {
            k: v for k, v in self._refresh.items() if v.used_at is None or v.used_at > past
        }


def _with_grant(raw: Mapping[str, Any]) -> dict[str, Any]:
    grant = dict(raw["grant"])
    for name in ("scopes", "approved_locations"):
        grant[name] = tuple(grant[name])
    return {**raw, "grant": Grant(**grant)}
