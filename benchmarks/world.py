"""The calls that are loaded: a pure function of a shape, so that the code that serves them and the
code that counts them afterwards agree. All of them are invented.

A call is an id and a time of its own plus one of ``CONTENTS`` contents, so a million calls fit into
little memory and a page is fifty joins. No HTTP and no SQL here.
"""

import json
import random
from array import array
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cached_property
from typing import Any
from uuid import UUID

from voiceai_pipeline.sandbox.calls import (
    ACTION_NAMES,
    DAY_MS,
    action_parameters,
    day_start_ms,
    iso,
)
from voiceai_pipeline.sandbox.dialogues import (
    DAYS,
    FIRST_NAMES,
    LAST_NAMES,
    SMALL_TALK,
    TIMES,
    TOPICS,
)

CONTENTS = 256
TRANSCRIPT_BYTES = 1_500
PAGE_SIZE = 50


@dataclass(frozen=True)
class Shape:
    """How many calls there are and how they are served.

    Attributes:
        last_day: the last of ``days`` days, UTC.
        latency: seconds from a request to its answer.
        slow_latency: the same for location 0, the slow tenant; None for ``latency``.
        limits: 100 requests per 10 s and location (CONTRACT 5).
    """

    locations: int
    days: int
    calls_per_day: int
    last_day: date
    latency: float = 0.05
    slow_latency: float | None = None
    limits: bool = True

    @property
    def first_day(self) -> date:
        return self.last_day - timedelta(days=self.days - 1)

    def as_json(self) -> dict[str, Any]:
        return vars(self) | {"last_day": self.last_day.isoformat()}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "Shape":
        return cls(**fields | {"last_day": date.fromisoformat(fields["last_day"])})

    def calls(self, days: int | None = None) -> int:
        """How many calls one location has on its first ``days`` days; None for all days."""
        return (self.days if days is None else days) * self.calls_per_day

    def fewest_requests(self, days: int | None = None) -> int:
        """The fewest requests that read one location: full pages; one if there are no calls."""
        return max(1, -(-self.calls(days) // PAGE_SIZE))


def user_id(location: int) -> UUID:
    return UUID(int=0xBE << 120 | location)


def location_id(location: int) -> str:
    return f"BenchLocation{location:07d}"


def token(location: int) -> str:
    return f"bench-access-{location:07d}"


def request_headers(location: int) -> dict[str, str]:
    """The headers of every request about a location (CONTRACT 1)."""
    return {"Authorization": f"Bearer {token(location)}", "Version": "2021-04-15"}


def call_id(location: int, number: int) -> str:
    """24 hex digits, as HighLevel's; they grow with the time of the call."""
    return f"{location:06x}{number:018x}"


class Calls:
    """Every call of a shape, rendered once; the times are the same in every location."""

    def __init__(self, shape: Shape) -> None:
        self._contents = [_content(number) for number in range(CONTENTS)]
        step = DAY_MS // max(1, shape.calls_per_day)
        first = day_start_ms(shape.first_day)
        self._moments = array(
            "q",
            (
                first + day * DAY_MS + number * step + step // 2
                for day in range(shape.days)
                for number in range(shape.calls_per_day)
            ),
        )

    @cached_property
    def _middles(self) -> list[bytes]:
        """The part of each call that no other has, except the location in its id."""
        return [
            f'{number:018x}","createdAt":"{iso(moment)}",'.encode()
            for number, moment in enumerate(self._moments)
        ]

    def prepare(self) -> None:
        """Render now what the first request would render."""
        _ = self._middles

    def between(self, start_ms: int | None, end_ms: int | None) -> tuple[int, int]:
        """The numbers of the calls in a window (both ends inclusive): the first, and the one after
        the last."""
        first = 0 if start_ms is None else bisect_left(self._moments, start_ms)
        last = len(self._moments) if end_ms is None else bisect_right(self._moments, end_ms)
        return first, max(first, last)

    def page(self, location: int, numbers: range) -> bytes:
        """The JSON of these calls of a location, comma between them."""
        prefix = b'{"id":"%06x' % location
        middles, contents = self._middles, self._contents
        return b",".join(
            [
                b"".join((prefix, middles[n], contents[(n * 31 + location) % CONTENTS]))
                for n in numbers
            ]
        )


def _content(number: int) -> bytes:
    """All fields of a call but its id and time, without the opening brace."""
    rng = random.Random(number)  # noqa: S311 - invented calls, not cryptography
    first, last = rng.choice(FIRST_NAMES), rng.choice(LAST_NAMES)
    words = {
        "name": f"{first} {last}",
        "first": first,
        "day": rng.choice(DAYS),
        "time": rng.choice(TIMES),
    }
    topic = rng.choice([topic for topics in TOPICS.values() for topic in topics])
    lines = ["bot:Hello, how can I help?"]
    for place, turn in enumerate(topic.turns):
        lines.append(f"{('human', 'bot')[place % 2]}:{turn.format_map(words)}")
    while sum(map(len, lines)) + len(lines) < TRANSCRIPT_BYTES - 60:
        question, answer = rng.choice(SMALL_TALK)
        lines += [f"human:{question}", f"bot:{answer}"]
    kinds = rng.sample(sorted(ACTION_NAMES), 2)
    body = {
        "contactId": f"BenchContact{rng.randrange(10**8):08d}",
        "agentId": f"65f0c0ffee00000000{rng.randrange(3):06x}",
        "isAgentDeleted": False,
        "fromNumber": f"+1555{rng.randrange(10**7):07d}",
        "duration": rng.randrange(5, 600),
        "trialCall": rng.random() < 0.04,
        "executedCallActions": [
            {
                "actionId": f"65f0c0ffee00000001{place:06x}",
                "actionType": kind,
                "actionName": ACTION_NAMES[kind],
                "actionParameters": action_parameters(kind, f"{rng.getrandbits(32):08x}"),
                "executedAt": "2026-01-01T09:00:30.000Z",
                "triggerReceivedAt": "2026-01-01T09:00:29.250Z",
            }
            for place, kind in enumerate(kinds)
        ],
        "summary": f"{topic.summary.format_map(words)} The caller was friendly and had no other "
        "questions; a confirmation was promised for the same day.",
        "transcript": "\n".join(lines)[:TRANSCRIPT_BYTES],
        "extractedData": {"customerName": words["name"], "reason": topic.reason},
        "messageId": f"BenchMessage{rng.getrandbits(48):012x}",
    }
    return json.dumps(body, separators=(",", ":")).encode()[1:]
