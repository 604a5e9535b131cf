"""The checks that each API request passes first: version, token, scope, limits, faults.

Their order is the contract's (CONTRACT 6): the user agent, the Version header, authorization, the
location. Endpoints get a `Caller`, and check their own parameters.
"""

import asyncio
import contextlib
import json
import urllib.parse
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal

from starlette.requests import Request
from starlette.responses import Response

from voiceai_pipeline.sandbox import answers, private_tokens
from voiceai_pipeline.sandbox.cast import UserType
from voiceai_pipeline.sandbox.faults import Fault
from voiceai_pipeline.sandbox.oauth import Grant
from voiceai_pipeline.sandbox.record import RecordedRequest
from voiceai_pipeline.sandbox.world import World

VERSIONS = frozenset({"v3", "2023-02-21", "2021-07-28", "2021-04-15"})

# Values not to record. A token never belongs in a query, but a bug may put one there.
_SECRET_WORDS = ("code", "token", "secret", "state")
_BENDING = ("truncated_json", "gzip_lie", "reset", "stall", "lost_token_response")

Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class Caller:
    """A request that has passed the checks, and the grant of its token."""

    world: World
    request: Request
    grant: Grant
    churns: tuple[Fault, ...] = ()

    def require_location(self, location_id: str | None) -> Response | None:
        """The refusal if the token gives no access to this location; None if it does."""
        if not location_id:
            return answers.refusal(400, answers.NO_LOCATION)
        return None if may_read(self.grant, location_id) else wrong_location()


Handler = Callable[[Caller], Response]


def may_read(grant: Grant, location_id: str) -> bool:
    """A location token gives access to its location, a company token to its approved ones."""
    if grant.location_id is not None:
        return grant.location_id == location_id
    return location_id in grant.approved_locations


def wrong_location() -> Response:
    return answers.refusal(403, answers.WRONG_LOCATION)


def check_version(request: Request, *, v3_path: bool = False) -> Response | None:
    """The refusal of a missing, unpublished or (on a v3 path) older version; None if it is fine."""
    version = request.headers.get("version")
    if version is None:
        return answers.refusal(401, answers.NO_VERSION)
    if version not in VERSIONS:
        return answers.refusal(401, answers.BAD_VERSION)
    if v3_path and version != "v3":
        # A v3 path does not exist for older versions (CONTRACT 4.4).
        return answers.refusal(404, f"Cannot {request.method} {request.url.path}", "Not Found")
    return None


def guarded(
    handler: Handler,
    *,
    scope: str,
    user_type: UserType | Literal["any"] = "Location",
    v3_path: bool = False,
) -> Endpoint:
    """An endpoint that calls `handler` for requests that pass all checks."""

    async def endpoint(request: Request) -> Response:
        world: World = request.app.state.world
        locations = concerned(world, request)

        def real(fired: list[Fault]) -> Response:
            churns = tuple(fault for fault in fired if fault.kind == "churn")
            return _admit(world, request, handler, scope, user_type, v3_path, churns)

        return await with_faults(world, request, locations, real)

    return endpoint


def _admit(
    world: World,
    request: Request,
    handler: Handler,
    scope: str,
    user_type: UserType | Literal["any"],
    v3_path: bool,
    churns: tuple[Fault, ...],
) -> Response:
    if refused := check_version(request, v3_path=v3_path):
        return refused
    authorization = request.headers.get("authorization")
    if not authorization:
        return answers.refusal(401, answers.NO_AUTHORIZATION)
    grant = _grant_of(world, authorization)
    private = f" {private_tokens.PREFIX}" in authorization
    if grant is None and private:
        return answers.refusal(401, answers.INVALID_PRIVATE_TOKEN)
    if grant is None:
        return answers.refusal(401, answers.INVALID_JWT)
    if private and not asked_locations(request) <= {grant.location_id}:
        # Before the scope: a wrong location id hides a missing scope (CONTRACT 14).
        return answers.refusal(401, answers.NOT_THIS_LOCATION)
    if user_type == "Company" and grant.user_type != user_type:
        return answers.refusal(401, answers.WRONG_CLASS)
    if scope not in grant.scopes or user_type not in ("any", grant.user_type):
        return answers.refusal(401, answers.WRONG_SCOPE)
    if world.is_paused(grant.resource):
        return answers.refusal(400, answers.INACTIVE)
    with world.locked():
        allowed = world.limits.spend(grant.resource, world.today())
        headers = world.limits.headers(grant.resource, world.today())
    if not allowed:
        return answers.refusal(429, "Too Many Requests", headers=headers)
    answer = handler(Caller(world, request, grant, churns))
    answer.headers.update(headers)
    return answer


