"""Windows of many locations, written together: as right as each alone, for the price of one."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from datetime import datetime

import pytest
import sqlalchemy as sa

from voiceai_pipeline.calls import call_store
from voiceai_pipeline.calls.call_store import Written
from voiceai_pipeline.calls.intake import Intake
from voiceai_pipeline.core.call import CallLog, ListedCall
from voiceai_pipeline_tests.support.call_writes import (
    FIRST,
    SECOND,
    WINDOW,
    call,
    fingerprint,
    sent,
    stored,
    write,
)
from voiceai_pipeline_tests.support.statements import counted


@contextmanager
def taken_in(
    engine: sa.Engine, listed: Mapping[str, list[CallLog]], now: datetime
) -> Iterator[list[Intake]]:
    """A read of each location, ready to be stored."""
    by_item = {bytes(sent(one)): one for calls in listed.values() for one in calls}
    with ExitStack() as stack:
        intakes = []
        for location_id, calls in listed.items():
            intake = Intake(
                engine, location_id, [WINDOW.start], lambda one: by_item[bytes(one.sent)],
                fingerprint, now,
            )  # fmt: skip
            stack.enter_context(closing(intake))
            intake.take([ListedCall(one.call_id, one.started_at, sent(one)) for one in calls])
            intake.finish(WINDOW.end)
            intakes.append(intake)
        yield intakes


def write_together(
    engine: sa.Engine, listed: Mapping[str, list[CallLog]], now: datetime
) -> list[Written]:
    with taken_in(engine, listed, now) as intakes, engine.begin() as db:
        call_store.lock_locations(db, listed)
        return call_store.store(db, intakes, now)


@pytest.mark.parametrize("locations", [1, 9])
def test_new_calls_of_any_number_of_locations_cost_the_same_statements(
    engine: sa.Engine, locations: int
) -> None:
    listed = {f"Loc{n}": [call(1), call(2)] for n in range(locations)}
    with (
        taken_in(engine, listed, FIRST) as intakes,
        engine.begin() as db,
        counted(engine) as statements,
    ):
        written = call_store.store(db, intakes, FIRST)
    assert written == [Written([2], [2], [0], [0])] * locations
    assert len(statements) == 3, "a savepoint around the COPY, and the count"


def test_a_location_whose_call_is_not_new_after_all_costs_the_others_nothing(
    engine: sa.Engine,
) -> None:
    write(engine, [call(1), call(2)], location_id="LocB")
    write(engine, [call(1)], SECOND, location_id="LocB")  # the other is missing now
    written = write_together(
        engine,
        {"LocA": [call(1)], "LocB": [call(1), call(2)], "LocC": [call(1), call(3)]},
        SECOND.replace(minute=30),
    )
    assert [one.stored for one in written] == [[1], [2], [2]]
    assert [one.new for one in written] == [[1], [0], [2]]
    assert set(stored(engine, "LocA")) == {"call-1"}
    assert stored(engine, "LocB")["call-2"]["missing_since"] is None
    assert set(stored(engine, "LocC")) == {"call-1", "call-3"}


def test_what_one_location_no_longer_lists_is_marked_beside_new_calls_of_others(
    engine: sa.Engine,
) -> None:
    write(engine, [call(1), call(2)], location_id="LocB")
    written = write_together(engine, {"LocA": [call(9)], "LocB": [call(1), call(3)]}, SECOND)
    assert written == [Written([1], [1], [0], [0]), Written([2], [1], [0], [1])]
    assert stored(engine, "LocB")["call-2"]["missing_since"] == SECOND
