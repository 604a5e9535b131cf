"""The `/sandbox/...` endpoints, which break, heal and inspect the sandbox. Loopback clients only.

They take and return JSON; a plain HTML form is redirected to the front page instead. HighLevel has
no such endpoints.
"""

import dataclasses
import ipaddress
import json
import urllib.parse
from collections.abc import Callable, Mapping
from typing import Any, get_args

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from voiceai_pipeline.sandbox.cast import Envelope
from voiceai_pipeline.sandbox.faults import Fault, moment_of
from voiceai_pipeline.sandbox.guard import Endpoint
from voiceai_pipeline.sandbox.world import World

Fields = Mapping[str, Any]


def routes() -> list[Route]:
    """Every control endpoint."""
    return [
        Route("/sandbox/state", _answering(_state)),
        Route("/sandbox/faults", _answering(_clear_faults), methods=["DELETE"]),
        Route("/sandbox/faults", _answering(_add_fault), methods=["POST"]),
        Route("/sandbox/heal", _answering(_heal), methods=["POST"]),
        Route("/sandbox/revoke", _answering(_revoke), methods=["POST"]),
        Route("/sandbox/pause", _answering(_pause), methods=["POST"]),
        Route("/sandbox/resume", _answering(_resume), methods=["POST"]),
        Route("/sandbox/grant-scopes", _answering(_grant_scopes), methods=["POST"]),
        Route("/sandbox/private-token", _answering(_private_token), methods=["POST"]),
        Route("/sandbox/call-now", _answering(_call_now), methods=["POST"]),
        Route("/sandbox/pause-delivery", _answering(_pause_delivery), methods=["POST"]),
        Route("/sandbox/resume-delivery", _answering(_resume_delivery), methods=["POST"]),
        Route("/sandbox/expire-access", _answering(_expire_access), methods=["POST"]),
        Route("/sandbox/settings", _answering(_settings), methods=["POST"]),
        Route("/sandbox/requests", _answering(_clear_requests), methods=["DELETE"]),
        Route("/sandbox/requests", _answering(_requests)),
        Route("/sandbox/calls", _answering(_change_calls), methods=["POST"]),
        Route("/sandbox/calls", _answering(_calls)),
    ]


def refuse_strangers(request: Request) -> Response | None:
    """403 unless the request comes from this machine, and from a program or a sandbox page."""
    host = request.client.host if request.client else ""
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = False
    # A page of another site, open in the same browser, is not local either.
    origin = request.headers.get("origin")
    if origin is not None and urllib.parse.urlsplit(origin).netloc != request.headers.get("host"):
        local = False
    if local:
        return None
    return JSONResponse({"error": "the sandbox is controlled from its own machine only"}, 403)


def _answering(act: Callable[[World, Fields], Any]) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        if refused := refuse_strangers(request):
            return refused
        world: World = request.app.state.world
        kind = request.headers.get("content-type", "")
        is_form = kind.startswith("application/x-www-form-urlencoded")
        try:
            fields: dict[str, Any] = dict(request.query_params)
            body = await request.body()
            if is_form:
                fields |= urllib.parse.parse_qsl(body.decode())
            elif body:
                fields |= json.loads(body)
            answer = act(world, fields)
        except KeyError as missing:
            return JSONResponse({"error": f"unknown or missing: {missing.args[0]}"}, 404)
        except (TypeError, ValueError) as problem:
            return JSONResponse({"error": str(problem)}, 400)
        return RedirectResponse("/", 303) if is_form else JSONResponse(answer)

    return endpoint


def _state(world: World, _fields: Fields) -> Any:
    """The whole state as `GET /sandbox/state` returns it, without tokens and codes."""
    return {
        "now": world.clock().isoformat(),
        "seed": world.seed,
        "date_ends": world.date_ends,
        "grace_seconds": world.grace_seconds,
        "limits_enabled": world.limits.enabled,
        "bad_day": world.bad_day.isoformat() if world.bad_day else None,
        "users": [
            {
                "id": user.id,
                "first_name": user.first_name,
                "last_name": user.last_name,
                "business_name": user.business_name,
                "location_id": user.location_id,
                "company_id": user.company_id,
                "installs_as": user.installs_as,
                "installs_on": user.installs_on,
                "role": user.role,
                "connected": world.is_connected(user),
            }
            for user in world.users
        ],
        "locations": [
            {
                "id": location.id,
                "company_id": location.company_id,
                "name": location.name,
                "timezone": location.timezone,
                "calls_per_day": location.calls_per_day,
                "envelope": world.envelope(location),
                "paused": world.is_paused(location.id),
                "revoked": world.is_revoked(location.id),
                "faults": [
                    rule.as_json() for rule in world.faults if rule.location_id == location.id
                ],
            }
            for location in world.locations.values()
        ],
        "faults": [rule.as_json() for rule in world.faults],
        "delivery": "paused" if world.outbox.is_paused else "on",
        "deliveries": dict(world.outbox.counts),
        "paused": world.paused,
        "revoked": world.revoked,
    }


