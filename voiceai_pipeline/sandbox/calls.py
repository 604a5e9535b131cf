"""Invented calls, a pure function of (seed, location, UTC day).

A day is drawn in two steps: the *outlines* of its calls (what filters, sorting and paging look at;
quick and cached), and the *bodies* of those that are read. No clock, no state and no HTTP here:
`call_book` decides which calls are visible, removed or added.
"""

import datetime as dt
import functools
import hashlib
import random
import zoneinfo
from typing import Any, NamedTuple

from voiceai_pipeline.sandbox.cast import SandboxLocation
from voiceai_pipeline.sandbox.dialogues import (
    DAYS,
    FIRST_NAMES,
    GENERAL,
    LAST_NAMES,
    SMALL_TALK,
    TIMES,
    TOPICS,
)
from voiceai_pipeline.sandbox.story import Craft

ACTION_TYPES = (
    "CALL_TRANSFER",
    "DATA_EXTRACTION",
    "IN_CALL_DATA_EXTRACTION",
    "WORKFLOW_TRIGGER",
    "SMS",
    "APPOINTMENT_BOOKING",
    "CUSTOM_ACTION",
    "KNOWLEDGE_BASE",
)
THIRD_PARTY_SECRET = "SANDBOX-THIRD-PARTY-SECRET"

DAY_MS = 86_400_000
_MINUTE_MS = 60_000
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MS = dt.timedelta(milliseconds=1)
_EPOCH_ORDINAL = dt.date(1970, 1, 1).toordinal()
# APPOINTMENT_BOOKING appears in executedCallActions from this day on (CONTRACT 2.4).
_BOOKING_SINCE = dt.date(2025, 9, 9)
_LATE_SHARE = 0.10
_LATEST_MS = 30 * 60 * _MINUTE_MS
# How busy each local hour of the day is; a few calls come at night, too.
_BUSY = (1, 1, 1, 1, 1, 2, 4, 10, 30, 45, 50, 45, 30, 40, 50, 48, 40, 25, 14, 8, 5, 3, 2, 1)


class Call(NamedTuple):
    """The outline of a call. `ready_ms` is when its summary, transcript and actions arrive."""

    id: str
    created_ms: int
    ready_ms: int
    agent_id: str
    agent_deleted: bool
    trial: bool
    contact_id: str
    duration: float
    action_types: tuple[str, ...]


def day_start_ms(day: dt.date) -> int:
    """Midnight UTC of a day in epoch milliseconds."""
    return (day.toordinal() - _EPOCH_ORDINAL) * DAY_MS


