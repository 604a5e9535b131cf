"""The shared words: secrets that cannot be shown, days that do not overlap, failures with a fix."""

import copy
import dataclasses
import hashlib
import json
import logging
import pickle
import pprint
import string
import traceback
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from voiceai_pipeline.core.call import digest
from voiceai_pipeline.core.connection import (
    SYNC_SCOPE,
    Connection,
    ConnectionState,
    OAuthToken,
    User,
    missing_scopes,
)
from voiceai_pipeline.core.days import Window
from voiceai_pipeline.core.failures import FailureClass, PipelineError
from voiceai_pipeline.core.secret import Secret

CANARY = "INVENTED-CANARY-4711"
secret = Secret(CANARY)
token = OAuthToken(secret, 60, refresh_token=Secret(CANARY + "-R"), scope="one")


def with_locals(value: object) -> str:
    """A traceback as Sentry and pytest print it: with every frame's variables."""
    try:
        raise RuntimeError(f"about {value}", value)
    except RuntimeError as error:
        return "".join(
            traceback.TracebackException.from_exception(error, capture_locals=True).format()
        )


def logged(value: object) -> str:
    record = logging.LogRecord("test", logging.INFO, __file__, 1, "%s %r", (value, value), None)
    return logging.Formatter().format(record)


SHOWN: list[Callable[[object], str]] = [
    repr,
    str,
    ascii,
    lambda value: f"{value}",
    lambda value: f"{value!r:>40}",
    lambda value: f"{value!s}",
    lambda value: "%s %r" % (value, value),  # noqa: UP031 - that is the point
    lambda value: "{} {!r}".format(value, value),  # noqa: UP032
    lambda value: string.Template("$it").substitute(it=value),
    lambda value: repr([value]) + repr({"it": value}) + repr((value,)),
    pprint.pformat,
    with_locals,
    logged,
    lambda value: json.dumps({"it": value}, default=str),
    lambda value: json.dumps({"it": value}, default=repr),
    lambda value: repr(PipelineError(FailureClass.INTERNAL, str(value))),
]


@pytest.mark.parametrize("show", SHOWN)
@pytest.mark.parametrize("value", [secret, token], ids=["secret", "token"])
def test_nothing_that_shows_a_secret_reveals_it(
    show: Callable[[object], str], value: object
) -> None:
    assert CANARY not in show(value)


def test_a_format_with_a_width_does_not_reveal_it() -> None:
    assert CANARY not in format(secret, "s") + format(secret, ">30") + format(secret, "")


@pytest.mark.parametrize("value", [secret, token], ids=["secret", "token"])
def test_a_secret_is_never_pickled_copied_or_turned_into_a_dictionary(value: object) -> None:
    attempts: list[Callable[[Any], object]] = [copy.deepcopy, json.dumps]
    protocols = range(pickle.HIGHEST_PROTOCOL + 1)
    attempts += [partial(pickle.dumps, protocol=number) for number in protocols]
    if value is secret:
        attempts += [copy.copy, vars]
    else:
        attempts += [dataclasses.asdict]
    for attempt in attempts:
        with pytest.raises(TypeError) as refusal:
            attempt(value)
        assert CANARY not in str(refusal.value)


@given(st.text(), st.text())
def test_secrets_are_equal_exactly_if_their_texts_are(one: str, other: str) -> None:
    assert (Secret(one) == Secret(other)) is (one == other)
    assert Secret(one).reveal() == one
    assert bool(Secret(one)) is bool(one)
    assert Secret(one) != one
    assert hash(Secret(one)) == hash(Secret(one))


def test_a_secret_has_no_other_way_out() -> None:
    assert [name for name in dir(secret) if not name.startswith("_")] == ["reveal"]


