"""When a token is refreshed: the margin, the planned time and its jitter, and skewed clocks."""

import statistics
from datetime import datetime, timedelta
from uuid import UUID

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.connections.refresh_plan import needs_refresh, planned_refresh
from voiceai_pipeline.connections.tokens import Tokens
from voiceai_pipeline.sandbox.server import RunningSandbox
from voiceai_pipeline_tests.support.clock import NOON, Clock
from voiceai_pipeline_tests.support.demo_users import Connector
from voiceai_pipeline_tests.support.token_fleet import TICK, due, fleet


@given(st.integers(min_value=-(10**8), max_value=10**8))
def test_a_token_needs_a_refresh_exactly_from_five_minutes_before_it_expires(seconds: int) -> None:
    assert needs_refresh(NOON + timedelta(seconds=seconds), NOON) is (seconds <= 300)


def test_a_token_with_unknown_expiry_needs_a_refresh() -> None:
    assert needs_refresh(None, NOON)


def test_five_thousand_tokens_of_the_same_minute_drift_apart_and_none_expires(
    engine: sa.Engine, clock: Clock
) -> None:
    life = timedelta(hours=24)
    users = fleet(engine, 5000, clock.now, expires=life, refreshed=timedelta())
    plan = sa.text(
        "UPDATE api_keys SET refresh_at = p.at, token_expires_at = p.expires "
        "FROM unnest(CAST(:ids AS uuid[]), CAST(:at AS timestamptz[]), "
        "CAST(:expires AS timestamptz[])) AS p(id, at, expires) WHERE api_keys.user_id = p.id"
    )

    def grant(user_ids: list[UUID]) -> None:
        at = [planned_refresh(user_id, clock.now, life) for user_id in user_ids]
        with engine.begin() as db:
            db.execute(plan, {"ids": user_ids, "at": at, "expires": [clock.now + life] * len(at)})

    grant(users)
    start = clock.now
    per_tick: list[tuple[datetime, int]] = []
    expires = dict.fromkeys(users, start + life)
    tick = 3 * TICK
    while clock.now < start + timedelta(days=7):
        clock.now += tick
        now_due = due(engine, clock)
        assert all(clock.now < expires[user_id] for user_id in now_due), "expired before it was due"
        expires |= dict.fromkeys(now_due, clock.now + life)
        grant(now_due)
        per_tick.append((clock.now, len(now_due)))
    assert min(expires.values()) > clock.now
    # At five a second, a batch is done well before the next tick.
    assert max(count for _, count in per_tick) / 5 < tick.total_seconds()
    third_day = [n for at, n in per_tick if timedelta(days=2) < at - start < timedelta(days=3)]
    assert sum(1 for n in third_day if n) * tick >= 0.1 * life


def test_the_jitter_is_a_users_own_and_stays_the_same() -> None:
    life = timedelta(hours=24)
    users = [UUID(int=n) for n in range(1000)]
    ahead = [NOON + life - planned_refresh(user, NOON, life) for user in users]
    assert ahead == [NOON + life - planned_refresh(user, NOON, life) for user in users]
    assert min(ahead) >= timedelta(minutes=30)
    assert max(ahead) <= timedelta(minutes=30) + 0.2 * life
    quarters = statistics.quantiles([a.total_seconds() for a in ahead], n=4)
    assert quarters == pytest.approx([1800 + 0.2 * 86400 * q / 4 for q in (1, 2, 3)], rel=0.1)
    short = timedelta(minutes=10)
    assert NOON + 0.6 * short < planned_refresh(users[0], NOON, short) <= NOON + 0.9 * short


@pytest.mark.parametrize("skew", [-600, 600], ids=["behind", "ahead"])
def test_a_provider_whose_clock_is_wrong_changes_no_expiry(
    skew: int, connect: Connector, engine: sa.Engine, clock: Clock, sandbox: RunningSandbox
) -> None:
    sandbox.world.clock = lambda: clock() + timedelta(seconds=skew)
    after = connect("Harbor Dental")
    assert after.token_expires_at == clock.now + timedelta(seconds=86_399)


@pytest.mark.parametrize("skew", [-600, 600], ids=["behind", "ahead"])
def test_with_a_skewed_clock_no_expired_token_is_used_and_none_is_refreshed_early(
    skew: int, connect: Connector, tokens: Tokens, clock: Clock, sandbox: RunningSandbox
) -> None:
    sandbox.world.clock = lambda: clock() + timedelta(seconds=skew)
    user = connect("Harbor Dental")
    assert user.token_expires_at is not None
    sandbox.world.clear_requests()
    clock.now = user.token_expires_at - timedelta(minutes=5, seconds=1)
    assert tokens.check(user.user.id).failure is None
    assert [r.path for r in sandbox.requests] == ["/voice-ai/dashboard/call-logs"]
    clock.now += timedelta(seconds=1)
    assert tokens.check(user.user.id).failure is None
    assert [r.status for r in sandbox.requests] == [200, 200, 200]


def test_a_token_unused_for_eleven_months_is_kept_alive(
    connect: Connector, engine: sa.Engine, tokens: Tokens, clock: Clock, sandbox: RunningSandbox
) -> None:
    user = connect("Harbor Dental").user.id
    clock.now += timedelta(days=330)
    assert due(engine, clock) == [user]
    assert tokens.refresh_due([user]) == {user: None}
    with engine.begin() as db:
        after = connections.one(db, user, clock.now)
    assert after is not None
    assert after.refresh_token_expires_at == clock.now + timedelta(days=365)
    clock.now += timedelta(days=330)
    assert tokens.refresh_due([user]) == {user: None}
