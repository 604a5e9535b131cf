"""Counts what happened during a soak, and makes a table of it. Checks nothing."""

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from uuid import UUID

import sqlalchemy as sa

from benchmarks.stormy_world import StormyWorld
from voiceai_pipeline.core.failures import FailureClass


@dataclass
class Red:
    """A user's day that is not complete."""

    since: datetime
    failure: FailureClass | None


@dataclass
class Tally:
    """What happened, and what should not have.

    Attributes:
        red: days that are not complete now.
        seen: how many days turned red, by failure class.
        recovered: how long red days took to turn green automatically.
        fixed: how long they took if the failure needed action.
        reconnections: by cause.
        alerts: ids of the alerts that were delivered.
        reruns: red days that an operator had to rerun.
        greens: days that were compared with the world when they turned green.
        wrong: broken promises, a sentence each.
    """

    red: dict[tuple[UUID, date], Red] = field(default_factory=dict)
    seen: Counter[FailureClass | None] = field(default_factory=Counter)
    recovered: list[timedelta] = field(default_factory=list)
    fixed: list[timedelta] = field(default_factory=list)
    reconnections: Counter[str] = field(default_factory=Counter)
    alerts: list[str] = field(default_factory=list)
    reruns: int = 0
    greens: int = 0
    wrong: list[str] = field(default_factory=list)


def facts(
    tally: Tally, world: StormyWorld, engine: sa.Engine, users: int, calls: int
) -> list[tuple[str, str]]:
    """The table of a finished soak.

    Args:
        users: how many there are.
        calls: how many were compared at the end.
    """
    with engine.begin() as db:
        query = sa.text("SELECT event, count(*) AS times FROM token_events GROUP BY event")
        events = {row.event: row.times for row in db.execute(query)}
        missing = db.execute(
            sa.text("SELECT count(*) FROM call_logs WHERE missing_since IS NOT NULL")
        ).scalar_one()
    return [
        ("users, locations", f"{users}, {len(world.locations)}"),
        ("requests", f"{world.asked.total():,}"),
        ("faults injected", f"{world.injected.total()}"),
        *((f"  {kind}", str(number)) for kind, number in world.injected.most_common()),
        ("calls at the end, vanished", f"{calls:,}, {missing}"),
        ("green days compared with the world", f"{tally.greens:,}"),
        ("red days seen", str(tally.seen.total())),
        *((f"  {kind}", str(number)) for kind, number in tally.seen.most_common()),
        ("recovered automatically, median and max", _durations(tally.recovered)),
        ("recovered after action, median and max", _durations(tally.fixed)),
        ("rerun by an operator", str(tally.reruns)),
        ("not recovered", str(len(tally.red))),
        ("reconnections", str(tally.reconnections.total())),
        *((f"  {cause}", str(number)) for cause, number in tally.reconnections.most_common()),
        ("alerts", str(len(tally.alerts))),
        ("refreshes, replays", f"{events.get('refreshed', 0)}, {events.get('replay_began', 0)}"),
    ]


def _durations(spans: Sequence[timedelta]) -> str:
    if not spans:
        return "0"
    minutes = [span / timedelta(minutes=1) for span in spans]
    return f"{len(spans)}: {statistics.median(minutes):.0f} min, {max(minutes):.0f} min"