@given(
    st.sampled_from(["UTC", "America/New_York", "Europe/Berlin", "Pacific/Auckland"]),
    st.dates(date(2020, 1, 1), date(2030, 1, 1)),
    st.integers(0, 26 * 3600),
)
def test_an_instant_lies_in_exactly_one_day(name: str, day: date, seconds: int) -> None:
    zone = ZoneInfo(name)
    instant = Window.of_day(day, zone).start + timedelta(seconds=seconds)
    around = [day + timedelta(days=n) for n in range(-2, 4)]
    assert [d for d in around if instant in Window.of_day(d, zone)] == [
        instant.astimezone(zone).date()
    ]


@pytest.mark.parametrize(
    ("day", "hours"),
    [(date(2026, 3, 8), 23), (date(2026, 11, 1), 25), (date(2026, 6, 1), 24)],
)
def test_days_are_as_long_as_the_clocks_make_them(day: date, hours: int) -> None:
    window = Window.of_day(day, ZoneInfo("America/New_York"))
    assert window.end - window.start == timedelta(hours=hours)
    assert window.start in window
    assert window.end not in window
    assert window.start.tzinfo is UTC


@pytest.mark.parametrize("failure", list(FailureClass))
def test_every_failure_has_a_message_and_a_fix(failure: FailureClass) -> None:
    text = str(PipelineError(failure, "HTTP 418"))
    assert failure.explanation.message in text
    assert "HTTP 418" in text
    assert text.endswith(f"Fix: {failure.explanation.fix}.")
    assert FailureClass.stored(failure.value) is failure


def test_a_failure_that_a_newer_version_stored_is_internal() -> None:
    assert FailureClass.stored("from_the_future") is FailureClass.INTERNAL
    assert FailureClass.stored(None) is None


def test_the_four_documented_messages_are_the_source_systems_own() -> None:
    assert [
        FailureClass[name].explanation.message
        for name in ("NO_CONNECTION", "REFRESH_REJECTED", "ACCESS_REJECTED", "NO_LOCATION")
    ] == [
        "No valid OAuth connection found",
        "Failed to refresh token",
        "HighLevel API error: 401 Unauthorized",
        "No location ID found for user",
    ]


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
def test_only_a_known_grant_can_lack_the_scope(
    granted: str | None, missing: tuple[str, ...]
) -> None:
    assert missing_scopes(granted) == missing


def test_a_naive_time_never_reaches_the_database() -> None:
    from voiceai_pipeline.database.engine import UtcDateTime

    with pytest.raises(ValueError, match="naive"):
        UtcDateTime().process_bind_param(datetime(2026, 1, 1), None)  # noqa: DTZ001


# How a connection is shown ------------------------------------------------------------------------

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
def test_what_people_see_of_a_connection_depends_on_the_moment(
    connection: Connection, status: ConnectionState
) -> None:
    assert connection.status is status


def test_every_state_says_why_and_only_those_that_need_somebody_say_what_to_do() -> None:
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
def test_a_connection_that_needs_reconnection_says_which_kind(
    reason: FailureClass, label: str
) -> None:
    connection = shown(ConnectionState.NEEDS_RECONNECT, reason=reason, scope="other.readonly")
    assert connection.label == label
    named = "voice-ai-dashboard.readonly" in connection.cause
    assert named is (reason is FailureClass.SCOPE_MISSING)


def test_a_renewal_that_keeps_failing_shows_in_a_connection_that_still_stands() -> None:
    failing = shown(failed_attempts=3, last_failure=FailureClass.UNREACHABLE)
    assert failing.can_sync
    assert failing.cause == (
        "Renewing the token has failed 3 times in a row: HighLevel could not be reached"
    )
    assert failing.fix
    once = shown(failed_attempts=1, last_failure=FailureClass.UNREACHABLE)
    assert "failed once" in once.cause


@pytest.mark.parametrize("size", [0, 1, 2047, 2048, 4094, 10_000])
def test_a_hash_taken_in_pieces_is_that_of_the_whole(size: int) -> None:
    content = bytes(n % 251 for n in range(size))
    assert digest(hashlib.sha256(), content) == hashlib.sha256(content).digest()
    keyed = hashlib.blake2b(content, key=b"k")
    assert digest(hashlib.blake2b(key=b"k"), Raw(content)) == keyed.digest()
