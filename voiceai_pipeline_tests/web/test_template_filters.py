"""Times, fixes and colours in templates."""

from dataclasses import replace
from datetime import timedelta
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest

from voiceai_pipeline.core.connection import STATES, ConnectionState
from voiceai_pipeline.core.failures import EXPLANATIONS, FailureClass
from voiceai_pipeline.web import template_filters
from voiceai_pipeline_tests.support.connection import CONNECTED, NOON


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "Reconnect the user: voiceai-pipeline connect USER",
            "Reconnect the user with the button here",
        ),
        ("voiceai-pipeline connect USER", "Connect with the button here"),
        ("see: voiceai-pipeline check USER", "see with the button here"),
        (
            f"Reconnect the user: voiceai-pipeline connect {UUID(int=1)}",
            "Reconnect the user with the button here",
        ),
        (
            "Examine it with voiceai-pipeline doctor",
            "Examine it with voiceai-pipeline doctor",
        ),
    ],
)
def test_a_command_with_a_button_becomes_the_button(text: str, said: str) -> None:
    assert template_filters.on_page(text) == said


def test_no_fix_on_the_page_names_a_command_that_has_a_button() -> None:
    fixes = [e.fix for e in EXPLANATIONS.values()] + [e.fix for e in STATES.values()]
    fixes += [replace(CONNECTED, state=ConnectionState.NEVER_CONNECTED).fix]

    assert [fix for fix in map(template_filters.on_page, fixes) if "USER" in fix] == []


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "just now"),
        (59, "just now"),
        (60, "1 minute ago"),
        (3 * 3600, "3 hours ago"),
        (2 * 86400 + 5, "2 days ago"),
        (-30, "in a moment"),
        (-3600, "in 1 hour"),
    ],
)
def test_relative_times_are_words(seconds: int, said: str) -> None:
    assert template_filters.distance(NOON - timedelta(seconds=seconds), NOON) == said


def test_times_are_in_the_pipelines_zone_and_name_it() -> None:
    assert template_filters.moment(NOON, ZoneInfo("UTC")) == "20 Nov 2026, 12:00 UTC"
    assert template_filters.moment(NOON, ZoneInfo("America/New_York")) == "20 Nov 2026, 07:00 EST"


def test_a_working_connection_is_green_and_a_problem_changes_its_colour() -> None:
    assert template_filters.tone(CONNECTED) == "good"
    assert template_filters.tone(replace(CONNECTED, failed_attempts=2)) == "warn"
    assert template_filters.tone(replace(CONNECTED, location_id=None)) == "bad"
    broken = replace(
        CONNECTED,
        state=ConnectionState.NEEDS_RECONNECT,
        reason=FailureClass.REFRESH_REJECTED,
    )
    assert template_filters.tone(broken) == "bad"
    assert template_filters.tone(replace(CONNECTED, state=ConnectionState.PAUSED)) == "warn"


@pytest.mark.parametrize("state", ConnectionState)
def test_every_state_has_a_colour(state: ConnectionState) -> None:
    assert template_filters.tone(replace(CONNECTED, state=state)) in (
        "good",
        "warn",
        "bad",
        "plain",
    )
