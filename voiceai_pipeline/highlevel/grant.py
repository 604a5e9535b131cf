"""Parses the token endpoint's response. A pair that arrived is never dropped, because the previous
one is spent (CONTRACT 4.3): an odd lifetime only adds a remark, and odd encodings are accepted.
"""

import base64
import binascii
import json
import math
import re
import string
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from voiceai_pipeline.core.connection import MAX_LIFETIME, OAuthToken, scopes_of
from voiceai_pipeline.core.failures import FailureClass
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.highlevel import errors
from voiceai_pipeline.highlevel.errors import HighLevelError

SENDABLE: Final = re.compile(r"[\x21-\x7e]+")
"""The characters of a bearer token that can be sent in a header."""

_AROUND: Final = string.whitespace + "\0\u00a0\u200b\ufeff"
"""Characters that are never part of a token: white space, and traces of copying and encoding."""


def body_of(content: bytes) -> Any:
    """The JSON of a token response, in any Unicode encoding, with or without a byte order mark. If
    it is broken but has a complete pair: a dictionary of its texts and numbers.

    Raises:
        ValueError: it is not JSON, and has no complete pair.
    """
    text = content.decode(json.detect_encoding(content), "replace").strip(_AROUND)
    try:
        body, _ = _LENIENT.raw_decode(text)
    except (ValueError, RecursionError):
        body = {name: value or number for name, value, number in _MEMBER.findall(text)}
        if None in (_access_token(body), _refresh_token(body)):
            raise ValueError("no JSON") from None
    if isinstance(body, dict) and _access_token(body) is not None:
        body.pop("statusCode", None)  # a token counts, even if the body has an error status
    return body


_LENIENT: Final = json.JSONDecoder(
    strict=False,  # accepts a line feed inside a text
    parse_int=lambda digits: int(digits) if len(digits) < 400 else math.inf,  # int() has a limit
)

_MEMBER: Final = re.compile(r'"(\w+)"\s*:\s*(?:"([^"\\]*)"|(\d+))')


def grant_of(body: Mapping[str, Any], *, path: str) -> OAuthToken:
    """Parse a grant in either dialect.

    Args:
        path: path template of the request, for messages.

    Raises:
        HighLevelError: MALFORMED: the body has no usable token.
    """
    access_token, refresh_token = _access_token(body), _refresh_token(body)
    if access_token is None and refresh_token is None:
        raise malformed(path, "no usable token in the response")
    lifetime, ends_at, remarks = _life(body, access_token)
    if access_token is None:
        lifetime, ends_at, remarks = 0, None, ["no access token in the response"]
    return OAuthToken(
        access_token=access_token,
        expires_in=lifetime,
        expires_at=ends_at,
        refresh_token=refresh_token,
        location_id=_text(body, "locationId", "location_id"),
        company_id=_text(body, "companyId", "company_id"),
        user_type=_text(body, "userType", "user_type"),
        scope=_scope(body),
        trace_id=_text(body, "traceId"),
        remark="; ".join(remarks),
    )


def malformed(path: str, reason: str) -> HighLevelError:
    """The error for a grant that cannot be used; ``reason`` must not quote it."""
    return HighLevelError(
        FailureClass.MALFORMED, method="POST", path=path, status=200, reason=reason
    )


def _access_token(body: Mapping[str, Any]) -> Secret | None:
    return _token(body, "access_token", "accessToken")


def _refresh_token(body: Mapping[str, Any]) -> Secret | None:
    return _token(body, "refresh_token", "refreshToken")


def _token(body: Mapping[str, Any], *names: str) -> Secret | None:
    for name in names:
        value = body.get(name)
        if isinstance(value, str) and SENDABLE.fullmatch(value.strip(_AROUND)):
            return Secret(value.strip(_AROUND))
    return None


def _life(
    body: Mapping[str, Any], access_token: Secret | None
) -> tuple[int | None, datetime | None, list[str]]:
    """The lifetime in seconds, or the time of expiry (UTC), and remarks on what was odd.

    ``expires_in`` if it is plausible, else ``expires_at``, else the access token's ``exp`` claim.
    Without any of them both are None: the documented day applies (CONTRACT 4.3).
    """
    given = errors.first(body, "expires_in", "expiresIn")
    lifetime = errors.whole_number(given)
    if lifetime is not None and 0 < lifetime <= MAX_LIFETIME.total_seconds():
        return lifetime, None, []
    if lifetime is not None and lifetime <= 0:
        return 0, None, ["the answer's lifetime is not positive: the token counts as expired"]
    for instant in (
        _instant(errors.first(body, "expires_at", "expiresAt")),
        _claimed_end(access_token),
    ):
        if instant is not None:
            return None, instant, []
    odd = "no lifetime in the answer" if given is None else "no sensible lifetime in the answer"
    return None, None, [f"{odd}: a day is assumed"]


def _instant(value: object) -> datetime | None:
    """An instant from ISO 8601 or a Unix time in seconds or milliseconds, as aware UTC."""
    try:
        if isinstance(value, str) and not re.fullmatch(r"[\d.]+", value.strip()):
            instant = datetime.fromisoformat(value.strip())
            return (instant if instant.tzinfo else instant.replace(tzinfo=UTC)).astimezone(UTC)
        seconds = errors.whole_number(value)
        if seconds is None or seconds <= 0:
            return None
        return datetime.fromtimestamp(seconds / 1000 if seconds > 10**11 else seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _claimed_end(access_token: Secret | None) -> datetime | None:
    """The ``exp`` claim of a JWT. Not verified: it only schedules the next refresh."""
    parts = access_token.reveal().split(".") if access_token else []
    if len(parts) != 3:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, binascii.Error, RecursionError):
        return None
    return _instant(claims.get("exp")) if isinstance(claims, dict) else None


def _scope(body: Mapping[str, Any]) -> str | None:
    """The scopes, separated by spaces, however the response separates or lists them; None without
    any."""
    value = errors.first(body, "scope", "scopes")
    words = value if isinstance(value, list) else [value]
    return " ".join(scopes_of(" ".join(w for w in words if isinstance(w, str)))) or None


def _text(body: Mapping[str, Any], *names: str) -> str | None:
    value = errors.first(body, *names)
    return value.strip() or None if isinstance(value, str) else None
