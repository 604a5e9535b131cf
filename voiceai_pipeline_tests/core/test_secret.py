"""Nothing that shows, copies or compares a secret reveals it."""

import copy
import dataclasses
import json
import logging
import pickle
import pprint
import string
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voiceai_pipeline.core.connection import (
    OAuthToken,
)
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
