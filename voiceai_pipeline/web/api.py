"""The source system's endpoints under ``/functions/v1``: sync, refresh, test, status.

For its dashboard and for schedulers. They call the same functions as the page's buttons and return
JSON without token material. Callers send ``VOICEAI_API_KEY`` as a bearer token.
"""

import hmac
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final
from urllib.parse import urlencode
from uuid import UUID

import sqlalchemy as sa
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from voiceai_pipeline.calls import ledger
from voiceai_pipeline.connections.queries import UnknownUserError
from voiceai_pipeline.core.connection import Connection
from voiceai_pipeline.core.days import DaysError
from voiceai_pipeline.core.failures import PipelineError, Remedy
from voiceai_pipeline.database.engine import database_error
from voiceai_pipeline.web import sync_runs
from voiceai_pipeline.web.access import read_body
from voiceai_pipeline.web.dagster_client import DagsterError
from voiceai_pipeline.web.pages import PageError
from voiceai_pipeline.web.site import Site, site_of
from voiceai_pipeline.web.sync_runs import PartlyLaunchedError

PREFIX: Final = "/functions/v1"

CALLERS_HEADERS: Final = ("authorization", "content-type", "x-client-info", "apikey")
"""Headers that the existing dashboard's client library sends with every call."""

_AHEAD: Final = timedelta(days=1)
"""The end of today in the caller's time zone is at most this far ahead; later is a mistake."""

_STATUS: Final = {Remedy.ACTION: 409, Remedy.RERUN: 503, Remedy.OPERATOR: 500}


class CallError(Exception):
    """A call that is refused.

    Args:
        status: the HTTP status.
        error: an error code for programs.
        message: for users: what is wrong and how to fix it.
        more: further fields of the body.
    """

    def __init__(self, status: int, error: str, message: str, **more: Any) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"success": False, "error": error, "message": message, **more}


Fields = Mapping[str, Any]
Handler = Callable[[Request, Fields], Response]


def routes() -> list[Route]:
    """The four endpoints, without the prefix."""
    return [
        Route("/sync-highlevel-calls", _endpoint(_sync), methods=["POST"]),
        Route("/oauth-refresh", _endpoint(_refresh), methods=["POST"]),
        Route("/oauth-test", _endpoint(_test), methods=["POST"]),
        Route("/sync-status/{user_id}", _endpoint(_sync_status), methods=["GET"]),
    ]


def refusal(status: int, error: str, message: str) -> Response:
    """An error response."""
    return JSONResponse({"success": False, "error": error, "message": message}, status)


