"""Shares over several days, read as an analyst reads them."""

from datetime import UTC, date, datetime
from typing import Any

import sqlalchemy as sa

from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.database.mart_tables import (
    action_metrics,
    agent_performance,
    data_capture_metrics,
)
from voiceai_pipeline_tests.support.analysts import read

ADA = {"location_id": "Loc1", "agent_id": "Ada"}
BEN = {"location_id": "Loc1", "agent_id": "Ben"}
ELSEWHERE = {"location_id": "Loc2", "agent_id": "Cy"}
SMS = {"action_type": "SMS", "action_name": "Text the menu"}


def add(db: sa.Connection, mart: sa.Table, **values: Any) -> None:
    """Add a row; what is not given is 0, false or empty."""
    nothing = {bool: False, str: ""}
    given = {
        column.name: nothing.get(column.type.python_type, 0)
        for column in mart.columns
        if not column.nullable
    }
    db.execute(sa.insert(mart).values(given | {"computed_at": datetime.now(UTC)} | values))


def test_shares_over_several_days_and_agents_count_the_days_without_the_action(
    engine: sa.Engine, database: Secret, logins: None
) -> None:
    first, second = date(2026, 11, 17), date(2026, 11, 18)
    with engine.begin() as db:
        add(db, agent_performance, day=first, calls=4, engaged_calls=2, **ADA)
        add(db, agent_performance, day=second, calls=6, engaged_calls=6, **ADA)
        add(db, agent_performance, day=second, calls=10, engaged_calls=1, **BEN)
        add(db, agent_performance, day=second, calls=50, engaged_calls=50, **ELSEWHERE)
        add(db, action_metrics, day=first, calls=2, actions=3, agent_calls=4, **ADA, **SMS)
        add(db, data_capture_metrics, day=first, data_key="email", engaged_filled_calls=1,
            engaged_calls=2, **ADA)  # fmt: skip

    of_agents = read(
        "ada",
        database,
        "SELECT agent_id, sum(calls)::int AS calls, sum(agent_calls)::int AS of "
        "FROM voiceai.action_shares GROUP BY agent_id, action_type, action_name ORDER BY 1",
    )
    (captured,) = read(
        "ada",
        database,
        "SELECT sum(engaged_filled_calls)::int AS calls, sum(engaged_calls)::int AS of "
        "FROM voiceai.data_capture_shares GROUP BY data_key",
    )

    # Of the location's 20 calls, 2 had the action; the mart's own rows say 2 of 4.
    assert of_agents == [
        {"agent_id": "Ada", "calls": 2, "of": 10},
        {"agent_id": "Ben", "calls": 0, "of": 10},
    ]
    assert captured == {"calls": 1, "of": 9}
