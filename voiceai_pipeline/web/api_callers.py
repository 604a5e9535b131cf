"""Who calls ``/functions/v1``: a program that has the key, or a signed-in user of the replaced
dashboard, for that user alone.
"""

import hmac
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from starlette.requests import Request

from voiceai_pipeline.connections.dashboard_logins import LoginError, LoginsUnavailableError
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.web.site import site_of


class CallError(Exception):
    """A call that is refused.

    Args:
        status: the HTTP status.
        error: an error code for programs.
        message: for users: what is wrong and how to fix it.
    """

    def __init__(self, status: int, error: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.body: dict[str, Any] = {"success": False, "error": error, "message": message}


@dataclass(frozen=True)
class Caller:
    """Who sent a request; ``user_id`` is the only user that they may name, None: any."""

    user_id: UUID | None

    def check(self, user_id: UUID) -> None:
        """
        Raises:
            CallError: they may not name this user.
        """
        if self.user_id not in (None, user_id):
            raise CallError(
                403, "forbidden", "A login is valid for its own user only. Send that userId."
            )


def caller_of(request: Request) -> Caller:
    """Who sent a request, by its ``Authorization`` and ``apikey``. May wait for the network.

    supabase-js sends its client's key in both, and as bearer the login of a user who is signed in.
    If logins are verified, a login decides and ``apikey`` is ignored, so that a page needs no key
    of ours. Otherwise the key decides.

    Raises:
        CallError: the caller is unknown, or cannot be verified now.
    """
    site = site_of(request)
    key, logins = site.page.api_key, site.dashboard_logins
    if key is None and logins is None:
        raise CallError(
            503,
            "not_configured",
            "These endpoints are off because VOICEAI_API_KEY is not set. Set it to a key of 16 "
            "characters or more (openssl rand -base64 24) and start again.",
        )
    bearer = _bearer(request)
    # If no user is signed in, supabase-js sends a Supabase key, which is no login.
    is_login = bearer.count(".") == 2
    if _is_key(key, bearer):
        return Caller(None)
    if logins is not None and is_login:
        try:
            return Caller(logins.user_of(Secret(bearer)))
        except LoginError as error:
            raise CallError(401, "unauthorized", str(error)) from None
        except LoginsUnavailableError as error:
            raise CallError(503, "logins_unavailable", str(error)) from None
    if (logins is None or not bearer) and _is_key(key, request.headers.get("apikey", "")):
        return Caller(None)
    raise CallError(
        401,
        "unauthorized",
        "Send the header Authorization: Bearer, followed by VOICEAI_API_KEY"
        + (" or the login of a signed-in user." if logins else "; or the key as header apikey."),
    )


def _bearer(request: Request) -> str:
    kind, _, presented = request.headers.get("authorization", "").partition(" ")
    return presented.strip() if kind.lower() == "bearer" else ""


def _is_key(key: Secret | None, presented: str) -> bool:
    return key is not None and hmac.compare_digest(presented.encode(), key.reveal().encode())
