"""Generated calls for the tests of the marts: every shape that the contract allows, at random, many
of them at the boundaries of a definition.
"""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from uuid import UUID, uuid5

import sqlalchemy as sa

DAY = timedelta(days=1)
KINDS = (
    "CALL_TRANSFER",
    "DATA_EXTRACTION",
    "WORKFLOW_TRIGGER",
    "SMS",
    "APPOINTMENT_BOOKING",
    "KNOWLEDGE_BASE",
    "TELEPATHY",
)
WITHHELD = "+266696687"
DURATIONS = (
    0,
    9.9,
    9.999,
    10,
    10.001,
    29.9,
    30,
    59.999,
    60,
    61,
    119,
    120,
    299,
    300,
    598,
    599.9,
    600,
)
WEEKDAYS = [
    {
        "dayOfTheWeek": day,
        "intervals": [
            {"startHour": 9, "startMinute": 0, "endHour": 12, "endMinute": 30},
            {"startHour": 13, "startMinute": 15, "endHour": 23, "endMinute": 59},
        ],
    }
    for day in range(1, 6)
]
NIGHTS = [
    {
        "dayOfTheWeek": day,
        "intervals": [{"startHour": 22, "startMinute": 0, "endHour": 6, "endMinute": 0}],
    }
    for day in (1, 3, 7)
]
AGENTS: dict[str, dict[str, Any]] = {
    "agent-days": {"maxCallDuration": 600, "agentWorkingHours": WEEKDAYS},
    "agent-nights": {"maxCallDuration": 300, "agentWorkingHours": NIGHTS},
    "agent-unknown": {"agentWorkingHours": []},
}


