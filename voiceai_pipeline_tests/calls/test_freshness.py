"""Who is not up to date, and that neither an old backfill nor a quiet pipeline hides it."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from uuid import UUID
from zoneinfo import ZoneInfo

import dagster as dg
import pytest
import sqlalchemy as sa

from voiceai_pipeline.calls.day_status import DEADLINE, day_due, stale_users
from voiceai_pipeline.core.connection import Connection, ConnectionState, User
from voiceai_pipeline.core.failures import FailureClass
from voiceai_pipeline.defs import freshness as wing
from voiceai_pipeline_tests.support.product import Product

BERLIN = ZoneInfo("Europe/Berlin")
NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
DUE = date(2026, 11, 24)
LONG_AGO = NOW - timedelta(days=90)


def person(number: int, since: datetime = LONG_AGO, **facts: object) -> Connection:
    known: dict[str, object] = {"state": ConnectionState.CONNECTED, "location_id": f"Loc{number}"}
    return Connection(User(UUID(int=number), f"Shop {number}"), since=since, **(known | facts))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("now", "due"),
    [
        (datetime(2026, 11, 25, 4, 59, 59, tzinfo=UTC), date(2026, 11, 23)),
        (datetime(2026, 11, 25, 5, 0, tzinfo=UTC), date(2026, 11, 24)),  # midnight in Berlin + 6 h
        (datetime(2026, 11, 25, 22, 59, tzinfo=UTC), date(2026, 11, 24)),
        (datetime(2026, 11, 25, 23, 30, tzinfo=UTC), date(2026, 11, 24)),  # the 26th in Berlin
    ],
)
def test_a_day_is_due_a_deadline_after_its_end(now: datetime, due: date) -> None:
    assert timedelta(hours=6) == DEADLINE
    assert day_due(now, BERLIN) == due


def test_who_lags_is_stale_and_who_cannot_be_synced_is_not() -> None:
    people = [
        person(1),
        person(2),
        person(3),
        person(4, state=ConnectionState.PAUSED, reason=FailureClass.LOCATION_PAUSED),
        person(5, state=ConnectionState.DISCONNECTED),
    ]
    last = {UUID(int=1): DUE, UUID(int=2): DUE - timedelta(days=3)}
    found = stale_users(people, last, set(), DUE, NOW)
    assert [(one.connection.user.name, one.days_behind) for one in found] == [
        ("Shop 2", 3),
        ("Shop 3", None),
    ]


def test_who_has_just_been_connected_has_a_deadline_of_their_own_unless_it_failed() -> None:
    new = person(1, since=NOW - DEADLINE + timedelta(minutes=1))
    assert stale_users([new], {}, set(), DUE, NOW) == []
    assert len(stale_users([new], {}, {new.user.id}, DUE, NOW)) == 1
    assert len(stale_users([new], {}, set(), DUE, NOW + timedelta(minutes=1))) == 1


# In Dagster --------------------------------------------------------------------------------------


@dataclass
class Daemon:
    """Ticks the sensor and records what it says, as Dagster's daemon does."""

    product: Product
    cursor: str | None = None

    def tick(self) -> dg.AssetCheckEvaluation | None:
        """What the tick records; None if there is nothing new."""
        context = dg.build_sensor_context(
            instance=self.product.instance,
            cursor=self.cursor,
            resources={"database": self.product.pipeline.engine},
        )
        found = wing.stale_users(context)
        if isinstance(found, dg.SkipReason):
            return None
        assert isinstance(found, dg.SensorResult)
        self.cursor = found.cursor
        (event,) = found.asset_events
        assert isinstance(event, dg.AssetCheckEvaluation)
        self.product.instance.report_runless_asset_event(event)
        return event


def recorded(product: Product) -> list[bool]:
    """What the check said, newest first."""
    key = dg.AssetCheckKey(dg.AssetKey("sync_status"), wing.NAME)
    history = product.instance.event_log_storage.get_asset_check_execution_history(key, limit=9)
    said = []
    for one in history:
        assert one.event is not None
        assert one.event.dagster_event is not None
        said.append(one.event.dagster_event.asset_check_evaluation_data.passed)
    return said


def test_a_stale_user_turns_the_check_red_and_only_their_newest_day_turns_it_green_again(
    product: Product,
) -> None:
    daemon = Daemon(product)
    pine = product.connect("Pine Realty")
    product.connect("Harbor Dental")
    yesterday = product.yesterday
    assert product.sync([yesterday - timedelta(days=1), yesterday]).success
    fresh = daemon.tick()
    assert fresh is not None
    assert fresh.passed
    assert daemon.tick() is None

    # Nobody has read Pine's last days, and nobody has tried to: no run fails, no day turns red.
    with product.pipeline.engine.begin() as db:
        db.execute(sa.text("UPDATE api_keys SET connection_since = now() - interval '90 days'"))
        db.execute(sa.text("DELETE FROM sync_ledger WHERE user_id = :id"), {"id": pine.user.id})
    red = daemon.tick()
    assert red is not None
    assert not red.passed
    assert red.severity is dg.AssetCheckSeverity.ERROR
    text = str(red.description)
    assert text.startswith("1 of 2 users who can be synced are not complete up to")
    assert "- Pine Realty, never complete: Nobody has tried to read it. Fix:" in text
    assert "Harbor" not in text

    # A day a month ago is filled in: the newest event of the asset, and no reason to be green.
    month_ago = product.today - timedelta(days=30)
    assert product.sync([month_ago]).success
    old = daemon.tick()
    assert old is not None
    assert not old.passed
    assert f"- Pine Realty, complete up to {month_ago}: Nobody has" in str(old.description)

    # What was tried and failed says why.
    with product.pipeline.engine.begin() as db:
        db.execute(
            sa.text(
                "INSERT INTO sync_ledger (user_id, location_id, day, state, failure_class, message)"
                " SELECT :id, :place, day, 'failed', 'provider_error', 'It was down. Fix: Wait' "
                "FROM unnest(CAST(:days AS date[])) AS day"
            ),
            {
                "id": pine.user.id,
                "place": pine.location_id,
                "days": [yesterday, yesterday - timedelta(days=1)],
            },
        )
    by_hand = wing.every_connected_user_is_up_to_date(product.pipeline.engine)
    assert isinstance(by_hand, dg.AssetCheckResult)
    assert f"complete up to {month_ago}: It was down. Fix: Wait." in str(by_hand.description)

    assert product.sync([yesterday]).success
    green = daemon.tick()
    assert green is not None
    assert green.passed
    # By the sensor, and at the end of each sync, so that no later event of the asset hides it.
    assert recorded(product) == [True, True, False, False, False, True, True]
