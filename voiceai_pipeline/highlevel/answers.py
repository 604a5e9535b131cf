"""What a HighLevel answer means: one table, by endpoint, status and message.

Nobody else looks at a status or a message. A row names its source; the order matters, the first
row that fits wins. What is in no row is UNKNOWN_ANSWER: retried, never taken as a revocation.
"""

import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import requests
import urllib3

from voiceai_pipeline.models import FailureClass, PipelineError


class Endpoint(StrEnum):
    """The token endpoint spends credentials, so the same status can mean something else there."""

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
        "CONTRACT 6: their gateway's timeout, dressed as 401",
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
        "CONTRACT 4.3, 6; before the next row, for RFC 6749 explains it with \"another client\"",
    ),
    Rule(
        Endpoint.TOKEN, (400, 401), "client", FailureClass.CLIENT_REFUSED,
        "REQUIREMENTS T9: a revoked client is never a revoked user",
    ),
    Rule(
        Endpoint.TOKEN, (400, 401), "refresh token|invalid jwt|revoked",
        FailureClass.REFRESH_REJECTED, "CONTRACT 4.3, 6",
    ),
    # The body of a wrong client secret is unknown (CONTRACT 6): any other 401 here is ours.
    Rule(Endpoint.TOKEN, (401,), "", FailureClass.CLIENT_REFUSED, "CONTRACT 6"),
    Rule(
        Endpoint.TOKEN, (403,), "error.{0,8}1010", FailureClass.OUR_REQUEST,
        "CONTRACT 1: User-Agent banned",
    ),
    Rule(Endpoint.TOKEN, (404,), "", FailureClass.CONTRACT_DRIFT, "CONTRACT 4.4"),
    Rule(Endpoint.TOKEN, (422,), "", FailureClass.OUR_REQUEST, "CONTRACT 6"),
    Rule(
        Endpoint.API, (401,), "command timed out", FailureClass.PROVIDER_ERROR,
        "CONTRACT 6: their gateway's timeout, dressed as 401; spends no refresh token",
    ),
    Rule(Endpoint.API, (401, 403), "scope|authclass", FailureClass.SCOPE_MISSING, "CONTRACT 6"),
    Rule(
        Endpoint.API, (401,), "version header|no authorization header", FailureClass.OUR_REQUEST,
        "CONTRACT 6",
    ),
    Rule(
        Endpoint.API, (401,), "invalid jwt|invalid token|token is invalid|expired",
        FailureClass.ACCESS_REJECTED, "CONTRACT 6",
    ),
    Rule(
        Endpoint.API, (403,), "access to this location", FailureClass.WRONG_LOCATION, "CONTRACT 6",
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

# The same wherever they come from.
_BY_STATUS: Final = {429: FailureClass.RATE_LIMITED, 408: FailureClass.UNREACHABLE}


class HighLevelError(PipelineError):
    """A request to HighLevel that did not end in a usable answer.

    Args:
        path: path template of the request, such as ``/locations/{id}``; never a URL.
        status: HTTP status; None if no answer arrived.
        retry_after: seconds the answer asks to wait; None if it does not say.
        sent: False only if the request certainly never reached HighLevel.
        missing_scope: the scope that the request takes, if HighLevel says that one is missing.
        timed_out: nothing came back in time; what was sent may still be under way.
        trace_id: HighLevel's name for its answer, for its support.
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


def meaning(endpoint: Endpoint, status: int, message: str) -> FailureClass:
    """Classify an answer that is not a success."""
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
    response: requests.Response,
    *,
    path: str,
    scope: str = "",
    parse: Callable[[requests.Response], Any] = requests.Response.json,
) -> Mapping[str, Any]:
    """Return the JSON object of a successful answer.

    Args:
        path: path template of the request, for messages.
        scope: the scope it takes, named if HighLevel says that one is missing.
        parse: gives the body as JSON or raises ValueError.

    Raises:
        HighLevelError: any other answer, classified; also a 200 that is no JSON object or that
            carries an error body (REQUIREMENTS S11).
    """
    method, status = str(response.request.method), response.status_code
    try:
        body = parse(response)
    except (ValueError, RecursionError):
        body = None
    is_object = isinstance(body, dict)
    inner = body.get("statusCode") if is_object else None
    if status < 300 and isinstance(inner, int) and inner >= 400:
        status = inner
    if status < 300:
        if isinstance(body, dict):
            return body
        kind = response.headers.get("Content-Type", "no content type").partition(";")[0]
        raise HighLevelError(
            FailureClass.MALFORMED,
            method=method,
            path=path,
            status=status,
            reason=f"not a JSON object but {kind}",
        )
    message = _message(body) if is_object else _words(response)
    failure = meaning(endpoint, status, message)
    raise HighLevelError(
        failure,
        method=method,
        path=path,
        status=status,
        missing_scope=scope if failure is FailureClass.SCOPE_MISSING else "",
        trace_id=trace_id(body) if isinstance(body, dict) else None,
        retry_after=_retry_after(response),
    )


def lost(error: requests.RequestException, *, method: str, path: str) -> HighLevelError:
    """Classify a request that ended without an answer, keeping nothing of its URL or body."""
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
        reason=reason,
        sent=not _never_sent(error),
        timed_out=timed_out,
    )


def _timed_out(error: requests.RequestException) -> bool:
    """Also true for a body that stops half way, which requests calls a ``ConnectionError``."""
    return isinstance(error, requests.Timeout) or (
        bool(error.args) and isinstance(error.args[0], urllib3.exceptions.ReadTimeoutError)
    )


def _never_sent(error: requests.RequestException) -> bool:
    """True if no connection was made: refused, no DNS entry, false certificate, connect time-out.

    Any other TLS failure may come after the request was sent.
    """
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return True
    cause = error.args[0] if error.args else None
    reason = cause.reason if isinstance(cause, urllib3.exceptions.MaxRetryError) else None
    if isinstance(reason, urllib3.exceptions.SSLError):
        return bool(reason.args) and isinstance(reason.args[0], ssl.SSLCertVerificationError)
    return isinstance(reason, urllib3.exceptions.NewConnectionError)


def _message(body: Mapping[str, Any]) -> str:
    """Every text an error body may carry: plain, a list of strings (422), or v3's ``error``."""
    error = body.get("error")
    parts: list[object] = [body.get("message"), body.get("error_description")]
    if "error_code" in body:  # Cloudflare's own (CONTRACT 6)
        parts.append(f"error {body['error_code']}")
    parts += [error.get("message"), error.get("code")] if isinstance(error, dict) else [error]
    return " ".join(
        " ".join(map(str, part)) if isinstance(part, list) else str(part) for part in parts if part
    )


def _words(response: requests.Response) -> str:
    """What an answer without a JSON object says. A web page speaks for some gateway on the way:
    of its words only Cloudflare's "Error 1010" counts, for a "scope" in it means nothing.
    """
    text = response.text[:2000]
    if not text.lstrip().startswith("<"):
        return text
    banned = re.search(r"error.{0,8}1010\b", text, re.IGNORECASE)
    return banned.group() if banned else ""


def trace_id(body: Mapping[str, Any]) -> str | None:
    """The trace id, if it looks like one: it ends up in messages people read."""
    value = body.get("traceId")
    return value if isinstance(value, str) and re.fullmatch(r"[\w-]{8,64}", value) else None


def _retry_after(response: requests.Response) -> float | None:
    """``Retry-After`` in seconds. It is undocumented (CONTRACT 5), honoured where it is sent."""
    value = response.headers.get("Retry-After", "")
    return float(value) if value.isdecimal() else None