async def with_faults(
    world: World,
    request: Request,
    locations: set[str],
    real: Callable[[list[Fault]], Response],
    grant_type: str | None = None,
) -> Response:
    """Answer with `real`, as changed by the faults that fire, and record the request."""
    number = world.next_request_number()
    fired: list[Fault] = []
    if request.headers.get("user-agent", "").startswith("Python-urllib/"):
        answer = answers.banned_user_agent()
    else:
        fired = world.fire_faults(locations, request.url.path, date_window(request))
        for fault in fired:
            if fault.kind == "latency":
                await asyncio.sleep(fault.seconds)
        answer = _answer(world, fired, real)
    lost = any(fault.kind in ("reset", "lost_token_response") for fault in fired)
    world.record(
        RecordedRequest(
            n=number,
            method=request.method,
            path=request.url.path,
            location_id=next(iter(sorted(locations, key=_locations_first)), None),
            status=0 if lost else answer.status_code,
            query=_without_secrets(request),
            version=request.headers.get("version"),
            grant_type=grant_type,
            fault=fired[0].kind if fired else None,
            at=world.clock(),
        )
    )
    return answer


def _answer(world: World, fired: list[Fault], real: Callable[[list[Fault]], Response]) -> Response:
    for fault in fired:
        instead = answers.answer_of_fault(fault)
        if instead is not None:
            return instead
    answer = real(fired)
    for fault in fired:
        if fault.kind in _BENDING:
            return answers.bend(answer, fault, lambda: world.stopping)
    return answer


def concerned(world: World, request: Request) -> set[str]:
    """The ids that a request concerns: locations that it names, valid or not, and the location or
    company of its token."""
    found = asked_locations(request)
    grant = _grant_of(world, request.headers.get("authorization", ""))
    return found | {grant.resource} if grant is not None else found


def asked_locations(request: Request) -> set[str]:
    """The location ids in a request's path and query."""
    named = (request.path_params.get("locationId"), request.query_params.get("locationId"))
    return {one for one in named if one}


def date_window(request: Request) -> tuple[float, float] | None:
    """The request's [startDate, endDate] in epoch ms; None if unreadable."""
    query = request.query_params
    with contextlib.suppress(KeyError, ValueError):
        return float(query["startDate"]), float(query["endDate"])
    return None


async def read_fields(request: Request) -> dict[str, str]:
    """The fields of a form or JSON body. Starlette's form parser would need another package."""
    body = await request.body()
    if request.headers.get("content-type", "").startswith("application/json"):
        try:
            raw: Any = json.loads(body or b"{}")
        except ValueError:
            return {}
        if not isinstance(raw, dict):
            return {}
        return {key: value for key, value in raw.items() if isinstance(value, str)}
    return dict(urllib.parse.parse_qsl(body.decode("utf-8", "replace")))


def _grant_of(world: World, authorization: str) -> Grant | None:
    kind, _, token = authorization.partition(" ")
    if token.startswith(private_tokens.PREFIX):
        return world.private_tokens.grant_of(token)
    return world.grant_of(access=token) if kind.lower() == "bearer" and token else None


def _locations_first(one: str) -> tuple[bool, str]:
    return not one.startswith("Loc"), one


def _without_secrets(request: Request) -> dict[str, str]:
    return {
        key: "(not kept)" if any(word in key.lower() for word in _SECRET_WORDS) else value
        for key, value in request.query_params.items()
    }