def _endpoint(handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    """An endpoint that requires the key and returns every failure as JSON."""

    async def endpoint(request: Request) -> Response:
        try:
            _authorize(request)
            body = await read_body(request)
            fields = _fields(body) if request.method == "POST" else {}
            return await run_in_threadpool(handler, request, fields)
        except CallError as error:
            headers = {"WWW-Authenticate": "Bearer"} if error.status == 401 else None
            return JSONResponse(error.body, error.status, headers)
        except PageError as problem:
            return refusal(problem.status, "bad_request", f"{problem.text} {problem.remedy}")
        except UnknownUserError:
            return refusal(404, "unknown_user", "There is no user of that userId.")
        except PipelineError as error:
            return _failure(error)
        except DaysError as error:
            return refusal(422, "days_out_of_range", str(error))
        except DagsterError as error:
            launched = error.run_ids if isinstance(error, PartlyLaunchedError) else ()
            body_ = {"success": False, "error": "dagster_unavailable", "message": str(error)}
            return JSONResponse({**body_, "runIds": launched}, 503)
        except sa.exc.SQLAlchemyError as error:
            return _failure(database_error(error))

    return endpoint


def _authorize(request: Request) -> None:
    key = site_of(request).page.api_key
    if key is None:
        raise CallError(
            503,
            "not_configured",
            "These endpoints are off because VOICEAI_API_KEY is not set. Set it to a key of 16 "
            "characters or more (openssl rand -base64 24) and start again.",
        )
    kind, _, presented = request.headers.get("authorization", "").partition(" ")
    right = hmac.compare_digest(presented.strip().encode(), key.reveal().encode())
    if kind.lower() != "bearer" or not right:
        raise CallError(
            401, "unauthorized", "Send the header: Authorization: Bearer, then VOICEAI_API_KEY."
        )


def _fields(body: bytes) -> Fields:
    try:
        fields = json.loads(body)
    except ValueError:
        fields = None
    if not isinstance(fields, dict):
        raise CallError(400, "not_json", 'Send a JSON object, such as {"userId": "..."}.')
    return fields


def _user_id(given: object) -> UUID:
    try:
        return UUID(given) if isinstance(given, str) else UUID("")
    except ValueError:
        raise CallError(
            422, "invalid_user_id", "userId has to be the user's id, a UUID in a string."
        ) from None


def _failure(error: PipelineError) -> Response:
    explanation = error.failure.explanation
    body = {
        "success": False,
        "error": error.failure.value,
        "message": error.message,
        "fix": explanation.fix,
    }
    return JSONResponse(body, _STATUS[explanation.remedy])


# Sync --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Days:
    """The requested days, inclusive; None where the caller gave none."""

    first: date | None
    last: date | None


def _sync(request: Request, fields: Fields) -> Response:
    site = site_of(request)
    user_id = _user_id(fields.get("userId"))
    days = requested_days(fields, datetime.now(UTC), site)
    launched = sync_runs.launch(site, user_id, "functions API", days.first, days.last)
    query = urlencode({"runId": launched.run_ids}, doseq=True)
    body = {
        "success": True,
        "message": f"Launched a sync of {launched.first} to {launched.last}.",
        "runIds": launched.run_ids,
        "startDate": launched.first.isoformat(),
        "endDate": launched.last.isoformat(),
        "statusUrl": f"{site.page.url}{PREFIX}/sync-status/{user_id}?{query}",
        "runUrl": _run_url(site, launched.run_ids[0]),
    }
    return JSONResponse(body, 202)


def requested_days(fields: Fields, now: datetime, site: Site) -> Days:
    """The days of the pipeline's time zone that ``startDate`` and ``endDate`` fall on.

    Args:
        now: aware UTC.

    Raises:
        CallError: they are malformed, in the wrong order, or in the future.
    """
    start, end = (_moment(fields, name, site) for name in ("startDate", "endDate"))
    today = now.astimezone(site.pipeline.zone).date()
    if end is not None and start is None:
        raise CallError(422, "invalid_dates", "endDate needs a startDate.")
    for name, moment in (("startDate", start), ("endDate", end)):
        if moment is not None and _is_future(moment, now, today):
            raise CallError(422, "invalid_dates", f"{name} is in the future; today is {today}.")
    first, last = _day(start, today), _day(end, today)
    if first is not None and last is not None and last < first:
        raise CallError(422, "invalid_dates", f"endDate {last} is before startDate {first}.")
    return Days(first, last)


def _is_future(moment: datetime | date, now: datetime, today: date) -> bool:
    if isinstance(moment, datetime):
        return moment > now + _AHEAD
    return moment > today


def _day(moment: datetime | date | None, today: date) -> date | None:
    if isinstance(moment, datetime):
        return min(moment.date(), today)
    return moment


def _moment(fields: Fields, name: str, site: Site) -> datetime | date | None:
    """A day, or a time in the pipeline's zone. A time without an offset is in that zone."""
    given = fields.get(name)
    if given is None or given == "":
        return None
    try:
        if not isinstance(given, str):
            raise ValueError
        if len(given) == 10:
            return date.fromisoformat(given)
        moment = datetime.fromisoformat(given)
        zone = site.pipeline.zone
        return moment.replace(tzinfo=moment.tzinfo or zone).astimezone(zone)
    except (ValueError, OverflowError):
        raise CallError(
            422,
            "invalid_dates",
            f"{name} has to be a day such as 2026-11-20 or a time such as 2026-11-20T00:00:00Z.",
        ) from None


# Refresh and test --------------------------------------------------------------------------------


def _refresh(request: Request, fields: Fields) -> Response:
    refreshed = site_of(request).pipeline.tokens.refresh(_user_id(fields.get("userId")))
    return JSONResponse({"success": True, **_facts(refreshed)})


def _test(request: Request, fields: Fields) -> Response:
    check = site_of(request).pipeline.tokens.check(_user_id(fields.get("userId")))
    facts = {**_facts(check.connection), "missingScopes": list(check.missing_scopes)}
    if check.failure is None:
        return JSONResponse({"success": True, "message": "Calls can be read.", **facts})
    # The test itself worked, and this is its result: not a failure of the call.
    body = {
        "success": False,
        "error": check.failure.failure.value,
        "message": check.failure.message,
        "fix": check.failure.failure.explanation.fix,
        **facts,
    }
    return JSONResponse(body)


def _facts(connection: Connection) -> dict[str, Any]:
    return {
        "userId": str(connection.user.id),
        "state": connection.status.value,
        "locationId": connection.location_id,
        "tokenExpiresAt": _iso(connection.token_expires_at),
    }


def _iso(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None


# Status ------------------------------------------------------------------------------------------


def _sync_status(request: Request, _fields: Fields) -> Response:
    site = site_of(request)
    user_id = _user_id(request.path_params["user_id"])
    site.connection(user_id)  # or 404
    with site.pipeline.engine.begin() as db:
        status = ledger.statuses(db, [user_id]).get(user_id)
    run_ids = request.query_params.getlist("runId")[:50]
    body = {
        "success": True,
        "userId": str(user_id),
        "last_sync_at": _iso(status.last_sync_at) if status else None,
        "last_sync_status": status.status if status else None,
        "last_sync_message": status.message if status else None,
        "records_synced": status.records_synced if status else None,
        "runs": [_run(site, run_id) for run_id in run_ids],
    }
    return JSONResponse(body)


def _run(site: Site, given: str) -> dict[str, Any]:
    try:
        run_id = str(UUID(given))
    except ValueError:
        raise CallError(422, "invalid_run_id", "runId has to be a Dagster run's id.") from None
    found = {"runId": run_id, "runUrl": _run_url(site, run_id)}
    try:
        run = site.dagster.run(run_id)
    except DagsterError as error:
        return {**found, "status": None, "message": str(error)}
    return {**found, "status": run.status if run else "NOT_FOUND"}


def _run_url(site: Site, run_id: str) -> str:
    return f"{site.page.dagster_url}/runs/{run_id}"
