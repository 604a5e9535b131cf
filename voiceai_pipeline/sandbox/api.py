"""The endpoints of CONTRACT 2, 3 and 4.5: call logs, one call, agents, a location.

`guard` checks versions, tokens, scopes and limits before these run.
"""

import math
import uuid
from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from voiceai_pipeline.sandbox import answers
from voiceai_pipeline.sandbox.calls import (
    ACTION_NAMES,
    ACTION_TYPES,
    Call,
    action_id,
    action_parameters,
)
from voiceai_pipeline.sandbox.cast import (
    AGENT_SCOPE,
    CALL_LOG_SCOPE,
    LOCATION_SCOPE,
    SandboxAgent,
    SandboxLocation,
)
from voiceai_pipeline.sandbox.faults import CALL_LOGS
from voiceai_pipeline.sandbox.guard import Caller, guarded

_CALL_LOG_PARAMETERS = frozenset(
    {
        "locationId",
        "agentId",
        "contactId",
        "callType",
        "startDate",
        "endDate",
        "actionType",
        "sortBy",
        "sort",
        "page",
        "pageSize",
    }
)
_AGENT_PARAMETERS = frozenset({"locationId", "page", "pageSize", "query"})
_MAX_PAGE_SIZE = 50
_MAX_AGENT_PAGE = 5000


def routes() -> list[Route]:
    """The read endpoints."""
    return [
        Route(CALL_LOGS, guarded(list_call_logs, scope=CALL_LOG_SCOPE)),
        Route(CALL_LOGS + "/{callId}", guarded(get_call_log, scope=CALL_LOG_SCOPE)),
        Route("/voice-ai/agents", guarded(list_agents, scope=AGENT_SCOPE)),
        Route("/voice-ai/agents/{agentId}", guarded(get_agent, scope=AGENT_SCOPE)),
        Route(
            "/locations/{locationId}",
            guarded(get_location, scope=LOCATION_SCOPE, user_type="any"),
        ),
    ]


def list_call_logs(caller: Caller) -> Response:
    """GET /voice-ai/dashboard/call-logs (CONTRACT 2.1, 2.2)."""
    query = caller.request.query_params
    location_id = query.get("locationId")
    if refused := caller.require_location(location_id):
        return refused
    problems = _unknown(query, _CALL_LOG_PARAMETERS)
    page = _number(query, "page", 1, problems, least=1)
    size = _number(query, "pageSize", 10, problems, least=1, most=_MAX_PAGE_SIZE)
    start = _number(query, "startDate", -math.inf, problems)
    end = _number(query, "endDate", math.inf, problems)
    _one_of(query, "callType", ("LIVE", "TRIAL"), problems)
    _one_of(query, "sortBy", ("duration", "createdAt"), problems)
    _one_of(query, "sort", ("ascend", "descend"), problems)
    wanted_types = _split(query.get("actionType"))
    if not wanted_types <= set(ACTION_TYPES):
        known = ", ".join(ACTION_TYPES)
        problems.append(f"each value in actionType must be one of the following values: {known}")
    if problems:
        return answers.unprocessable(*problems)
    if ("startDate" in query) != ("endDate" in query):
        return answers.refusal(400, "Both startDate and endDate must be provided together")
    if start >= end:
        return answers.refusal(400, "startDate must be less than endDate")

    world, location = caller.world, caller.world.locations[str(location_id)]
    if world.date_ends == "exclusive":
        start, end = start + 1, end - 1
    first = math.ceil(max(start, world.calls.history_start_ms))
    last = math.floor(min(end, world.now_ms()))
    for fault in caller.churns:
        world.calls.churn(fault, location, first, last)
    found = _matching(caller, world.calls.outlines(location, first, last), wanted_types)
    begin = int((page - 1) * size)
    logs = [world.calls.body(location, call) for call in found[begin : begin + int(size)]]
    trace = str(uuid.uuid4())
    if world.envelope(location) == "wild":
        return JSONResponse({"callLogs": logs, "totalRecords": len(found), "traceId": trace})
    if world.envelope(location) == "no_total":
        return JSONResponse({"callLogs": logs, "traceId": trace})
    envelope = {"total": len(found), "page": int(page), "pageSize": int(size)}
    return JSONResponse(envelope | {"callLogs": logs, "traceId": trace})


def _matching(caller: Caller, found: list[Call], wanted_types: set[str]) -> list[Call]:
    """Filtered and sorted as requested; newest first by default."""
    query, now = caller.request.query_params, caller.world.now_ms()
    if agent := query.get("agentId"):
        found = [call for call in found if call.agent_id == agent]
    if contacts := _split(query.get("contactId")):
        found = [call for call in found if call.contact_id in contacts]
    if kind := query.get("callType"):
        found = [call for call in found if call.trial == (kind == "TRIAL")]
    if wanted_types:
        # Actions that have not arrived yet are not found.
        ready = (call for call in found if call.ready_ms <= now)
        found = [call for call in ready if wanted_types.intersection(call.action_types)]
    ascending = query.get("sort") == "ascend" and "sortBy" in query
    if query.get("sortBy") == "duration":
        return sorted(found, key=lambda c: (c.duration, c.created_ms, c.id), reverse=not ascending)
    return found if ascending else found[::-1]


