"""What the views show, read as an analyst reads them."""

import re
from collections.abc import Mapping
from datetime import date, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from voiceai_pipeline.cli.up import PROJECT
from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.core.connection import ConnectionState
from voiceai_pipeline.core.failures import FailureClass, for_user
from voiceai_pipeline.core.pause import Pause
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.database.period_tables import ALL_MARTS
from voiceai_pipeline.database.tables import sync_ledger, sync_pauses
from voiceai_pipeline.database.views import VIEWS
from voiceai_pipeline_tests.support.analysts import STARTED, add_call, add_connection, read


def test_users_who_share_a_location_both_see_its_calls_and_only_those(
    engine: sa.Engine, database: Secret, logins: None
) -> None:
    with engine.begin() as db:
        add_connection(db, 1, "Ash")
        add_connection(db, 2, "Birch")
        add_connection(db, 3, "Cedar", location_id="Loc2", location_timezone="Europe/Berlin")
        add_call(db, "call1")
        add_call(db, "call2", "Loc2")
        add_call(db, "trial", is_trial=True)
        add_call(db, "unknown", is_trial=None)
        add_call(db, "gone", missing_since=STARTED)
        db.exec_driver_sql(
            "INSERT INTO locations (location_id, name, timezone, first_seen_at, last_seen_at) "
            "VALUES ('Loc1', 'Main Street', 'America/New_York', now(), now())"
        )
        db.exec_driver_sql(
            "INSERT INTO voiceai_agents (location_id, agent_id, name, raw, first_seen_at, "
            "last_seen_at) VALUES ('Loc1', 'agent1', 'Robin', '{}', now(), now())"
        )

    counted = read("ada", database, "SELECT * FROM voiceai.calls ORDER BY user_name, call_id")
    everything = read("ada", database, "SELECT * FROM voiceai.all_calls")

    assert [(row["user_name"], row["call_id"]) for row in counted] == [
        ("Ash", "call1"),
        ("Ash", "unknown"),
        ("Birch", "call1"),
        ("Birch", "unknown"),
        ("Cedar", "call2"),
    ]
    assert counted[0] | {"user_id": None} == {
        "user_id": None,
        "user_name": "Ash",
        "location_id": "Loc1",
        "location_name": "Main Street",
        "location_timezone": "America/New_York",
        "call_id": "call1",
        "agent_id": "agent1",
        "agent_name": "Robin",
        "started_at": STARTED,
        "duration_seconds": 61.5,
        "is_agent_deleted": None,
        "action_types": ["SMS", "CALL_TRANSFER"],
        "first_seen_at": STARTED,
        "last_changed_at": STARTED,
        # Nothing is derived before marts are built.
        "outcome": "not_final",
        "caller_turns": None,
        "is_engaged": None,
        "is_goal_reached": None,
        "is_transferred": None,
        "is_data_captured": None,
        "local_day": None,
        "local_hour": None,
        "caller_pseudonym": None,
    }
    assert (counted[-1]["location_name"], counted[-1]["location_timezone"]) == (
        "Loc2",
        "Europe/Berlin",
    )
    assert len(everything) == 2 * 4 + 1
    assert {row["call_id"] for row in everything if row["is_trial"]} == {"trial"}
    assert {row["call_id"] for row in everything if row["missing_since"]} == {"gone"}


def test_captured_values_are_those_that_are_not_empty(
    engine: sa.Engine, database: Secret, logins: None
) -> None:
    data = {"name": "Pat", "vip": False, "n": 0, "a": "", "b": " ", "c": None, "d": [], "e": {}}
    with engine.begin() as db:
        add_call(db, "call1", extracted_data=data | {"said": "[]", "list": [1]})
        add_call(db, "call2", extracted_data=["a list"])
        add_call(db, "call3", extracted_data=None)

    rows = read("bea", database, "SELECT * FROM voiceai.captured_values ORDER BY data_key")

    found = {row["data_key"]: row["value"] for row in rows}
    assert found == {"list": "[1]", "n": "0", "name": "Pat", "said": "[]", "vip": "false"}


STATES: list[Mapping[str, Any]] = [
    {"connection_state": None},
    {"connection_state": None, "is_active": False},
    {"connection_state": "disconnected", "is_active": False},
    {"connection_state": "in_doubt"},
    {"connection_state": "paused", "connection_reason": "location_paused"},
    {"connection_state": "needs_reconnect"},
    {"connection_state": "needs_reconnect", "connection_reason": "scope_missing"},
    {"location_id": None},
    {"location_id": ""},
    {"last_failure": "provider_error", "failed_attempts": 2},
    {},
]


def test_connections_are_shown_as_the_pipeline_sees_them(
    engine: sa.Engine, database: Secret, logins: None
) -> None:
    with engine.begin() as db:
        for number, values in enumerate(STATES):
            add_connection(db, number, f"User {number}", **values)
        connections.add_user(db, UUID(int=99), business_name="Never")
        for user_id, reason in ((UUID(int=99), ""), (add_connection(db, 77, "Rest"), "a break")):
            pause = {"user_id": user_id, "since": STARTED, "paused_by": "a test", "reason": reason}
            db.execute(sa.insert(sync_pauses).values(pause))
        users = {connection.user.id: connection for connection in connections.all_connections(db)}

    rows = {row["user_id"]: row for row in read("ada", database, "TABLE voiceai.connections")}

    assert rows.keys() == users.keys()
    for user_id, row in rows.items():
        connection = users[user_id]
        failure = connection.sync_obstacle or connection.last_failure
        assert row["state"] == connection.state
        assert row["can_sync"] == connection.can_sync
        assert FailureClass.stored(row["failure_class"]) == failure
        said = failure.explanation if failure else None
        assert row["message"] == (said and said.message)
        assert row["fix"] == (said and for_user(said.fix, user_id))
        since, by, why = (row[f"syncs_paused_{name}"] for name in ("since", "by", "because"))
        assert (Pause(since, by, why) if since else None) == connection.pause
    assert rows[UUID(int=99)]["state"] == ConnectionState.NEVER_CONNECTED


def test_a_day_shows_the_problem_and_separately_the_fix(
    engine: sa.Engine, database: Secret, logins: None
) -> None:
    with engine.begin() as db:
        user = add_connection(db, 1, "Ash")
        for ago, message in enumerate(("", "Not well. Fix: Run: voiceai-pipeline connect USER")):
            db.execute(
                sa.insert(sync_ledger).values(
                    user_id=user,
                    location_id="Loc1",
                    day=date(2026, 11, 18) - timedelta(days=ago),
                    state="waiting" if message else "complete",
                    message=message,
                )
            )

    days = read("ada", database, "SELECT * FROM voiceai.sync_days ORDER BY day")

    assert [(row["user_name"], row["state"], row["message"], row["fix"]) for row in days] == [
        ("Ash", "waiting", "Not well", f"Run: voiceai-pipeline connect {user}"),
        ("Ash", "complete", "", None),
    ]


def test_the_page_on_sql_names_every_view_and_its_queries_work(
    database: Secret, logins: None
) -> None:
    page = (PROJECT / "docs" / "sql.md").read_text()

    assert [view.name for view in VIEWS if f"`{view.name}`" not in page] == [
        mart.name for mart in ALL_MARTS
    ]
    queries = re.findall(r"```sql\n(SELECT.*?)```", page, re.DOTALL)
    assert len(queries) == 3
    for query in queries:
        assert read("ada", database, query) == []
