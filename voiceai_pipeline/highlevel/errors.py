"""What a response from HighLevel means: one table, by endpoint, status and message.

No other module interprets a status or a message. Each row names its source; the first matching row
applies. A response that matches none is UNKNOWN_ANSWER: retried, never treated as a revocation.
"""

import contextlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any, Final
from urllib.parse import parse_qsl

import requests
import urllib3

from voiceai_pipeline.core.failures import FailureClass, PipelineError
from voiceai_pipeline.highlevel.answer import Answer


class Endpoint(StrEnum):
    """The token endpoint spends credentials, and a status can mean something else there."""

    API = "api"
    TOKEN = "token"


@dataclass(frozen=True)
class Rule:
    """``statuses`` and ``pattern`` (searched in the message, any case) mean ``failure``."""

    endpoint: Endpoint
    statuses: range | tuple[int, ...]
    pattern: str
    failure: FailureClass
    source: str


RULES: Final = (
    Rule(
        Endpoint.TOKEN, (400, 401), "location is not active", FailureClass.LOCATION_PAUSED,
        "CONTRACT 4.3",
    ),
    Rule(
        Endpoint.TOKEN, (401,), "command timed out", FailureClass.PROVIDER_ERROR,
        "CONTRACT 6: their gateway's timeout, sent as a 401",
    ),
    Rule(Endpoint.TOKEN, (401,), "version header", FailureClass.OUR_REQUEST, "CONTRACT 6"),
    Rule(
        Endpoint.TOKEN, (400, 401, 410), "not available in api version|has been removed",
        FailureClass.CONTRACT_DRIFT, "REQUIREMENTS, What HighLevel's answers mean",
    ),
    Rule(
        Endpoint.TOKEN, (400, 401),
        "(invalid|missing) parameter|(invalid|unauthorized)[ _]client|grant[ _]?type",
        FailureClass.CLIENT_REFUSED, "CONTRACT 6",
    ),
    Rule(
        Endpoint.TOKEN, (400, 401), "invalid[ _]grant", FailureClass.REFRESH_REJECTED,
        "CONTRACT 4.3, 6; before the next row: RFC 6749's description of it has \"another client\"",
    ),
    Rule(
        Endpoint.TOKEN, (400, 401), "client", FailureClass.CLIENT_REFUSED,
        "REQUIREMENTS T9: a revoked client is never a revoked user",
    ),
    Rule(
        Endpoint.TOKEN, (400, 401), "refresh token|invalid jwt|revoked",
        FailureClass.REFRESH_REJECTED, "CONTRACT 4.3, 6",
    ),
    # The body for a wrong client secret is unknown (CONTRACT 6), so any other 401 counts as one.
    Rule(Endpoint.TOKEN, (401,), "", FailureClass.CLIENT_REFUSED, "CONTRACT 6"),
    Rule(
        Endpoint.TOKEN, (403,), "error.{0,8}1010", FailureClass.OUR_REQUEST,
        "CONTRACT 1: User-Agent banned",
    ),
    Rule(Endpoint.TOKEN, (404,), "", FailureClass.CONTRACT_DRIFT, "CONTRACT 4.4"),
    Rule(Endpoint.TOKEN, (422,), "", FailureClass.OUR_REQUEST, "CONTRACT 6"),
    Rule(
        Endpoint.API, (401,), "command timed out", FailureClass.PROVIDER_ERROR,
        "CONTRACT 6: their gateway's timeout, sent as a 401; spends no refresh token",
    ),
    Rule(Endpoint.API, (401, 403), "scope|authclass", FailureClass.SCOPE_MISSING, "CONTRACT 6"),
    Rule(
        Endpoint.API, (401,), "version header|no authorization header", FailureClass.OUR_REQUEST,
        "CONTRACT 6",
    ),
    Rule(
        Endpoint.API, (401,),
        "invalid jwt|invalid token|token is invalid|expired|invalid private integration token",
        FailureClass.ACCESS_REJECTED, "CONTRACT 6, 14",
    ),
    Rule(
        Endpoint.API, (401, 403), "access to this location|location is not accessible",
        FailureClass.WRONG_LOCATION, "CONTRACT 6, 14, 16; the token is fine, so none is refreshed",
    ),
    Rule(
        Endpoint.API, (403,), "error.{0,8}1010", FailureClass.OUR_REQUEST,
        "CONTRACT 1: User-Agent banned",
    ),
    Rule(
        Endpoint.API, (400, 401, 403), "location is not active", FailureClass.LOCATION_PAUSED,
        "CONTRACT 4.3",
    ),
    Rule(
        Endpoint.API, (400, 404, 410), "not available in api version|has been removed",
        FailureClass.CONTRACT_DRIFT, "REQUIREMENTS, What HighLevel's answers mean",
    ),
    Rule(Endpoint.API, (404,), "", FailureClass.CONTRACT_DRIFT, "CONTRACT 4.4"),
    Rule(Endpoint.API, (400, 422), "", FailureClass.OUR_REQUEST, "CONTRACT 6"),
)  # fmt: skip