def day_of_ms(moment: int) -> dt.date:
    """The UTC day of a moment in epoch milliseconds."""
    return dt.date.fromordinal(moment // DAY_MS + _EPOCH_ORDINAL)


def to_ms(moment: dt.datetime) -> int:
    """An aware datetime in epoch milliseconds, without a float in between."""
    return (moment - _EPOCH) // _MS


def iso(moment: int) -> str:
    """Epoch milliseconds as HighLevel writes them: `2026-11-22T17:03:11.482Z`."""
    seconds, ms = divmod(moment, 1000)
    # Not isoformat(timespec=...): its "+00:00" is not how the API writes UTC.
    clock = dt.datetime.fromtimestamp(seconds, dt.UTC).isoformat()
    return f"{clock[:19]}.{ms:03d}Z"


def calls_of_day(seed: int, location: SandboxLocation, day: dt.date) -> list[dict[str, Any]]:
    """Every call of a UTC day in its final form, late texts included."""
    return [body_of(seed, location, call) for call in outline_of_day(seed, location, day)]


@functools.lru_cache(maxsize=100_000)
def outline_of_day(seed: int, location: SandboxLocation, day: dt.date) -> tuple[Call, ...]:
    """The outlines of a UTC day, oldest first."""
    if location.calls_per_day == 0:
        return ()
    rng = _dice(f"{seed}/{location.id}/{day.isoformat()}")
    weekend = 0.35 if day.weekday() >= 5 else 1.0
    mean = location.calls_per_day * (location.story.volume(day) if location.story else weekend)
    count = max(0, round(rng.gauss(mean, mean**0.5)))
    start = day_start_ms(day)
    weights, shifts = _day_shape(location.timezone, day)
    hours = rng.choices(range(24), cum_weights=weights, k=count)
    moments = [start + hour * 3_600_000 + rng.randrange(3_600_000) for hour in hours]
    # The edges where windows go wrong: both ends of the day, two calls in one instant, and the
    # instant the local clock jumps.
    if rng.random() < 0.25:
        moments.append(start)
    if rng.random() < 0.25:
        moments.append(start + DAY_MS - 1)
    if moments and rng.random() < 0.2:
        moments.append(moments[0])
    for shift in shifts:
        moments += [start + shift - 1, start + shift]
    moments.sort()
    return tuple(_outline(rng, location, day, moment) for moment in moments)


@functools.lru_cache(maxsize=20_000)
def _day_shape(timezone: str, day: dt.date) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Cumulative weights of the 24 UTC hours, and the offsets (ms) at which local time jumps."""
    zone = zoneinfo.ZoneInfo(timezone)
    midnight = dt.datetime(day.year, day.month, day.day, tzinfo=dt.UTC)
    locals_ = [(midnight + dt.timedelta(hours=hour)).astimezone(zone) for hour in range(25)]
    total, weights = 0, []
    for local in locals_[:24]:
        total += _BUSY[local.hour]
        weights.append(total)
    shifts = [
        hour * 3_600_000
        for hour in range(1, 25)
        if locals_[hour].utcoffset() != locals_[hour - 1].utcoffset() and hour < 24
    ]
    return tuple(weights), tuple(shifts)


def _outline(rng: random.Random, location: SandboxLocation, day: dt.date, moment: int) -> Call:
    trial = rng.random() < 0.04
    working = [agent for agent in location.agents if not agent.is_deleted and not agent.is_draft]
    deleted = [agent for agent in location.agents if agent.is_deleted]
    if deleted and rng.random() < 0.06:
        agent = deleted[0]
    else:
        agent = working[0] if rng.random() < 0.7 or len(working) == 1 else working[1]
    is_desk, story = agent is working[0], location.story
    craft = story.craft(is_desk=is_desk, day=day) if story else Craft()
    hung_up = rng.random() < craft.hung_up
    duration: float = 0 if hung_up else int(rng.gammavariate(2.2, 70) * craft.duration) + 5
    if not hung_up and rng.random() < 0.05:
        duration = round(duration + rng.random(), 1)
    actions: tuple[str, ...] = ()
    if not hung_up and rng.random() < 0.55:
        wanted = rng.sample(ACTION_TYPES, 1 + (rng.random() < 0.35) + (rng.random() < 0.1))
        allowed = (kind for kind in wanted if day >= _BOOKING_SINCE or kind != ACTION_TYPES[5])
        actions = tuple(allowed)
    if story and not hung_up:
        books = (ACTION_TYPES[5],) if rng.random() < craft.booking else ()
        actions = (*(kind for kind in actions if kind != ACTION_TYPES[5]), *books)
    late = 0
    if rng.random() < _LATE_SHARE:
        # From 3 minutes to 30 hours; half of them within 4 hours.
        late = int(3 * _MINUTE_MS + (_LATEST_MS - 3 * _MINUTE_MS) * rng.random() ** 3)
    contact = "" if trial else contact_id(location, rng.randrange(8 * location.calls_per_day + 5))
    return Call(
        # Like a Mongo id: the second of creation first.
        id=f"{moment // 1000:08x}{rng.getrandbits(64):016x}",
        created_ms=moment,
        ready_ms=moment + late,
        agent_id=agent.id,
        agent_deleted=agent.is_deleted,
        trial=trial,
        contact_id=contact,
        duration=duration,
        action_types=actions,
    )


def contact_id(location: SandboxLocation, number: int) -> str:
    """The id of the n-th caller of this location."""
    return f"Con{hashlib.sha256(location.id.encode()).hexdigest()[:10]}{number:07d}"


def body_of(
    seed: int, location: SandboxLocation, call: Call, now_ms: int | None = None
) -> dict[str, Any]:
    """The CallLogDTO (CONTRACT 2.3) of one call as of `now_ms`; None for its final form."""
    rng = _dice(seed ^ int(call.id, 16))
    wild = location.envelope == "wild"
    ready = now_ms is None or now_ms >= call.ready_ms
    first, last, number = _caller(call.contact_id or call.id)
    turns, summary, reason = _conversation(rng, location, call.duration, first, f"{first} {last}")
    # Everything is drawn before anything is left out, so that a call's other fields stay the same
    # when its late fields arrive.
    actions = [_action(rng, call, kind, n, wild) for n, kind in enumerate(call.action_types)]
    anonymous, no_message = rng.random() < 0.03, rng.random() < 0.05
    no_data, translated, extra = rng.random() < 0.35, rng.random() < 0.3, rng.random() < 0.3
    nameless_agent, no_summary = wild and rng.random() < 0.02, wild and rng.random() < 0.03
    body: dict[str, Any] = {"id": call.id}
    if call.contact_id:
        body["contactId"] = call.contact_id
    if not nameless_agent:
        body["agentId"] = call.agent_id
    body["isAgentDeleted"] = call.agent_deleted
    if not call.trial and not anonymous:
        body["fromNumber"] = number
    body |= {
        "createdAt": iso(call.created_ms),
        "duration": call.duration,
        "trialCall": call.trial,
        "executedCallActions": actions if ready else [],
        "summary": summary if ready else "",
        "transcript": "\n".join(turns) if ready else "",
    }
    if no_summary:
        del body["summary"]
    if translated:
        body["translation"] = None if wild else {"enabled": False, "language": "es"}
    if ready and call.duration and not no_data:
        body["extractedData"] = {
            "customerName": f"{first} {last}",
            "email": f"{first}.{last}@example.test".lower().replace("'", ""),
            "reason": reason,
            **({"partySize": 40, "vip": False} if rng.random() < 0.2 else {}),
        }
    if not call.trial and not no_message:
        body["messageId"] = f"Msg{call.id[8:]}"
    if extra or wild:
        body["agentTransferOccurred"] = "CALL_TRANSFER" in call.action_types
    if extra and ready and turns:
        body["transcriptWithToolCalls"] = _with_times(turns, call)
    return body


@functools.lru_cache(maxsize=50_000)
def _caller(contact: str) -> tuple[str, str, str]:
    """First name, last name and number: the same for every call of a contact."""
    rng = _dice(contact)
    return (
        rng.choice(FIRST_NAMES),
        rng.choice(LAST_NAMES),
        f"+1555{rng.randrange(10_000_000):07d}",
    )


def _dice(seed: int | str) -> random.Random:
    """A seeded random generator; nothing here is a secret."""
    return random.Random(seed)  # noqa: S311 - invented calls, not cryptography


def _conversation(
    rng: random.Random, location: SandboxLocation, duration: float, first: str, name: str
) -> tuple[list[str], str, str]:
    """Transcript lines (`bot:`/`human:`), summary and reason; nothing for a hung-up call."""
    if duration == 0:
        return [], "", ""
    own = TOPICS.get(location.kind, ())
    topic = rng.choice(own) if own and rng.random() < 0.8 else rng.choice(GENERAL)
    words = {"name": name, "first": first, "day": rng.choice(DAYS), "time": rng.choice(TIMES)}
    lines = [f"bot:Hello, this is {location.name}. How can I help?"]
    speaker = ("human", "bot")
    for position, turn in enumerate(topic.turns):
        lines.append(f"{speaker[position % 2]}:{turn.format_map(words)}")
    if len(topic.turns) % 2:
        lines.append("bot:Thank you, that is noted.")
    # A wrong number is a short call.
    chat = min(len(SMALL_TALK), int(duration // 75)) if len(topic.turns) > 2 else 0
    for question, answer in rng.sample(SMALL_TALK, chat):
        lines += [f"human:{question}", f"bot:{answer}"]
    lines += ["human:Thanks, bye.", "bot:Goodbye!"]
    return lines, topic.summary.format_map(words), topic.reason


def _with_times(turns: list[str], call: Call) -> list[dict[str, Any]]:
    """The undocumented `transcriptWithToolCalls` of CONTRACT 2.3."""
    step = call.duration / (len(turns) + 1)
    items: list[dict[str, Any]] = []
    for position, line in enumerate(turns):
        speaker, _, text = line.partition(":")
        items.append(
            {
                "role": "agent" if speaker == "bot" else "user",
                "content": text,
                "startTime": round(position * step, 1),
                "endTime": round((position + 0.9) * step, 1),
            }
        )
    ending = {"role": "action_executed", "toolName": "end_call", "toolType": "end_call"}
    items.append(ending | {"toolCallId": f"t{len(turns)}", "startTime": round(call.duration, 1)})
    return items


def _action(rng: random.Random, call: Call, kind: str, position: int, wild: bool) -> dict[str, Any]:
    moment = call.created_ms + int(call.duration * 1000 * (position + 1) / 4)
    return {
        "_id" if wild else "actionId": action_id(call.agent_id, kind),
        "actionType": kind,
        "actionName": ACTION_NAMES[kind],
        "actionParameters": action_parameters(kind, f"{rng.getrandbits(32):08x}"),
        "executedAt": iso(moment),
        "triggerReceivedAt": iso(max(call.created_ms, moment - rng.randrange(200, 5000))),
    }


def action_id(agent_id: str, kind: str) -> str:
    """The id of an agent's configured action."""
    return f"{agent_id[:20]}{0xAC00 + ACTION_TYPES.index(kind):04x}"


ACTION_NAMES = {
    "CALL_TRANSFER": "Put through to a person",
    "DATA_EXTRACTION": "Keep the e-mail address",
    "IN_CALL_DATA_EXTRACTION": "Keep the reason for calling",
    "WORKFLOW_TRIGGER": "Start the follow-up",
    "SMS": "Send a confirmation",
    "APPOINTMENT_BOOKING": "Book a visit",
    "CUSTOM_ACTION": "Look up the order",
    "KNOWLEDGE_BASE": "Look up the answer",
}


def action_parameters(kind: str, salt: str) -> dict[str, Any]:
    """The `actionParameters` of one action type (CONTRACT 2.4)."""
    prompt = {"triggerPrompt": "When the caller asks for it", "triggerMessage": "One moment"}
    match kind:
        case "CALL_TRANSFER":
            where = {"transferToType": "number", "transferToValue": "+15550100099"}
            return prompt | where | {"hearWhisperMessage": True}
        case "DATA_EXTRACTION" | "IN_CALL_DATA_EXTRACTION":
            return {
                "contactFieldId": "65f0c0ffee0000000000f001",
                "description": "What the caller said about it",
                "examples": ["pat@example.test"],
                "overwriteExistingValue": False,
            }
        case "WORKFLOW_TRIGGER":
            return prompt | {"workflowId": "65f0c0ffee0000000000f002"}
        case "SMS":
            return prompt | {"messageBody": "Thank you for calling. We look forward to you."}
        case "APPOINTMENT_BOOKING":
            days = {"calendarId": "65f0c0ffee0000000000f003", "daysOfOfferingDates": 3}
            return days | {"slotsPerDay": 3, "hoursBetweenSlots": 1}
        case "CUSTOM_ACTION":
            return prompt | {
                "apiDetails": {
                    "url": "https://erp.example.test/orders",
                    "method": "GET",
                    "authenticationRequired": True,
                    "authenticationValue": f"{THIRD_PARTY_SECRET}-{salt}",
                    "headers": [
                        {"key": "x-api-key", "value": f"{THIRD_PARTY_SECRET}-header-{salt}"},
                        {"key": "accept", "value": "application/json"},
                    ],
                    "parameters": [
                        {
                            "name": "orderId",
                            "description": "Order id",
                            "type": "string",
                            "example": "ORD-1",
                        }
                    ],
                },
                "selectedPaths": ["status"],
            }
        case _:
            return prompt | {"knowledgeBaseId": "65f0c0ffee0000000000f004"}
