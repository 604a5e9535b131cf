"""What HighLevel may do to the shape of a call (REQUIREMENTS S7)."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from voiceai_pipeline.calls.sync import Mode, Sync
from voiceai_pipeline.connections.consent import Consent
from voiceai_pipeline.connections.tokens import Tokens
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.days import DayState, Window
from voiceai_pipeline.core.failures import FailureClass
from voiceai_pipeline.highlevel.allow_list import redact_call
from voiceai_pipeline.highlevel.client import HighLevelClient
from voiceai_pipeline.highlevel.redaction import NUMBER, REDACTED
from voiceai_pipeline.sandbox.server import RunningSandbox, running
from voiceai_pipeline_tests.support.clock import Clock
from voiceai_pipeline_tests.support.demo_users import Connector
from voiceai_pipeline_tests.support.highlevel import highlevel_settings
from voiceai_pipeline_tests.support.moving_world import Moving
from voiceai_pipeline_tests.support.synced_calls import (
    DAY,
    UTC_ZONE,
    location_of,
    midnight,
    stored_calls,
    table,
)


@dataclass(frozen=True)
class Shape:
    """Fields that HighLevel sends otherwise than documented, and what becomes of the call.

    Attributes:
        column, value: what the table then holds.
        reason: why it is set aside instead; empty where it is stored.
    """

    what: str
    fields: dict[str, Any]
    column: str = "call_id"
    value: Any = None
    reason: str = ""
    unknown_actions: int = 0


WEBHOOK_ACTION = {"_id": "65f0c0ffee0000000000f00a", "actionType": "SMS", "actionName": "Text"}

ODD_ACTION = {"actionType": "TELEPATHY", "actionName": "Guess", "actionParameters": {"deep": [1]}}

SHAPES = [
    Shape("an unknown field", {"sentiment": {"score": 1}}, "summary", "A call added by hand."),
    Shape(
        "an unknown type of action",
        {"executedCallActions": [ODD_ACTION]},
        "executed_call_actions",
        [
            {
                "actionType": "TELEPATHY",
                "actionName": REDACTED,
                "actionParameters": {"deep": [NUMBER]},
            }
        ],
        unknown_actions=1,
    ),
    Shape(
        "the webhook's spelling of an action's id",
        {"executedCallActions": [WEBHOOK_ACTION]},
        "executed_call_actions",
        [WEBHOOK_ACTION],
    ),
    Shape("a number that is text", {"duration": "42"}, "duration_seconds", 42.0),
    Shape("a text that is a list", {"transcript": ["bot:Hello"]}, "transcript", None),
    Shape("a flag that is text", {"trialCall": "no"}, "is_trial", None),
    Shape("actions that are an object", {"executedCallActions": {}}, "executed_call_actions", []),
    Shape("null instead of an object", {"translation": None}, "translation", None),
    Shape("a missing text", {"summary": None}, "summary", None),
    Shape("a missing agent", {"agentId": None}, "agent_id", None),
    Shape("no id", {"id": ""}, reason="the call has no id"),
    Shape("no time", {"createdAt": "soon"}, reason="the call has no readable createdAt"),
]


class Drifting(Moving):
    """Sends some calls otherwise: the sandbox itself needs them whole to filter and sort."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.otherwise: dict[str, dict[str, Any]] = {}
        body = self.calls.body

        def bent(location: Any, call: Any) -> dict[str, Any]:
            return {**body(location, call), **self.otherwise.get(call.id, {})}

        self.calls.body = bent  # type: ignore[method-assign]


@pytest.fixture
def drifting(clock: Clock) -> Iterator[RunningSandbox]:
    with running(Drifting(clock=clock), limits=False) as sandbox:
        yield sandbox


def test_a_call_of_an_unexpected_shape_is_stored_or_set_aside_and_the_day_is_complete(
    drifting: RunningSandbox, engine: sa.Engine, vault: TokenVault, clock: Clock
) -> None:
    assert isinstance(drifting.world, Drifting)
    quiet = location_of("Quiet Law")
    ids = {}
    for nth, shape in enumerate(SHAPES):
        item = drifting.world.calls.add(quiet, midnight(DAY) + timedelta(minutes=nth))
        drifting.world.otherwise[item["id"]] = shape.fields
        ids[shape.what] = item["id"]
    with HighLevelClient(highlevel_settings(drifting.url), sleep=clock.sleep) as client:
        connector = Connector(engine, client, Consent(engine, vault, client, now=clock))
        connector("Quiet Law")
        connector.browser.close()
        tokens = Tokens(engine, vault, client, now=clock)
        sync = Sync(engine, tokens, client, UTC_ZONE, now=clock)
        (result,) = sync.sync_days([DAY])
        aside = {shape.what: shape.reason for shape in SHAPES if shape.reason}
        assert result.state is DayState.COMPLETE
        assert (result.api_total, result.set_aside) == (len(SHAPES), len(aside))
        assert result.unknown_actions == sum(shape.unknown_actions for shape in SHAPES)
        rows = stored_calls(engine, quiet, Window.of_day(DAY, UTC_ZONE))
        for shape in SHAPES:
            row = rows.get(ids[shape.what])
            if shape.reason:
                assert row is None, shape.what
            else:
                assert row is not None, shape.what
                assert row[shape.column] == shape.value, shape.what
                kept = {name: row["raw"][name] for name in shape.fields}
                assert kept == redact_call(shape.fields), shape.what
        with engine.connect() as db:
            reasons = db.execute(sa.text("SELECT reason FROM set_aside_calls")).scalars()
            assert sorted(reasons) == sorted(aside.values())

        # Many are no accident: the format has changed, and nothing of it is believed.
        before = table(engine)
        for call_id in ids.values():
            drifting.world.otherwise[call_id] = {"createdAt": "soon"}
        clock.now += timedelta(minutes=1)
        (result,) = sync.sync_days([DAY], mode=Mode.REREAD)
        assert (result.state, result.failure) == (DayState.FAILED, FailureClass.MALFORMED)
        assert table(engine) == before
