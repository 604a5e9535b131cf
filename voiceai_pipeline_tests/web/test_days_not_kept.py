"""The pages of calls over days whose calls were deleted because of their age."""

import re
from collections.abc import Iterator
from datetime import UTC, date, datetime

import pytest

from voiceai_pipeline.database.embedded import EmbeddedPostgres
from voiceai_pipeline_tests.support.call_desk import (
    HARBOR,
    MAPLE,
    CallDesk,
    running_desk,
)

SAYS = "Calls before 2026-09-01 are no longer kept (VOICEAI_KEEP_CALLS_DAYS)."


@pytest.fixture(scope="module")
def running(
    postgres: EmbeddedPostgres, template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[CallDesk]:
    with running_desk(postgres, template, tmp_path_factory.mktemp("kept")) as desk:
        yield desk


@pytest.fixture
def desk(running: CallDesk) -> CallDesk:
    running.furnish()
    return running


def shown(desk: CallDesk, path: str) -> str:
    with desk.visitor() as visitor:
        answer = visitor.get(path)
    assert answer.status_code == 200, answer.text
    return answer.text


def test_days_whose_calls_are_no_longer_kept_are_neither_missing_nor_empty(desk: CallDesk) -> None:
    assert SAYS not in shown(desk, "/calls?days=all")
    desk.delete_month(date(2026, 8, 1))
    desk.read(HARBOR, date(2026, 8, 1), date(2026, 8, 31), "not_kept")
    desk.read(MAPLE, date(2026, 9, 1), date(2026, 9, 2))
    desk.call(MAPLE, datetime(2026, 9, 1, 12, tzinfo=UTC))

    gone = shown(desk, "/calls?from=2026-08-10&to=2026-08-20")
    assert SAYS in gone
    assert "No longer kept</h2>" in gone
    assert "synced" not in gone.partition("about-calls")[0].partition("Kind of call")[2]
    # August is gone at both locations, though only one had been read; September is missing at one.
    partly = shown(desk, "/calls?from=2026-08-20&to=2026-09-02")
    assert SAYS in partly
    assert len(re.findall(r'class="open"', partly)) == 1
    assert re.search(r">[23] of [45] days of these locations are not synced yet", partly)
    assert SAYS not in shown(desk, "/calls?from=2026-09-03&to=2026-09-04")
    assert SAYS in shown(desk, "/calls?days=all")


def test_what_no_mart_has_is_said_to_begin_with_the_first_day_that_is_kept(desk: CallDesk) -> None:
    days = "from=2026-08-25&to=2026-09-05"
    of_agent = f"/insights?location={HARBOR}&agent=agent-front&{days}"
    assert SAYS not in shown(desk, of_agent)
    desk.delete_month(date(2026, 8, 1))
    assert f"{SAYS} Hours and languages of an agent are counted" in shown(desk, of_agent)
    assert SAYS not in shown(desk, f"/insights?location={HARBOR}&{days}")
    assert SAYS in shown(desk, f"/insights/values?{days}")
    assert SAYS not in shown(desk, "/insights/values?from=2026-09-01&to=2026-09-05")
