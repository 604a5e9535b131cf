"""A live sample is compared with the published shape of both versions; differences are reported."""

import json
from typing import Any

import pytest

from voiceai_pipeline.connections.tokens import Tokens
from voiceai_pipeline.highlevel import published_shape
from voiceai_pipeline.highlevel.published_shape import Drift, drift_of
from voiceai_pipeline.sandbox.server import RunningSandbox
from voiceai_pipeline_tests.support.contract import SPECIFICATION, needs_specification
from voiceai_pipeline_tests.support.demo_users import Connector

FULL = dict.fromkeys(published_shape.REQUIRED | published_shape.OPTIONAL | published_shape.SEEN)


@needs_specification
@pytest.mark.parametrize("path", ["voice-ai.json", "v3/voice-ai-v3.json"])
def test_the_known_fields_are_those_of_the_published_specification(path: str) -> None:
    spec: dict[str, Any] = json.loads((SPECIFICATION / path).read_text())
    call = spec["components"]["schemas"]["CallLogDTO"]
    assert set(call["required"]) == published_shape.REQUIRED
    assert set(call["properties"]) == published_shape.REQUIRED | published_shape.OPTIONAL


def test_what_is_published_or_known_to_arrive_is_no_drift() -> None:
    assert not drift_of([])
    assert not drift_of([FULL, dict.fromkeys(published_shape.REQUIRED)])
    assert str(Drift()) == ""


def test_unknown_and_missing_fields_are_named() -> None:
    odd = {**FULL, "sentiment": "INVENTED", "cost": 1}
    del odd["duration"]
    drift = drift_of([FULL, odd, "no object"])
    assert drift.unknown == ("cost", "sentiment")
    assert "duration" in drift.missing
    assert "INVENTED" not in str(drift)
    assert str(drift_of([odd])) == "unknown fields: cost, sentiment; missing: duration"


def test_a_test_of_a_connection_tells_of_drift(
    connect: Connector, tokens: Tokens, sandbox: RunningSandbox
) -> None:
    plain, wild = connect("Harbor Dental"), connect("Maple Plumbing")
    assert tokens.check(plain.user.id).drift == Drift()
    found = tokens.check(wild.user.id)
    assert found.failure is None
    assert found.drift.missing  # optional in the wild, required by the specification
