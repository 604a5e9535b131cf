"""How a connection is shown: its state, its cause and its fix."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from voiceai_pipeline.core.connection import (
    SYNC_SCOPE,
    Connection,
    ConnectionState,
    User,
    missing_scopes,
)
from voiceai_pipeline.core.failures import FailureClass
from voiceai_pipeline.core.pause import Pause


@pytest.mark.parametrize(
    ("granted", "missing"),
    [
        (None, ()),
        ("", ()),
        (SYNC_SCOPE, ()),
        (f"other {SYNC_SCOPE}", ()),
        ("other", (SYNC_SCOPE,)),
        (f"{SYNC_SCOPE}s", (SYNC_SCOPE,)),
    ],
)
def test_a_scope_is_missing_only_from_a_known_grant(
    granted: str | None, missing: tuple[str, ...]
) -> None:
    assert missing_scopes(granted) == missing


NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
ADA = User(UUID(int=1), "Ada")


def shown(state: ConnectionState = ConnectionState.CONNECTED, **facts: Any) -> Connection:
    known = {"location_id": "Loc", "token_expires_at": NOW + timedelta(hours=1), "read_at": NOW}
    return Connection(ADA, state, **{**known, **facts})


@pytest.mark.parametrize(
    ("connection", "status"),
    [
        (shown(), ConnectionState.CONNECTED),
        (shown(token_expires_at=NOW + timedelta(seconds=301)), ConnectionState.CONNECTED),
        (shown(token_expires_at=NOW + timedelta(seconds=300)), ConnectionState.EXPIRING),
        (shown(token_expires_at=NOW - timedelta(days=300)), ConnectionState.EXPIRING),
        (shown(token_expires_at=None), ConnectionState.EXPIRING),
        (shown(lease_expires_at=NOW + timedelta(seconds=1)), ConnectionState.REFRESHING),
        (shown(lease_expires_at=NOW), ConnectionState.IN_DOUBT),
        (
            shown(ConnectionState.PAUSED, lease_expires_at=NOW + timedelta(seconds=1)),
            ConnectionState.REFRESHING,
        ),
        (
            shown(ConnectionState.IN_DOUBT, lease_expires_at=NOW + timedelta(seconds=1)),
            ConnectionState.REFRESHING,
        ),
        *[
            (shown(state, token_expires_at=None), state)
            for state in (
                ConnectionState.IN_DOUBT,
                ConnectionState.PAUSED,
                ConnectionState.NEEDS_RECONNECT,
                ConnectionState.DISCONNECTED,
                ConnectionState.NEVER_CONNECTED,
            )
        ],
    ],
)
def test_the_status_shown_depends_on_the_time_of_reading(
    connection: Connection, status: ConnectionState
) -> None:
    assert connection.status is status


def test_every_state_has_a_cause_and_only_those_that_need_action_have_a_fix() -> None:
    reasons = {
        ConnectionState.PAUSED: FailureClass.LOCATION_PAUSED,
        ConnectionState.NEEDS_RECONNECT: FailureClass.REFRESH_REJECTED,
    }
    for state in ConnectionState:
        connection = shown(state, reason=reasons.get(state))
        assert connection.label.startswith(state.explanation.label)
        assert connection.cause
        assert not connection.cause.endswith(".")
        assert bool(connection.fix) is not connection.can_sync, state


@pytest.mark.parametrize(
    ("reason", "label"),
    [
        (FailureClass.REFRESH_REJECTED, "needs reconnection: revoked"),
        (FailureClass.SCOPE_MISSING, "needs reconnection: scopes missing"),
        (FailureClass.NO_LOCATION, "needs reconnection: no location"),
        (FailureClass.WRONG_LOCATION, "needs reconnection: wrong location"),
    ],
)
def test_a_connection_that_needs_reconnection_shows_the_cause(
    reason: FailureClass, label: str
) -> None:
    connection = shown(ConnectionState.NEEDS_RECONNECT, reason=reason, scope="other.readonly")
    assert connection.label == label
    named = "voice-ai-dashboard.readonly" in connection.cause
    assert named is (reason is FailureClass.SCOPE_MISSING)


def test_a_connection_that_still_works_shows_that_its_refresh_keeps_failing() -> None:
    failing = shown(failed_attempts=3, last_failure=FailureClass.UNREACHABLE)
    assert failing.can_sync
    assert failing.cause == (
        "Refreshing the token has failed 3 times in a row: HighLevel could not be reached"
    )
    assert failing.fix
    once = shown(failed_attempts=1, last_failure=FailureClass.UNREACHABLE)
    assert "failed once" in once.cause


def test_a_pause_comes_before_what_the_connection_needs_and_hides_none_of_it() -> None:
    pause = Pause(NOW, "a test", "for a reason that is not told here")
    said = "An operator has paused the user's syncs (since 2026-11-20 12:00 UTC)"
    fix = "Resume the user: voiceai-pipeline resume USER"
    fine = shown(pause=pause)
    assert (fine.label, fine.cause, fine.fix) == ("connected, syncs paused", said, fix)
    assert (fine.obstacle, fine.sync_obstacle) == (None, FailureClass.SYNC_PAUSED)
    broken = shown(
        ConnectionState.NEEDS_RECONNECT, reason=FailureClass.REFRESH_REJECTED, pause=pause
    )
    assert broken.label == "needs reconnection: revoked, syncs paused"
    assert broken.cause.startswith(f"{said}. Failed to refresh token (the app was removed")
    assert broken.message.endswith(f". Fix: {fix}")
    assert broken.obstacle is FailureClass.REFRESH_REJECTED
    assert not broken.can_sync
