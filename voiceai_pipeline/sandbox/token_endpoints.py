"""POST /oauth/token and the agency's endpoints, in both dialects (CONTRACT 4.2-4.4).

How tokens are written and refused; `oauth` and `world` decide which tokens are valid.
"""

import base64
import binascii
import hashlib
import json
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from voiceai_pipeline.sandbox import answers
from voiceai_pipeline.sandbox.cast import (
    SANDBOX_APP_ID,
    SANDBOX_APP_VERSION_ID,
    SANDBOX_CLIENT_ID,
    SANDBOX_CLIENT_SECRET,
    SandboxLocation,
)
from voiceai_pipeline.sandbox.faults import TOKEN_PATH, Fault
from voiceai_pipeline.sandbox.guard import (
    VERSIONS,
    Caller,
    Endpoint,
    guarded,
    read_fields,
    with_faults,
    wrong_location,
)
from voiceai_pipeline.sandbox.oauth import RefusedError, TokenPair
from voiceai_pipeline.sandbox.world import World

_SNAKE = {
    "clientId": "client_id",
    "clientSecret": "client_secret",
    "grantType": "grant_type",
    "refreshToken": "refresh_token",
    "userType": "user_type",
    "redirectUri": "redirect_uri",
    "code": "code",
}
_INSTALLED_AT = "2026-10-01T10:30:00.000Z"
_V3_MAX_PAGE = 100


def routes() -> list[Route]:
    """The token endpoint, and the agency's endpoints under their old and new paths."""
    return [
        Route(TOKEN_PATH, _token, methods=["POST"]),
        Route("/oauth/locationToken", _with_body(_location_token, v3=False), methods=["POST"]),
        Route("/oauth/location-token", _with_body(_location_token, v3=True), methods=["POST"]),
        Route(
            "/oauth/installedLocations",
            guarded(_installed_old, scope="oauth.readonly", user_type="Company"),
        ),
        Route(
            "/oauth/installed-locations",
            guarded(_installed_v3, scope="oauth.readonly", user_type="Company", v3_path=True),
        ),
    ]


async def _token(request: Request) -> Response:
    """Both dialects on one path: camelCase for `Version: v3`, snake_case for anything else."""
    world: World = request.app.state.world
    v3 = request.headers.get("version") == "v3"
    sent = await read_fields(request)
    fields = {name: sent.get(name if v3 else snake, "") for name, snake in _SNAKE.items()}
    grant = world.grant_of(refresh=fields["refreshToken"], code=fields["code"])
    locations = {grant.resource} if grant else set()

    def real(_fired: list[Fault]) -> Response:
        return _issue(world, request, fields, v3=v3)

    return await with_faults(world, request, locations, real, fields["grantType"] or None)


def _issue(world: World, request: Request, fields: Mapping[str, str], *, v3: bool) -> Response:
    version = request.headers.get("version")
    if version is not None and version not in VERSIONS:
        return answers.refusal(401, answers.BAD_VERSION)
    for name in ("clientId", "clientSecret", "grantType"):
        if not fields[name]:
            return _missing(name)
    if (fields["clientId"], fields["clientSecret"]) != (SANDBOX_CLIENT_ID, SANDBOX_CLIENT_SECRET):
        return answers.wrong_client()
    if fields["userType"] not in ("", "Company", "Location"):
        return answers.refusal(400, "Invalid parameter: userType")
    try:
        if fields["grantType"] == "authorization_code":
            if not fields["code"]:
                return _missing("code")
            pair = world.exchange(fields["code"], fields["redirectUri"] or None)
        elif fields["grantType"] == "refresh_token":
            if not fields["refreshToken"]:
                return _missing("refreshToken")
            pair = world.refresh(fields["refreshToken"])
        else:
            return answers.refusal(400, "Invalid parameter: grantType")
    except RefusedError as refused:
        return answers.refusal(400, str(refused))
    return JSONResponse(_spelled(pair, v3=v3) | _owner(pair))


def _missing(name: str) -> Response:
    return answers.refusal(400, f"Missing parameter: {name}")


def _spelled(pair: TokenPair, *, v3: bool) -> dict[str, Any]:
    """The token fields in the request's dialect (CONTRACT 4.2), never in both."""
    if v3:
        return {
            "accessToken": pair.access_token,
            "tokenType": "Bearer",
            "expiresIn": pair.expires_in,
            "refreshToken": pair.refresh_token,
        }
    return {
        "access_token": pair.access_token,
        "token_type": "Bearer",
        "expires_in": pair.expires_in,
        "refresh_token": pair.refresh_token,
        # On the docs page only, and only pre-v3 (CONTRACT 4.2).
        "refreshTokenId": hashlib.sha256(pair.refresh_token.encode()).hexdigest()[:24],
    }


def _owner(pair: TokenPair) -> dict[str, Any]:
    grant = pair.grant
    shared: dict[str, Any] = {
        "scope": " ".join(grant.scopes),
        "userType": grant.user_type,
        "companyId": grant.company_id,
        "userId": grant.user_id,
        "traceId": str(uuid.uuid4()),
    }
    if grant.location_id is not None:
        return shared | {"locationId": grant.location_id}
    return shared | {
        "isBulkInstallation": True,
        "approvedLocations": list(grant.approved_locations),
    }