# At both endpoints.
_BY_STATUS: Final = {429: FailureClass.RATE_LIMITED, 408: FailureClass.UNREACHABLE}


class HighLevelError(PipelineError):
    """A request to HighLevel without a usable response.

    Args:
        path: path template of the request, such as ``/locations/{id}``; never a URL.
        status: HTTP status; None without a response.
        retry_after: seconds to wait according to the response; None if it does not say.
        sent: False if no byte of the request was sent.
        missing_scope: the scope that the request requires, if HighLevel says that one is missing.
        timed_out: no response in time; HighLevel may still be processing the request.
        trace_id: identifies the response to HighLevel's support.
    """

    def __init__(
        self,
        failure: FailureClass,
        *,
        method: str,
        path: str,
        status: int | None = None,
        reason: str = "",
        trace_id: str | None = None,
        retry_after: float | None = None,
        sent: bool = True,
        timed_out: bool = False,
        missing_scope: str = "",
    ) -> None:
        facts = [missing_scope, f"{method} {path}", f"HTTP {status}" if status else "", reason]
        facts.append(f"trace id {trace_id}" if trace_id else "")
        super().__init__(failure, ", ".join(filter(None, facts)))
        self.status = status
        self.retry_after = retry_after
        self.sent = sent
        self.timed_out = timed_out
        self.trace_id = trace_id
        self.missing_scope = missing_scope


_KINDS: Final = ("application/json", "application/octet-stream", "text/html", "text/plain")
"""Content types that messages may name; any other text could echo a secret."""


def meaning(endpoint: Endpoint, status: int, message: str) -> FailureClass:
    """Classify a response that is not a success."""
    if status >= 500:
        return FailureClass.PROVIDER_ERROR
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    for rule in RULES:
        if (
            rule.endpoint is endpoint
            and status in rule.statuses
            and re.search(rule.pattern, message, re.IGNORECASE)
        ):
            return rule.failure
    return FailureClass.UNKNOWN_ANSWER


def read(
    endpoint: Endpoint,
    answer: Answer,
    *,
    path: str,
    scope: str = "",
    parse: Callable[[Answer], Any] = Answer.json,
) -> Mapping[str, Any]:
    """Return the JSON object of a successful response.

    Args:
        path: path template of the request, for messages.
        scope: the scope that the request requires, named if HighLevel says that one is missing.
        parse: returns the body as JSON or raises ValueError.

    Raises:
        HighLevelError: any other response, classified; also a 200 that is not a JSON object or
            has an error body (REQUIREMENTS S11).
    """
    method, status = str(answer.request.method), answer.status
    try:
        body = parse(answer)
    except (ValueError, RecursionError):
        body = None
    is_object = isinstance(body, dict)
    if is_object and "traceId" in body:
        body["traceId"] = _trace_id(body["traceId"], answer.request)
    inner = body.get("statusCode") if is_object else None
    if status < 300 and isinstance(inner, int) and inner >= 400:
        status = inner
    if status < 300:
        if isinstance(body, dict):
            return body
        kind = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        raise HighLevelError(
            FailureClass.MALFORMED,
            method=method,
            path=path,
            status=status,
            reason=f"not a JSON object but {kind if kind in _KINDS else 'something else'}",
        )
    message = _message(body) if is_object else _words(answer)
    failure = meaning(endpoint, status, message)
    raise HighLevelError(
        failure,
        method=method,
        path=path,
        status=status,
        missing_scope=scope if failure is FailureClass.SCOPE_MISSING else "",
        trace_id=body.get("traceId") if is_object else None,
        retry_after=_retry_after(answer),
    )


