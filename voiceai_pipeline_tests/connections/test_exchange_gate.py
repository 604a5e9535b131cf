"""How many exchanges a process has under way at once, and what it does about a rate limit."""

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from urllib.parse import parse_qs
from uuid import UUID

import pytest
import sqlalchemy as sa

from voiceai_pipeline.connections.exchange_gate import AT_ONCE
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.failures import FailureClass
from voiceai_pipeline_tests.support.clock import Clock
from voiceai_pipeline_tests.support.receivers import Answer, answering
from voiceai_pipeline_tests.support.token_endpoint import failure_of
from voiceai_pipeline_tests.support.token_fleet import (
    TICK,
    Provider,
    app_events,
    fleet,
    refreshing_at,
    states,
)

CALLERS = 16
"""As many threads as a sync has."""


def test_a_kill_strands_four_users_at_most(
    engine: sa.Engine, vault: TokenVault, clock: Clock
) -> None:
    users = fleet(engine, 24, clock.now, expires=-TICK, refreshed=-timedelta(days=1))
    provider, leased = Provider(), list[int]()
    lock = threading.Lock()

    def answer(sent: str) -> Answer:
        threading.Event().wait(0.02)  # so that as many as may overlap do
        with engine.connect() as db:
            query = "SELECT count(*) FROM api_keys WHERE lease_id IS NOT NULL"
            leased.append(db.execute(sa.text(query)).scalar_one())
        with lock:
            return provider.answer(parse_qs(sent))

    with answering(answer) as url:
        provider.url = f"{url}/oauth/token"
        with (
            refreshing_at(engine, vault, clock, provider) as tokens,
            ThreadPoolExecutor(CALLERS) as pool,
        ):
            list(pool.map(tokens.get_valid_token, users))
    assert max(leased) == AT_ONCE == 4
    assert states(engine) == {"connected": 24}


def refuse_the_first(spent: Counter[str], _clock: Clock) -> Callable[[str], bool]:
    return lambda token: spent[token] == 0


def refuse_above_ten_a_second(_spent: Counter[str], clock: Clock) -> Callable[[str], bool]:
    served = Counter[int]()

    def over(_token: str) -> bool:
        second = int(clock.now.timestamp())
        served[second] += 1
        return served[second] > 10

    return over


@pytest.mark.parametrize("limit", [refuse_the_first, refuse_above_ten_a_second])
def test_a_rate_limit_is_waited_for_and_every_user_has_a_token_in_the_same_run(
    engine: sa.Engine,
    vault: TokenVault,
    clock: Clock,
    limit: Callable[[Counter[str], Clock], Callable[[str], bool]],
) -> None:
    users = fleet(engine, 100, clock.now, expires=-TICK, refreshed=-timedelta(days=1))
    provider, asked = Provider(), Counter[str]()
    refused = limit(asked, clock)
    lock = threading.Lock()

    def answer(sent: str) -> Answer:
        form = parse_qs(sent)
        token = form["refresh_token"][0]
        with lock:
            if refused(token):
                asked[token] += 1
                return 429, {"message": "Too Many Requests"}
            asked[token] += 1
            return provider.answer(form)

    with answering(answer) as url:
        provider.url = f"{url}/oauth/token"
        with (
            refreshing_at(engine, vault, clock, provider) as tokens,
            ThreadPoolExecutor(CALLERS) as pool,
        ):
            list(pool.map(tokens.get_valid_token, users))
    assert states(engine) == {"connected": 100}
    # A refused POST spends nothing: each token is granted against once.
    assert provider.spent == Counter(f"INVENTED-R-{user}" for user in users)
    assert app_events(engine) == []


def test_a_rate_limit_that_does_not_end_is_given_up_after_a_minute_and_leaves_no_lease(
    engine: sa.Engine, vault: TokenVault, clock: Clock, provider: Provider
) -> None:
    (user,) = fleet(engine, 1, clock.now, expires=-TICK, refreshed=-timedelta(days=1))
    provider.failure = (429, {})
    before = clock.now
    with refreshing_at(engine, vault, clock, provider) as tokens:
        failure = failure_of(lambda: tokens.get_valid_token(user))
    assert failure is FailureClass.RATE_LIMITED
    assert (clock.now - before).total_seconds() == pytest.approx(60, abs=2)
    assert held_lease(engine, user) is None
    assert states(engine) == {"connected": 1}


def held_lease(engine: sa.Engine, user: UUID) -> object:
    with engine.connect() as db:
        query = sa.text("SELECT lease_id FROM api_keys WHERE user_id = :user")
        return db.execute(query, {"user": user}).scalar_one()
