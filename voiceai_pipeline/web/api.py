"""The source system's endpoints under ``/functions/v1``: sync, refresh, test, status.

They are for its dashboard and for schedulers, call the same functions as the page's buttons, and
return JSON without token material. ``api_callers`` decides who may call.
"""

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
from voiceai_pipeline.calls.ledger import UserStatus
from voiceai_pipeline.connections.queries import UnknownUserError
from voiceai_pipeline.core.connection import Connection
from voiceai_pipeline.core.days import DaysError
from voiceai_pipeline.core.failures import PipelineError, Remedy
from voiceai_pipeline.core.unexpected import unexpected
from voiceai_pipeline.database.engine import database_error, database_now
from voiceai_pipeline.web import sync_runs
from voiceai_pipeline.web.access import read_body
from voiceai_pipeline.web.api_callers import CallError, caller_of
from voiceai_pipeline.web.dagster_client import DagsterError
from voiceai_pipeline.web.pages import PageError
from voiceai_pipeline.web.site import Site, site_of
from voiceai_pipeline.web.sync_runs import Launched, PartlyLaunchedError

PREFIX: Final = "/functions/v1"

CALLERS_HEADERS: Final = (
    "authorization",
    "content-type",
    "x-client-info",
    "apikey",
    "x-region",
    "x-retry-count",
)
"""Headers that the existing dashboard's client library sends with every call."""

MAX_WAIT: Final = 300
"""Seconds for which a caller can wait for the end of a sync; proxies give up earlier."""

_AHEAD: Final = timedelta(days=1)
"""The end of today in the caller's time zone is at most this far ahead; later is a mistake."""

_STATUS: Final = {Remedy.ACTION: 409, Remedy.RERUN: 503, Remedy.OPERATOR: 500}


Fields = Mapping[str, Any]
Handler = Callable[[Request, Fields, UUID], Awaitable[Response]]
"""Answers a call about a user whom the caller may name."""


def routes() -> list[Route]:
    """The four endpoints, without the prefix."""
    return [
        Route("/sync-highlevel-calls", _endpoint(_sync), methods=["POST"]),
        Route("/oauth-refresh", _endpoint(_in_thread(_refresh)), methods=["POST"]),
        Route("/oauth-test", _endpoint(_in_thread(_test)), methods=["POST"]),
        Route("/sync-status/{user_id}", _endpoint(_in_thread(_sync_status)), methods=["GET"]),
    ]


def refusal(status: int, error: str, message: str) -> Response:
    """An error response."""
    return JSONResponse({"success": False, "error": error, "message": message}, status)


def _in_thread(handler: Callable[[Request, Fields, UUID], Response]) -> Handler:
    async def handled(request: Request, fields: Fields, user_id: UUID) -> Response:
        return await run_in_threadpool(handler, request, fields, user_id)

    return handled