def lost(
    error: OSError, *, method: str, path: str, sent: bool, obstacle: str = ""
) -> HighLevelError:
    """Classify a request without a response; the error repeats nothing of its URL or body.

    Args:
        sent: at least one byte of the request was sent.
        obstacle: what must be fixed on this side, if known.
    """
    timed_out = False
    if isinstance(error, requests.exceptions.ContentDecodingError):
        failure, reason = FailureClass.MALFORMED, "undecodable body"
    elif timed_out := _timed_out(error):
        failure, reason = FailureClass.UNREACHABLE, "no answer in time"
    else:
        failure, reason = FailureClass.UNREACHABLE, "connection failed"
    return HighLevelError(
        failure,
        method=method,
        path=path,
        reason=obstacle or reason,
        sent=sent,
        timed_out=timed_out,
    )


def _timed_out(error: OSError) -> bool:
    """Also true if the body stalls, which requests reports as a ``ConnectionError``."""
    return isinstance(error, requests.Timeout) or (
        bool(error.args) and isinstance(error.args[0], urllib3.exceptions.ReadTimeoutError)
    )


def _message(body: Mapping[str, Any]) -> str:
    """All texts of an error body: a plain one, a list of strings (422), or v3's ``error``."""
    error = body.get("error")
    parts: list[object] = [body.get("message"), body.get("error_description")]
    if "error_code" in body:  # Cloudflare's own (CONTRACT 6)
        parts.append(f"error {body['error_code']}")
    parts += [error.get("message"), error.get("code")] if isinstance(error, dict) else [error]
    return " ".join(
        " ".join(map(str, part)) if isinstance(part, list) else str(part) for part in parts if part
    )


def _words(answer: Answer) -> str:
    """The text of a response without a JSON object. A web page comes from a gateway, so only
    Cloudflare's "Error 1010" counts in it; a word such as "scope" has no meaning there.
    """
    text = answer.text[:2000]
    if not text.lstrip().startswith("<"):
        return text
    banned = re.search(r"error.{0,8}1010\b", text, re.IGNORECASE)
    return banned.group() if banned else ""


def _trace_id(value: object, request: requests.PreparedRequest) -> str | None:
    """The trace id, if it looks like one and repeats nothing that was sent (REQUIREMENTS T23): it
    is shown in messages."""
    if not isinstance(value, str) or not re.fullmatch(r"[\w-]{8,64}", value):
        return None
    sent = [str(request.headers.get("Authorization", "")).partition(" ")[2]]
    if isinstance(request.body, str):
        sent += [text for _, text in parse_qsl(request.body)]
    echoes = (text for text in sent if text and (text in value or value in text))
    return None if any(echoes) else value


_DAY: Final = 86_400.0


def _retry_after(answer: Answer) -> float | None:
    """The pause that a response asks for, in seconds, at most a day; None if it asks for none.

    ``Retry-After`` is undocumented but honoured, as seconds or as a date, which is compared with
    the response's ``Date``. For a 429 without it: the burst interval (CONTRACT 5).
    """
    value = answer.headers.get("Retry-After", "")
    if value.isdecimal():
        return min(float(value), _DAY)
    with contextlib.suppress(KeyError, TypeError, ValueError):
        at = parsedate_to_datetime(value) - parsedate_to_datetime(answer.headers["Date"])
        return min(max(at.total_seconds(), 0.0), _DAY)
    interval = answer.headers.get("X-RateLimit-Interval-Milliseconds", "")
    if answer.status != 429 or not interval.isdecimal():
        return None
    return min(float(interval) / 1000, _DAY)


def whole_number(value: Any) -> int | None:
    """An integer, also from a text or a float, cut to a whole number; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        return int(value) if isinstance(value, int) else int(float(value))
    except (ValueError, OverflowError):
        return None


_MOST: Final = 2**31 - 1
"""A larger total cannot be right, and would not fit the PostgreSQL integer that stores it."""


def total_of(body: Mapping[str, Any]) -> int | None:
    """The total number of items that a list states; None if it states none or a too large one."""
    total = whole_number(first(body, "total", "totalRecords"))
    return total if total is not None and total <= _MOST else None


def first(body: Mapping[str, Any], *names: str) -> Any:
    return next((body[name] for name in names if body.get(name) is not None), None)