def get_call_log(caller: Caller) -> Response:
    """GET one call (CONTRACT 3): the bare CallLogDTO, without `transcriptWithToolCalls`.

    The answer to an unknown id is UNKNOWN in the contract; here it is a 400.
    """
    query = caller.request.query_params
    location_id = query.get("locationId")
    if refused := caller.require_location(location_id):
        return refused
    if problems := _unknown(query, frozenset({"locationId"})):
        return answers.unprocessable(*problems)
    location = caller.world.locations[str(location_id)]
    call = caller.world.calls.find(location, caller.request.path_params["callId"])
    if call is None:
        return answers.refusal(400, "Call log not found", "Bad Request")
    body = caller.world.calls.body(location, call)
    body.pop("transcriptWithToolCalls", None)
    return JSONResponse(body)


def list_agents(caller: Caller) -> Response:
    """GET /voice-ai/agents (CONTRACT 3). Deleted agents are not listed."""
    query = caller.request.query_params
    location_id = query.get("locationId")
    if refused := caller.require_location(location_id):
        return refused
    problems = _unknown(query, _AGENT_PARAMETERS)
    page = _number(query, "page", 1, problems, least=1, most=_MAX_AGENT_PAGE)
    size = _number(query, "pageSize", 10, problems, least=1, most=_MAX_PAGE_SIZE)
    if problems:
        return answers.unprocessable(*problems)
    location = caller.world.locations[str(location_id)]
    words = query.get("query", "").lower()
    there = [one for one in location.agents if not one.is_deleted and words in one.name.lower()]
    begin = int((page - 1) * size)
    return JSONResponse(
        {
            "total": len(there),
            "page": int(page),
            "pageSize": int(size),
            "agents": [_agent(location, one) for one in there[begin : begin + int(size)]],
            "traceId": str(uuid.uuid4()),
        }
    )


def get_agent(caller: Caller) -> Response:
    """GET /voice-ai/agents/{agentId} (CONTRACT 3)."""
    location_id = caller.request.query_params.get("locationId")
    if refused := caller.require_location(location_id):
        return refused
    location = caller.world.locations[str(location_id)]
    for agent in location.agents:
        if agent.id == caller.request.path_params["agentId"] and not agent.is_deleted:
            return JSONResponse(_agent(location, agent))
    return answers.refusal(400, "Agent not found", "Bad Request")


def _agent(location: SandboxLocation, agent: SandboxAgent) -> dict[str, Any]:
    known = {"id": agent.id, "locationId": location.id, "agentName": agent.name}
    if agent.is_draft:
        # SEEN (CONTRACT 3): drafts leave out required fields, and the number may be null.
        return known | {"inboundNumber": None, "actions": []}
    actions = [
        {
            "id": action_id(agent.id, kind),
            "actionType": kind,
            "name": ACTION_NAMES[kind],
            "actionParameters": action_parameters(kind, "agent"),
        }
        for kind in ACTION_TYPES
    ]
    return known | {
        "businessName": location.name,
        "welcomeMessage": f"Hello, this is {location.name}. How can I help?",
        "agentPrompt": "Be helpful and brief.",
        "voiceId": "voice_sandbox",
        "language": "de-DE" if location.timezone == "Europe/Berlin" else "en-US",
        "patienceLevel": "high",
        "maxCallDuration": 900,
        "sendUserIdleReminders": True,
        "reminderAfterIdleTimeSeconds": 8,
        "inboundNumber": agent.inbound_number,
        "callEndWorkflowIds": [],
        "timezone": location.timezone,
        "isAgentAsBackupDisabled": False,
        "actions": actions,
    }


def get_location(caller: Caller) -> Response:
    """GET /locations/{locationId} (CONTRACT 4.5): the only source of name and timezone."""
    location_id = caller.request.path_params["locationId"]
    if refused := caller.require_location(location_id):
        return refused
    location = caller.world.locations[location_id]
    return JSONResponse(
        {
            "location": {
                "id": location.id,
                "companyId": location.company_id,
                "name": location.name,
                "timezone": location.timezone,
                "email": "owner@example.test",
                "phone": location.agents[0].inbound_number,
            },
            "traceId": str(uuid.uuid4()),
        }
    )


def _unknown(query: Mapping[str, str], known: frozenset[str]) -> list[str]:
    return [f"property {name} should not exist" for name in query if name not in known]


def _number(
    query: Mapping[str, str],
    name: str,
    default: float,
    problems: list[str],
    *,
    least: float = -math.inf,
    most: float = math.inf,
) -> float:
    if name not in query:
        return default
    try:
        value = float(query[name])
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        problems.append(f"{name} must be a number conforming to the specified constraints")
        return default
    if value < least:
        problems.append(f"{name} must not be less than {least:g}")
    if value > most:
        problems.append(f"{name} must not be greater than {most:g}")
    return value


def _one_of(
    query: Mapping[str, str], name: str, values: tuple[str, ...], problems: list[str]
) -> None:
    if name in query and query[name] not in values:
        problems.append(f"{name} must be one of the following values: {', '.join(values)}")


def _split(text: str | None) -> set[str]:
    return {part.strip() for part in (text or "").split(",") if part.strip()}