def _endpoint(handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    """An endpoint that knows its caller and returns every failure as JSON."""

    async def endpoint(request: Request) -> Response:
        try:
            caller = await run_in_threadpool(caller_of, request)
            body = await read_body(request)
            fields = _fields(body) if request.method == "POST" else {}
            user_id = _user_id(request.path_params.get("user_id") or fields.get("userId"))
            caller.check(user_id)
            return await handler(request, fields, user_id)
        except CallError as error:
            headers = {"WWW-Authenticate": "Bearer"} if error.status == 401 else None
            return JSONResponse(error.body, error.status, headers)
        except PageError as problem:
            return refusal(problem.status, "bad_request", f"{problem.text} {problem.remedy}")
        except UnknownUserError:
            return refusal(404, "unknown_user", "There is no user with that userId.")
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
        except Exception as error:
            # Caught here: a browser hides a response without CORS headers from the page.
            unexpected(error)
            said = f"Unexpected error ({type(error).__name__}). The page's log says where."
            return refusal(500, "internal", said)

    return endpoint


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


async def _sync(request: Request, fields: Fields, user_id: UUID) -> Response:
    site, patience = site_of(request), _patience(request)
    days = requested_days(fields, datetime.now(UTC), site)
    started_at = await run_in_threadpool(_now, site)
    launched = await run_in_threadpool(
        sync_runs.launch, site, user_id, "functions API", days.first, days.last
    )
    if patience == 0:
        body = _launched(site, user_id, launched)
        return JSONResponse(body, 202)
    if not await sync_runs.have_ended(site, launched.run_ids, patience):
        body = _launched(site, user_id, launched)
        said = f"The sync is still running after {patience} seconds. It continues; see statusUrl."
        return JSONResponse({**body, "message": said}, 202)
    return await run_in_threadpool(_ended, site, user_id, launched, started_at)


def _now(site: Site) -> datetime:
    """The database's time, by which results are dated."""
    with site.pipeline.engine.begin() as db:
        return database_now(db)


def _patience(request: Request) -> int:
    """Seconds that the caller waits for the end of a sync; 0 without ``wait``."""
    given = request.query_params.get("wait", "0")
    if not (given.isascii() and given.isdecimal() and int(given) <= MAX_WAIT):
        raise CallError(
            422, "invalid_wait", f"wait has to be a number of seconds, at most {MAX_WAIT}."
        )
    return int(given)


def _launched(site: Site, user_id: UUID, launched: Launched) -> dict[str, Any]:
    did = "The user is being synced already:" if launched.was_under_way else "Launched a sync of"
    query = urlencode({"runId": launched.run_ids}, doseq=True)
    return {
        "success": True,
        "message": f"{did} {launched.first} to {launched.last}.",
        "runIds": launched.run_ids,
        "startDate": launched.first.isoformat(),
        "endDate": launched.last.isoformat(),
        "statusUrl": f"{site.page.url}{PREFIX}/sync-status/{user_id}?{query}",
        "runUrl": _run_url(site, launched.run_ids[0]),
    }


def _ended(site: Site, user_id: UUID, launched: Launched, started_at: datetime) -> Response:
    """The result of runs that have ended, in the source system's form: the columns of
    ``sync_status``, but for these days alone. The stored row may be another sync's by now."""
    count = (launched.last - launched.first).days + 1
    days = [launched.first + timedelta(days=ahead) for ahead in range(count)]
    with site.pipeline.engine.begin() as db:
        listed = ledger.results(db, days=days, user_ids=[user_id])
    results = [one for one in listed if one.finished_at and one.finished_at >= started_at]
    status = ledger.status_of(results)
    if {one.day for one in results} != set(days):
        said = "The sync ended before all days had a result. Its run says why; start it again."
        body = {**_launched(site, user_id, launched), "success": False, "error": "sync_failed"}
        return JSONResponse({**body, "message": said}, 503)
    body = {
        **_launched(site, user_id, launched),
        **_result(status),
        "success": status.status == "success",
        "message": status.message,
    }
    if status.status == "success":
        return JSONResponse(body)
    obstacle = site.connection(user_id).sync_obstacle
    if obstacle is None:
        return JSONResponse({**body, "error": "sync_failed"}, 503)
    fix = {"error": obstacle.value, "fix": obstacle.explanation.fix}
    return JSONResponse({**body, **fix}, _STATUS[obstacle.explanation.remedy])


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


def _refresh(request: Request, _fields: Fields, user_id: UUID) -> Response:
    refreshed = site_of(request).pipeline.tokens.refresh(user_id)
    return JSONResponse({"success": True, **_facts(refreshed)})


def _test(request: Request, _fields: Fields, user_id: UUID) -> Response:
    check = site_of(request).pipeline.tokens.check(user_id)
    facts = {**_facts(check.connection), "missingScopes": list(check.missing_scopes)}
    if check.failure is None:
        return JSONResponse({"success": True, "message": "Calls can be read.", **facts})
    # The test worked and this is its result, so the call has not failed.
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


def _sync_status(request: Request, _fields: Fields, user_id: UUID) -> Response:
    site = site_of(request)
    site.connection(user_id)  # or 404
    with site.pipeline.engine.begin() as db:
        status = ledger.statuses(db, [user_id]).get(user_id)
    run_ids = request.query_params.getlist("runId")[:50]
    body = {
        "success": True,
        "userId": str(user_id),
        **_result(status),
        "runs": [_run(site, run_id) for run_id in run_ids],
    }
    return JSONResponse(body)


def _result(status: UserStatus | None) -> dict[str, Any]:
    """The columns of ``sync_status``, under their names."""
    return {
        "last_sync_at": _iso(status.last_sync_at) if status else None,
        "last_sync_status": status.status if status else None,
        "last_sync_message": status.message if status else None,
        "records_synced": status.records_synced if status else None,
    }


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
