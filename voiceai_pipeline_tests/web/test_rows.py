"""A user's buttons and urgency."""

from dataclasses import replace
from uuid import UUID

import pytest

from voiceai_pipeline.calls.ledger import UserStatus
from voiceai_pipeline.core.connection import Connection, ConnectionState, User
from voiceai_pipeline.core.failures import FailureClass
from voiceai_pipeline.core.pause import Pause
from voiceai_pipeline.web.rows import Row
from voiceai_pipeline_tests.support.connection import CONNECTED, NOON

IN_DOUBT = replace(CONNECTED, state=ConnectionState.IN_DOUBT)
REVOKED = replace(
    CONNECTED, state=ConnectionState.NEEDS_RECONNECT, reason=FailureClass.REFRESH_REJECTED
)
PAUSED = replace(CONNECTED, state=ConnectionState.PAUSED, reason=FailureClass.LOCATION_PAUSED)
AGENCY = replace(
    CONNECTED,
    state=ConnectionState.NEEDS_RECONNECT,
    reason=FailureClass.NO_LOCATION,
    user_type="Company",
    location_id=None,
)
PAUSE = Pause(NOON, "connections page")
NEVER = Connection(User(UUID(int=2), "Maple Plumbing"), ConnectionState.NEVER_CONNECTED)

PRIVATE = replace(CONNECTED, user_type="Private")
PRIVATE_REVOKED, PRIVATE_SCOPE = (
    replace(PRIVATE, state=ConnectionState.NEEDS_RECONNECT, reason=reason)
    for reason in (FailureClass.PRIVATE_TOKEN_REVOKED, FailureClass.PRIVATE_TOKEN_SCOPE)
)


@pytest.mark.parametrize(
    ("connection", "labels"),
    [
        (CONNECTED, ["Sync now", "Test", "Reconnect", "Pause", "Disconnect"]),
        (IN_DOUBT, ["Sync now", "Test", "Reconnect", "Pause", "Disconnect"]),
        (REVOKED, ["Reconnect", "Test", "Enter a token", "Pause", "Disconnect"]),
        (PRIVATE, ["Sync now", "Test", "Enter a token", "Pause", "Disconnect"]),
        (PRIVATE_REVOKED, ["Enter a token", "Test", "Reconnect", "Pause", "Disconnect"]),
        (PRIVATE_SCOPE, ["Test", "Enter a token", "Pause", "Disconnect"]),
        (PAUSED, ["Test", "Reconnect", "Pause", "Disconnect"]),
        (AGENCY, ["Choose location", "Reconnect", "Pause", "Disconnect"]),
        (NEVER, ["Connect", "Enter a token", "Pause"]),
        (replace(CONNECTED, pause=PAUSE), ["Resume", "Reconnect", "Disconnect"]),
        (replace(REVOKED, pause=PAUSE), ["Resume", "Reconnect", "Enter a token", "Disconnect"]),
        (replace(PAUSED, pause=PAUSE), ["Resume", "Reconnect", "Disconnect"]),
        (replace(NEVER, pause=PAUSE), ["Resume", "Connect", "Enter a token"]),
        (
            replace(CONNECTED, state=ConnectionState.DISCONNECTED),
            ["Connect", "Enter a token", "Pause"],
        ),
    ],
)
def test_the_buttons_fit_the_state_and_the_most_useful_one_comes_first(
    connection: Connection, labels: list[str]
) -> None:
    buttons = Row(connection, None).buttons

    assert [button.label for button in buttons] == labels
    assert [button.is_main for button in buttons] == [True] + [False] * (len(labels) - 1)


def test_a_broken_connection_is_more_urgent_than_one_that_was_never_made() -> None:
    urgencies = [Row(one, None).urgency for one in (REVOKED, PAUSED, NEVER, CONNECTED)]

    assert urgencies == [0, 0, 1, 3]
    failing = replace(CONNECTED, failed_attempts=3, last_failure=FailureClass.PROVIDER_ERROR)
    assert Row(failing, None).needs_action
    assert not Row(CONNECTED, None).needs_action


def test_a_paused_user_needs_no_action_and_comes_before_those_who_are_fine() -> None:
    paused = [Row(replace(one, pause=PAUSE), None) for one in (REVOKED, NEVER, CONNECTED)]

    assert {(row.urgency, row.needs_action, row.is_paused) for row in paused} == {(2, False, True)}
    assert [row.tone for row in paused] == ["bad", "plain", "warn"]
    failed = UserStatus(NOON, "failure", "It broke. Fix: Wait", 0)
    assert Row(CONNECTED, failed).has_failed
    assert not Row(replace(CONNECTED, pause=PAUSE), failed).has_failed


@pytest.mark.parametrize("state", ConnectionState)
def test_every_state_has_a_button(state: ConnectionState) -> None:
    assert Row(replace(CONNECTED, state=state), None).buttons


def test_the_last_syncs_message_does_not_repeat_the_fix_of_the_state() -> None:
    failed = UserStatus(NOON, "failure", "It broke (HTTP 503). Fix: Wait", 0)

    assert Row(CONNECTED, failed).last_message == "It broke (HTTP 503). Fix: Wait"
    assert Row(REVOKED, failed).last_message == "It broke (HTTP 503)"
    assert Row(CONNECTED, None).last_message == ""
