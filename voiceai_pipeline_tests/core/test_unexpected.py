"""A bug leaves its frames in the log, and no text."""

import logging
import re
from datetime import datetime
from typing import Any

import pytest

from voiceai_pipeline.core.days import Window
from voiceai_pipeline.core.failures import FailureClass
from voiceai_pipeline.core.unexpected import unexpected
from voiceai_pipeline_tests.support.clock import NOON

TOKEN = "INVENTED-TOKEN"


class Hostile:
    """Compares by raising, two frames below the one that our code calls."""

    def __le__(self, _other: datetime) -> bool:
        return self._looked_up()

    def _looked_up(self) -> bool:
        return bool({}[TOKEN])  # INVENTED-COMMENT: a source line


def bug() -> Exception:
    window = Window(Hostile(), NOON)  # type: ignore[arg-type]
    try:
        NOON in window  # noqa: B015 - raises
    except KeyError as error:
        return error
    raise AssertionError("nothing was raised")


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG)
    return caplog


def frames(text: str) -> list[tuple[Any, ...]]:
    """File name and function of each frame logged."""
    return re.findall(r'File "[^"]*?([^/"]+)", line \d+, in (\S+)', text)


def test_the_failure_names_the_class_and_says_where_the_frames_are(
    logged: pytest.LogCaptureFixture,
) -> None:
    failure = unexpected(bug())
    assert failure.failure is FailureClass.INTERNAL
    assert failure.message == "Unexpected error (KeyError)"
    assert "VOICEAI_HOME/logs" in str(failure)
    assert TOKEN not in f"{failure}{failure!r}"


def test_our_frames_and_the_first_foreign_one_are_logged_without_text_or_source(
    logged: pytest.LogCaptureFixture,
) -> None:
    unexpected(bug())
    (record,) = logged.records
    assert record.levelno == logging.ERROR
    assert record.exc_info is None  # a handler would print the text
    assert "\nKeyError\n" in logged.text
    assert frames(logged.text) == [
        ("test_unexpected.py", "bug"),
        ("days.py", "Window.__contains__"),
        ("test_unexpected.py", "Hostile.__le__"),
    ]
    assert "INVENTED" not in logged.text


@pytest.mark.parametrize("hidden", [False, True])
def test_what_caused_the_error_is_logged_too_also_where_it_was_hidden(
    logged: pytest.LogCaptureFixture, hidden: bool
) -> None:
    first = bug()
    second = ValueError(TOKEN)
    second.__context__ = first
    second.__suppress_context__ = hidden
    third = RuntimeError(TOKEN)
    third.__cause__ = second
    unexpected(third)
    assert re.findall(r"^(?:Raised from )?\w+Error$", logged.text, re.MULTILINE) == [
        "RuntimeError",
        "Raised from ValueError",
        "Raised from KeyError",
    ]
    assert ("days.py", "Window.__contains__") in frames(logged.text)
    assert TOKEN not in logged.text


def test_errors_that_cause_each_other_are_logged_once(logged: pytest.LogCaptureFixture) -> None:
    first, second = ValueError(), KeyError()
    first.__cause__, second.__cause__ = second, first
    unexpected(first)
    assert logged.text.count("ValueError") == 1


def test_an_error_of_a_library_is_logged_with_its_module(logged: pytest.LogCaptureFixture) -> None:
    unexpected(re.error(TOKEN))
    assert "re.error" in logged.text
