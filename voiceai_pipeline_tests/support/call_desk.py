"""The pages of calls over a real database with calls that a test makes up; no HighLevel behind
them."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

import sqlalchemy as sa

from voiceai_pipeline.calls import call_words
from voiceai_pipeline.connections.history import Actor
from voiceai_pipeline.core.settings import Settings
from voiceai_pipeline.database.embedded import EmbeddedPostgres
from voiceai_pipeline.pipeline import open_pipeline
from voiceai_pipeline.web.app import create_app
from voiceai_pipeline.web.server import listen, serve_in_thread
from voiceai_pipeline.web.site import ACTOR, open_site
from voiceai_pipeline_tests.support.front import ANALYSTS_PASSWORD
from voiceai_pipeline_tests.support.keys import KEYRING
from voiceai_pipeline_tests.support.visitor import PASSWORD, Visitor

HARBOR, MAPLE = "LocHarborDental00001", "LocMaplePlumbing0002"
NEW_YORK, BERLIN = "America/New_York", "Europe/Berlin"
MORNING = datetime(2026, 11, 18, 15, 42, 7, tzinfo=UTC)
"""10:42:07 in New York."""


@dataclass
class CallDesk:
    """Running pages, and the calls behind them.

    Attributes:
        url: without the login of ``visitor`` it leads to the login page.
        granted: the same, where analysts may see content.
    """

    engine: sa.Engine
    url: str
    granted: str
    _calls: int = field(default=0)

    def location(self, location_id: str, name: str, zone: str | None) -> None:
        now = datetime(2026, 1, 1, tzinfo=UTC)
        self._run(
            "INSERT INTO locations VALUES (:id, :name, :zone, NULL, :now, :now)",
            id=location_id, name=name, zone=zone, now=now,
        )  # fmt: skip
        self._run(
            "INSERT INTO users (id, business_name) VALUES (:id, :name)",
            id=user_of(location_id), name=f"{name} (user)",
        )  # fmt: skip
        self._run(
            "INSERT INTO api_keys (id, user_id, service, is_active, location_id, connection_state) "
            "VALUES (gen_random_uuid(), :user, 'highlevel', true, :id, 'connected')",
            user=user_of(location_id), id=location_id,
        )  # fmt: skip

    def agent(self, location_id: str, agent_id: str, name: str, *, deleted: bool = False) -> None:
        now = datetime(2026, 1, 1, tzinfo=UTC)
        self._run(
            "INSERT INTO voiceai_agents VALUES (:place, :id, :name, NULL, '{}', :now, :now, :gone)",
            place=location_id, id=agent_id, name=name, now=now, gone=now if deleted else None,
        )  # fmt: skip

    def read(self, location_id: str, first: date, last: date, state: str = "complete") -> None:
        """The ledger says so of each of these days of UTC."""
        for n in range((last - first).days + 1):
            day = first + timedelta(days=n)
            end = datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(days=1)
            self._run(
                "INSERT INTO sync_ledger (user_id, location_id, day, state, read_until) "
                "VALUES (:user, :place, :day, :state, :until)",
                user=user_of(location_id), place=location_id, day=day, state=state,
                until=end if state == "complete" else None,
            )  # fmt: skip

    def delete_month(self, month: date) -> None:
        """Its calls were deleted because of their age."""
        self._run(
            "INSERT INTO deleted_months VALUES (:month, 60, 1, :at, :at)", month=month, at=MORNING
        )

    def call(self, location_id: str = HARBOR, at: datetime = MORNING, **values: Any) -> str:
        """Store a call; returns its id."""
        self._calls += 1
        seen = values.pop("first_seen_at", at + timedelta(minutes=5))
        row = {
            "location_id": location_id,
            "call_id": f"call{self._calls:020d}",
            "agent_id": "agent-front",
            "contact_id": f"Contact{self._calls:013d}",
            "from_number": f"+1555{self._calls:07d}",
            "started_at": at,
            "duration_seconds": 60.0,
            "is_trial": False,
            "is_agent_deleted": False,
            "summary": "A patient asked a question.",
            "transcript": "bot:Hello\nhuman:Hi",
            "executed_call_actions": [],
            "extracted_data": None,
            "missing_since": None,
            "content_hash": b"",
            "first_seen_at": seen,
            "last_changed_at": seen,
            **values,
        }
        row = {"raw": {"id": row["call_id"]}, **row}
        for name in ("executed_call_actions", "extracted_data", "raw"):
            row[name] = None if row[name] is None else json.dumps(row[name])
        names = ", ".join(row)
        slots = ", ".join(f":{name}" for name in row)
        self._run(f"INSERT INTO call_logs ({names}) VALUES ({slots})", **row)  # noqa: S608
        return str(row["call_id"])

    def outcome(self, call_id: str, outcome: str, at: datetime = MORNING) -> None:
        """What a build of the marts has derived of a call in HARBOR."""
        self._run(
            "INSERT INTO call_facts (location_id, call_id, started_at, agent_id, caller, "
            "is_counted, has_transcript, is_engaged, is_goal_reached, is_transferred, "
            "is_data_captured, outcome, rules_version, row_version) VALUES (:place, :id, :at, "
            "'', 0, true, true, true, false, false, false, :outcome, '', 0)",
            place=HARBOR, id=call_id, at=at, outcome=outcome,
        )  # fmt: skip

    def index(self) -> None:
        """What the web process does in the background."""
        with self.engine.begin() as db:
            call_words.keep(db)

    def openings(self) -> list[tuple[str, str, int, str | None]]:
        """Role, kind, number of calls and id of each opening, in order."""
        query = "SELECT role, kind, calls, call_id FROM content_openings ORDER BY id"
        with self.engine.connect() as db:
            return [tuple(row) for row in db.execute(sa.text(query))]

    def furnish(self) -> None:
        """Begin again with two locations, of which the first has an agent."""
        self.clear()
        self.location(HARBOR, "Harbor Dental", NEW_YORK)
        self.location(MAPLE, "Maple Plumbing", BERLIN)
        self.agent(HARBOR, "agent-front", "Front desk")

    def clear(self) -> None:
        """Forget every call, location and opening."""
        self._run(
            "TRUNCATE call_logs, call_words, call_facts, content_openings, locations, "
            "voiceai_agents, sync_ledger, deleted_months, api_keys, users CASCADE"
        )

    @contextmanager
    def visitor(self, *, analyst: bool = False, granted: bool = False) -> Iterator[Visitor]:
        with Visitor(self.granted if granted else self.url) as visitor:
            visitor.log_in(ANALYSTS_PASSWORD if analyst else PASSWORD)
            yield visitor

    def _run(self, statement: str, **values: Any) -> None:
        with self.engine.begin() as db:
            db.execute(sa.text(statement), values)


def user_of(location_id: str) -> UUID:
    return uuid5(UUID(int=0), location_id)


@contextmanager
def running_desk(postgres: EmbeddedPostgres, template: str, home: Path) -> Iterator[CallDesk]:
    """Pages with a password for operators and one for analysts."""
    name = f"calls_{home.name}"
    postgres.create_database(name, template=template)
    env = {
        "VOICEAI_HOME": str(home),
        "VOICEAI_DATABASE_URL": postgres.url(name),
        "VOICEAI_TOKEN_KEYS": KEYRING,
        "VOICEAI_PAGE_SECRET": PASSWORD,
        "VOICEAI_ANALYST_SECRET": ANALYSTS_PASSWORD,
        "HIGHLEVEL_APP_URL": "https://app.example.test",
    }
    listeners = [listen("127.0.0.1", 0) for _ in range(2)]
    ports = [str(one.getsockname()[1]) for one in listeners]
    closed = Settings.load(env | {"VOICEAI_PAGE_PORT": ports[0]})
    granted = Settings.load(
        env | {"VOICEAI_PAGE_PORT": ports[1], "VOICEAI_ANALYST_CONTENT": "allow"}
    )
    with open_pipeline(closed, actor=Actor(ACTOR)) as pipeline:
        apps = [create_app(open_site(one, pipeline)) for one in (closed, granted)]
        with (
            serve_in_thread(apps[0], listeners[0], "page") as url,
            serve_in_thread(apps[1], listeners[1], "page") as other,
        ):
            yield CallDesk(pipeline.engine, url, other)
    postgres.drop_database(name)
