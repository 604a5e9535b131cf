"""Every failure says what happened and what to do."""

import pytest

from voiceai_pipeline.core.failures import FailureClass, PipelineError


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
