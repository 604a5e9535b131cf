"""A location whose marts cannot be built costs no other (REQUIREMENTS M8)."""

import zoneinfo
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa

from voiceai_pipeline.calls import queries
from voiceai_pipeline.core.failures import FailureClass, PipelineError
from voiceai_pipeline.marts import metrics
from voiceai_pipeline_tests.support.mart_calls import DAY, Book
from voiceai_pipeline_tests.support.mart_desk import LOCATION, UTC_ZONE, D, Desk

GOOD = ("LocAfter", "LocBefore", LOCATION)


@pytest.fixture
def four(book: Book) -> Book:
    """Four locations with a call on each of two days."""
    for location_id in (*GOOD, "LocBad"):
        book.location(location_id, "UTC")
        book.read(location_id, D - DAY, D + DAY)
        for hour in (12, 36):
            at = datetime(2026, 11, 10, tzinfo=UTC) + hour * DAY / 24
            book.call(location_id, at, call_id=f"{location_id}-{hour}")
    return book


def refusing(engine: sa.Engine, condition: str, state: str) -> None:
    """Let the database refuse some rows of a mart."""
    with engine.begin() as db:
        db.exec_driver_sql(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            f"IF {condition} THEN RAISE EXCEPTION 'Jane Doe' USING ERRCODE = '{state}'; END IF; "
            "RETURN NEW; END $$"
        )
        db.exec_driver_sql(
            "CREATE TRIGGER refuse BEFORE INSERT ON daily_call_metrics "
            "FOR EACH ROW EXECUTE FUNCTION refuse()"
        )


@pytest.mark.parametrize("state", ["22003", "54000", "23514"])
def test_a_location_that_cannot_be_stored_fails_by_name_and_day_and_all_others_are_built(
    four: Book, desk: Desk, state: str
) -> None:
    refusing(desk.engine, f"NEW.location_id = 'LocBad' AND NEW.day = '{D}'", state)
    built = desk.marts().build([D, D + DAY])
    (failure,) = built.failures
    assert failure.startswith(f"{D}, location LocBad: ")
    assert f"SQLSTATE {state}" in failure
    assert "Jane Doe" not in failure
    found = {(row["location_id"], row["day"]) for row in desk.rows("daily_call_metrics")}
    assert found == {(one, D) for one in GOOD} | {(one, D + DAY) for one in (*GOOD, "LocBad")}


def test_a_location_whose_numbers_cannot_be_computed_fails_alone(
    four: Book, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "SMALL", "twenty")
    built = desk.marts().build([D], ["LocBad"])
    assert built.failures == (f"{D}, location LocBad: Unexpected error (TypeError).",)
    monkeypatch.undo()
    assert desk.marts().build([D]).failures == ()


def test_a_database_that_is_away_is_no_failure_of_a_location(four: Book, desk: Desk) -> None:
    refusing(desk.engine, "NEW.location_id = 'LocBad'", "57P01")
    with pytest.raises(PipelineError) as caught:
        desk.marts().build([D])
    assert caught.value.failure is FailureClass.DATABASE


def test_a_time_zone_that_only_python_knows_stops_nothing(
    four: Book, desk: Desk, tmp_path: Path
) -> None:
    (tmp_path / "Moon").mkdir()
    zones = Path(next(path for path in zoneinfo.TZPATH if Path(path, "Asia/Tokyo").exists()))
    (tmp_path / "Moon" / "Base").write_bytes((zones / "Asia" / "Tokyo").read_bytes())
    zoneinfo.reset_tzpath([str(tmp_path), *zoneinfo.TZPATH])
    try:
        with desk.engine.begin() as db:
            db.execute(sa.text("UPDATE locations SET timezone = 'Moon/Base'"))
            moon = zoneinfo.ZoneInfo("Moon/Base")
            assert queries.talk(db, [D], moon, GOOD)[D].minutes == 3
            assert queries.last_complete_days(db, {}, moon) == {}
        built = desk.marts().build([D])
        assert (built.disagreements, built.failures) == ((), ())
        row = desk.row(location_id=LOCATION)
        assert (row["timezone"], row["is_timezone_assumed"]) == ("Moon/Base", False)
    finally:
        zoneinfo.reset_tzpath()


def test_a_time_zone_that_only_the_server_knows_counts_as_unknown(four: Book, desk: Desk) -> None:
    with desk.engine.begin() as db:
        db.execute(sa.text("UPDATE locations SET timezone = '<+05>-5'"))  # a POSIX zone
    built = desk.marts().build([D])
    assert (built.disagreements, built.failures) == ((), ())
    row = desk.row(location_id=LOCATION)
    assert (row["timezone"], row["is_timezone_assumed"]) == (UTC_ZONE.key, True)