@dataclass
class Book:
    """Fills a migrated database with generated calls and their ledger entries."""

    engine: sa.Engine
    seed: int = 0
    _calls: int = 0
    _dice: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self._dice = random.Random(self.seed)  # noqa: S311 - test data

    def location(self, location_id: str, zone: str | None, agent_zone: str | None = None) -> None:
        now = datetime(2025, 1, 1, tzinfo=UTC)
        with self.engine.begin() as db:
            db.execute(
                sa.text("INSERT INTO locations VALUES (:id, :name, :zone, NULL, :now, :now)"),
                {"id": location_id, "name": f"{location_id} Ltd", "zone": zone, "now": now},
            )
            db.execute(
                sa.text("INSERT INTO users (id, business_name) VALUES (:id, :name)"),
                {"id": user_of(location_id), "name": location_id},
            )
            for agent_id, raw in AGENTS.items():
                db.execute(
                    sa.text(
                        "INSERT INTO voiceai_agents VALUES (:location, :id, :id, :zone, "
                        "CAST(:raw AS jsonb), :now, :now, NULL)"
                    ),
                    {
                        "location": location_id,
                        "id": agent_id,
                        "zone": agent_zone,
                        "raw": json.dumps(raw),
                        "now": now,
                    },
                )

    def read(
        self,
        location_id: str,
        first: date,
        last: date,
        *,
        state: str = "complete",
        until: datetime | None = None,
        finished_at: datetime | None = None,
    ) -> None:
        """Ledger rows for days of UTC: each read to its end, or to ``until`` if that is earlier."""
        for n in range((last - first).days + 1):
            day = first + n * DAY
            end = datetime.combine(day + DAY, time(), UTC)
            with self.engine.begin() as db:
                db.execute(
                    sa.text(
                        "INSERT INTO sync_ledger (user_id, location_id, day, state, read_until, "
                        "finished_at) VALUES (:user, :location, :day, :state, :until, :at) "
                        "ON CONFLICT (user_id, location_id, day) DO UPDATE SET "
                        "state = excluded.state, read_until = excluded.read_until, "
                        "finished_at = excluded.finished_at"
                    ),
                    {
                        "user": user_of(location_id),
                        "location": location_id,
                        "day": day,
                        "state": state,
                        "until": None if state != "complete" else min(end, until or end),
                        "at": finished_at or end + timedelta(hours=1),
                    },
                )

    def call(self, location_id: str, started_at: datetime, **values: Any) -> str:
        """Store one call, by default an ordinary engaged one; returns its id."""
        self._calls += 1
        row = {
            "location_id": location_id,
            "call_id": f"call-{self._calls}",
            "agent_id": "agent-days",
            "contact_id": f"contact-{self._calls}",
            "from_number": None,
            "started_at": started_at,
            "duration_seconds": 60.0,
            "is_trial": False,
            "is_agent_deleted": False,
            "summary": "A patient called.",
            "transcript": "bot:Hello\nhuman:Hi\nbot:Yes?\nhuman:Bye",
            "executed_call_actions": [],
            "extracted_data": None,
            "translation": None,
            "missing_since": None,
        } | values
        self.store([row])
        return str(row["call_id"])

    def store(self, rows: Sequence[dict[str, Any]]) -> None:
        stamp = datetime(2025, 1, 1, tzinfo=UTC)
        filled = [
            row
            | {
                "executed_call_actions": json.dumps(row["executed_call_actions"]),
                "extracted_data": None
                if row["extracted_data"] is None
                else json.dumps(row["extracted_data"]),
                "translation": json.dumps(row["translation"]),
                "stamp": stamp,
            }
            for row in rows
        ]
        with self.engine.begin() as db:
            db.execute(
                sa.text(
                    "INSERT INTO call_logs (location_id, call_id, agent_id, contact_id, "
                    "from_number, started_at, duration_seconds, is_trial, is_agent_deleted, "
                    "summary, transcript, executed_call_actions, extracted_data, translation, raw, "
                    "content_hash, first_seen_at, last_changed_at, missing_since) VALUES ("
                    ":location_id, :call_id, :agent_id, :contact_id, :from_number, :started_at, "
                    ":duration_seconds, :is_trial, :is_agent_deleted, :summary, :transcript, "
                    "CAST(:executed_call_actions AS jsonb), CAST(:extracted_data AS jsonb), "
                    "CAST(:translation AS jsonb), "
                    "'{}', '', :stamp, :stamp, :missing_since)"
                ),
                filled,
            )

    def at_random(
        self, location_id: str, first: date, last: date, count: int, **fixed: Any
    ) -> None:
        """Store random calls between two days of UTC, many of them close to each other."""
        self.store([self._any(location_id, first, last) | fixed for _ in range(count)])

    def _any(self, location_id: str, first: date, last: date) -> dict[str, Any]:
        self._calls += 1
        dice = self._dice
        seconds = dice.randrange(((last - first).days + 1) * 86_400)
        if dice.random() < 0.2:  # times that calls share, and the ends of days and hours
            seconds -= seconds % 3600
        started_at = datetime.combine(first, time(), UTC) + timedelta(seconds=seconds)
        caller = dice.randrange(300)
        return {
            "location_id": location_id,
            "call_id": f"call-{self._calls}",
            "agent_id": dice.choice((*AGENTS, "agent-gone", None, "")),
            "contact_id": dice.choice((f"contact-{caller}", f"contact-{caller}", "", None)),
            "from_number": dice.choice((f"+1555{caller % 100:07d}", None, "", WITHHELD)),
            "started_at": started_at,
            "duration_seconds": dice.choice(
                (*DURATIONS, dice.randrange(900), dice.randrange(9000) / 10, None)
            ),
            "is_trial": dice.choices((False, True, None), (90, 5, 5))[0],
            "is_agent_deleted": dice.choice((False, None, True)),
            "summary": dice.choice(("A patient called.", "", "  ", None)),
            "transcript": self._transcript(),
            "executed_call_actions": [
                self._action(started_at) for _ in range(dice.choice((0, 0, 0, 1, 2, 4)))
            ],
            "extracted_data": self._data(),
            "translation": dice.choice(
                (
                    None,
                    {},
                    {"language": "es"},
                    {"language": "ES "},
                    {"language": ["es"]},
                    {"enabled": True},
                    "es",
                )
            ),
            "missing_since": started_at + DAY if dice.random() < 0.05 else None,
        }

    def _transcript(self) -> str | None:
        lines = ["bot:Hello, are you human: yes or no?"]
        for _ in range(self._dice.randrange(4)):
            lines += ["human:Yes", "bot:Go on"]
        if self._dice.random() < 0.2:  # other spellings of the labels
            case = self._dice.choice((str.title, str.upper, str.lower))
            lines = [case(line.replace("human:", "user:")) for line in lines]
        if self._dice.random() < 0.05:
            lines = ["Speaker 1: Hello", "Speaker 2: Hi"]
        first = self._dice.choice((0, 0, 1))  # a caller who speaks first
        return self._dice.choice(("\n".join(lines[first:]), "\n".join(lines), "", None, "\n "))

    def _action(self, started_at: datetime) -> Any:
        dice = self._dice
        triggered = started_at + timedelta(milliseconds=dice.randrange(60_000))
        executed = triggered + timedelta(milliseconds=dice.randrange(-500, 20_000))
        action = {
            "actionType": dice.choice(KINDS),
            "actionName": dice.choice(
                ("Book", "Call +1 555 010 0099", "Write to pat@example.test")
            ),
            "executedAt": dice.choice((_iso(executed), _iso(executed), None, "", "soon")),
            "triggerReceivedAt": dice.choice((_iso(triggered), _iso(triggered), None)),
        }
        for name in ("actionType", "actionName", "executedAt"):
            if dice.random() < 0.03:
                del action[name]
        return action if dice.random() < 0.98 else "not an action"

    def _data(self) -> Any:
        values = ("Pat", "", " ", None, False, 0, [], {}, {"a": None}, [1])
        keys = ("name", "reason", "+1 555 010 0001", "vip")
        return self._dice.choice(
            (
                None,
                {},
                {key: self._dice.choice(values) for key in keys},
                {"name": self._dice.choice(values)},
                ["a list"],
            )
        )


def user_of(location_id: str) -> UUID:
    return uuid5(UUID(int=0), location_id)


def _iso(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"