def _with_body(
    handler: Callable[[Caller, Mapping[str, str], bool], Response], *, v3: bool
) -> Endpoint:
    """Read the body first: a guarded handler is synchronous and cannot read it."""

    async def endpoint(request: Request) -> Response:
        fields = await read_fields(request)

        def with_fields(caller: Caller) -> Response:
            return handler(caller, fields, v3)

        inner = guarded(with_fields, scope="oauth.write", user_type="Company", v3_path=v3)
        return await inner(request)

    return endpoint


def _location_token(caller: Caller, fields: Mapping[str, str], v3: bool) -> Response:
    """POST /oauth/locationToken and its v3 name (CONTRACT 4.4)."""
    missing = [name for name in ("companyId", "locationId") if not fields.get(name)]
    if missing:
        return answers.unprocessable(*(f"{name} should not be empty" for name in missing))
    grant, location_id = caller.grant, fields["locationId"]
    if fields["companyId"] != grant.company_id or location_id not in grant.approved_locations:
        return wrong_location()
    try:
        pair = caller.world.mint_location_token(grant, location_id)
    except RefusedError as refused:
        return answers.refusal(400, str(refused))
    app = {"appId": SANDBOX_APP_ID, "versionId": SANDBOX_APP_VERSION_ID}
    return JSONResponse(_spelled(pair, v3=v3) | _owner(pair) | app)


def _installed_old(caller: Caller) -> Response:
    """GET /oauth/installedLocations: skip and limit."""
    query = caller.request.query_params
    if missing := [name for name in ("companyId", "appId") if not query.get(name)]:
        return answers.unprocessable(*(f"{name} should not be empty" for name in missing))
    if query["companyId"] != caller.grant.company_id:
        return wrong_location()
    skip, limit = query.get("skip", "0"), query.get("limit", "20")
    if not (skip.isdecimal() and limit.isdecimal()):
        return answers.unprocessable("skip and limit must be number strings")
    found = _installed(caller) if query["appId"] == SANDBOX_APP_ID else []
    return JSONResponse(
        {
            "locations": found[int(skip) :][: int(limit)],
            "count": len(found),
            "installToFutureLocations": False,
        }
    )


def _installed_v3(caller: Caller) -> Response:
    """GET /oauth/installed-locations: pageSize and an opaque pageToken."""
    query = caller.request.query_params
    for name in ("companyId", "appId"):
        if not query.get(name):
            return _aip_missing(name)
    if query["companyId"] != caller.grant.company_id:
        return wrong_location()
    if query["appId"] != SANDBOX_APP_ID:
        return answers.aip_error(
            404,
            "RESOURCE_NOT_FOUND",
            f"The requested App '{query['appId']}' was not found.",
            resource="App",
            identifier=query["appId"],
        )
    size_text, skip = query.get("pageSize", "20"), _skip_of(query.get("pageToken", ""))
    if not size_text.isdecimal() or not 1 <= int(size_text) <= _V3_MAX_PAGE:
        text = f"pageSize must be between 1 and {_V3_MAX_PAGE}"
        return answers.aip_error(400, "INVALID_ARGUMENT", text, field="pageSize")
    if skip is None:
        text = "pageToken is invalid"
        return answers.aip_error(400, "INVALID_ARGUMENT", text, field="pageToken")
    found, size = _installed(caller), int(size_text)
    items = found[skip : skip + size]
    pagination: dict[str, Any] = {
        "totalRecords": len(found),
        "hasNextPage": skip + size < len(found),
        "hasPrevPage": skip > 0,
        "currentPageSize": len(items),
    }
    if pagination["hasNextPage"]:
        pagination["nextPageToken"] = _page_token(skip + size)
    return JSONResponse(
        {
            "items": items,
            "pagination": pagination,
            "metadata": {"filterApplied": {"companyId": query["companyId"]}},
            "installToFutureLocations": False,
        }
    )


def _aip_missing(name: str) -> Response:
    """The v3 list's error for a missing required parameter."""
    return answers.aip_error(400, "INVALID_ARGUMENT", f"{name} is required", field=name)


def _installed(caller: Caller) -> list[dict[str, Any]]:
    query = caller.request.query_params
    if query.get("isInstalled") == "false":
        return []
    words, only = query.get("query", "").lower(), query.get("locationId")
    there = (caller.world.locations[one] for one in caller.grant.approved_locations)
    return [
        _installation(location)
        for location in there
        if words in location.name.lower() and only in (None, "", location.id)
    ]


def _installation(location: SandboxLocation) -> dict[str, Any]:
    return {
        "_id": location.id,
        "name": location.name,
        "address": "1 Example St",
        "isInstalled": True,
        "versionId": SANDBOX_APP_VERSION_ID,
        "installedAt": _INSTALLED_AT,
    }


def _page_token(skip: int) -> str:
    return base64.urlsafe_b64encode(json.dumps({"skip": skip}).encode()).decode().rstrip("=")


def _skip_of(token: str) -> int | None:
    if not token:
        return 0
    try:
        raw = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        return int(raw["skip"])
    except (binascii.Error, ValueError, KeyError, TypeError):
        return None