def _add_fault(world: World, fields: Fields) -> Any:
    fault = Fault.from_json(fields)
    if fault.location_id != "*":
        _resource(world, {"location_id": fault.location_id})
    return world.add_fault(fault).as_json()


def _clear_faults(world: World, fields: Fields) -> Any:
    return {"cleared": world.clear_faults(fields.get("location_id"))}


def _heal(world: World, fields: Fields) -> Any:
    return {"healed": world.heal(_resource(world, fields))}


def _revoke(world: World, fields: Fields) -> Any:
    world.revoke(_resource(world, fields))
    return {"revoked": True}


def _pause(world: World, fields: Fields) -> Any:
    world.pause(_resource(world, fields))
    return {"paused": True}


def _resume(world: World, fields: Fields) -> Any:
    world.resume(_resource(world, fields))
    return {"paused": False}


def _grant_scopes(world: World, fields: Fields) -> Any:
    world.grant_scopes(_resource(world, fields))
    return {"granting": "everything, from the next authorization on"}


def _private_token(world: World, fields: Fields) -> Any:
    """The location's private integration token; `rotate` makes a new one, `scopes` (separated by
    spaces) sets what it may read."""
    location_id = _resource(world, fields)
    if fields.get("rotate"):
        world.private_tokens.rotate(location_id)
    if "scopes" in fields:
        world.private_tokens.tick(location_id, str(fields["scopes"]).split())
    return {"token": world.private_tokens.of(location_id)}


def _expire_access(world: World, fields: Fields) -> Any:
    world.expire_access(_resource(world, fields))
    return {"expired": True}


def _call_now(world: World, fields: Fields) -> Any:
    return {"id": world.calls.add(_resource(world, fields))["id"]}


def _pause_delivery(world: World, _fields: Fields) -> Any:
    world.outbox.is_paused = True
    return {"delivery": "paused"}


def _resume_delivery(world: World, _fields: Fields) -> Any:
    world.outbox.is_paused = False
    return {"delivery": "on"}


def _settings(world: World, fields: Fields) -> Any:
    """Per location: `expires_in`, `envelope`; for all: `date_ends`, `grace_seconds`, `limits`."""
    known = {"location_id", "expires_in", "envelope", "date_ends", "grace_seconds", "limits"}
    if unknown := sorted(set(fields) - known):
        raise ValueError(f"unknown field: {', '.join(unknown)}")
    if fields.get("envelope", "spec") not in get_args(Envelope):
        raise ValueError(f"envelope must be one of: {', '.join(get_args(Envelope))}")
    if fields.get("date_ends", "inclusive") not in ("inclusive", "exclusive"):
        raise ValueError("date_ends must be inclusive or exclusive")
    if "expires_in" in fields:
        world.set_token_lifetime(_resource(world, fields), int(fields["expires_in"]))
    if "envelope" in fields:
        world.set_envelope(_resource(world, fields), fields["envelope"])
    if "date_ends" in fields:
        world.date_ends = fields["date_ends"]
    if "grace_seconds" in fields:
        world.grace_seconds = float(fields["grace_seconds"])
    if "limits" in fields:
        world.limits.enabled = bool(fields["limits"])
    return {"set": sorted(set(fields) - {"location_id"})}


def _requests(world: World, fields: Fields) -> Any:
    since = int(fields.get("since", 0))
    return [
        dataclasses.asdict(request) | {"at": request.at.isoformat()}
        for request in list(world.requests)
        if request.n > since
    ]


def _clear_requests(world: World, _fields: Fields) -> Any:
    world.clear_requests()
    return {"cleared": True}


def _calls(world: World, fields: Fields) -> Any:
    start, end = (moment_of(fields.get(name)) for name in ("start", "end"))
    return world.calls.between(_resource(world, fields), start, end)


def _change_calls(world: World, fields: Fields) -> Any:
    """`add` (fields of a call), `remove` (an id) or `change` (id and fields)."""
    location_id = _resource(world, fields)
    if "add" in fields:
        wanted = dict(fields["add"])
        return world.calls.add(location_id, moment_of(wanted.pop("createdAt", None)), **wanted)
    if "remove" in fields:
        world.calls.remove(location_id, str(fields["remove"]))
        return {"removed": fields["remove"]}
    wanted = dict(fields["change"])
    world.calls.change(location_id, str(wanted.pop("id")), **wanted)
    return {"changed": True}


def _resource(world: World, fields: Fields) -> str:
    wanted = str(fields["location_id"])
    companies = {location.company_id for location in world.locations.values()}
    if wanted not in world.locations and wanted not in companies:
        raise KeyError(wanted)
    return wanted
