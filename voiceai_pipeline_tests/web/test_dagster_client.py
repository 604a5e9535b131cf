"""The client with a stand-in for Dagster's webserver. The real one is in ``cli/test_up.py``."""

from collections.abc import Iterator
from datetime import UTC, date, datetime
from uuid import UUID

import pytest

from voiceai_pipeline.web.dagster_client import Dagster, DagsterError
from voiceai_pipeline_tests.support.dagster_stand_in import DagsterStandIn

DAYS = [date(2026, 11, 19), date(2026, 11, 20)]


@pytest.fixture
def dagster() -> Iterator[DagsterStandIn]:
    with DagsterStandIn() as stand_in:
        yield stand_in


def test_a_run_is_launched_for_days_and_users(dagster: DagsterStandIn) -> None:
    asked = Dagster(dagster.url)
    run_id = asked.launch_sync(DAYS, [UUID(int=1)], "a test")
    run = asked.run(run_id)

    assert run is not None
    assert run.status == "QUEUED"
    assert not run.has_ended
    assert asked.run(str(UUID(int=9))) is None
    assert asked.first_day() == date(2025, 1, 1)


def test_a_refusal_names_its_type(dagster: DagsterStandIn) -> None:
    dagster.refuse_after = 0

    with pytest.raises(DagsterError, match=r"refused to launch the sync \(PythonError\)"):
        Dagster(dagster.url).launch_sync(DAYS, [UUID(int=1)], "a test")


def test_an_unavailable_webserver_is_an_error_that_says_what_to_do(
    dagster: DagsterStandIn,
) -> None:
    dagster.is_down = True
    for url in (dagster.url, "http://127.0.0.1:9"):
        asked = Dagster(url, timeout=5)
        with pytest.raises(DagsterError, match=f"does not respond at {url}") as problem:
            asked.first_day()
        assert "Start it with make up" in str(problem.value)
        assert not asked.is_loaded()


def test_the_first_day_is_an_error_until_the_assets_are_loaded(dagster: DagsterStandIn) -> None:
    dagster.first_day = ""

    with pytest.raises(DagsterError, match="has not loaded the asset call_logs"):
        Dagster(dagster.url).first_day()


def test_the_last_sign_of_life_is_the_oldest_of_its_parts(dagster: DagsterStandIn) -> None:
    api = Dagster(dagster.url)
    assert api.last_sign_of_life() is None
    dagster.heartbeats, dagster.ticks = [500.0, 400.0], [100.0, 450.0]
    assert api.last_sign_of_life() == datetime.fromtimestamp(400, UTC)
    # One stopped sensor does not matter; all of them do.
    dagster.ticks = [100.0, 90.0]
    assert api.last_sign_of_life() == datetime.fromtimestamp(100, UTC)
    dagster.heartbeats = [500.0, None]
    assert api.last_sign_of_life() is None
