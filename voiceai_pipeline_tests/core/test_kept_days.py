"""How long calls are kept: whole months, and a limit that no schedule reaches beyond."""

from datetime import date, timedelta

import pytest

from voiceai_pipeline.calls import day_status, hints, reconciliation, volume_anomalies
from voiceai_pipeline.core import days, kept_days
from voiceai_pipeline.core.settings_parsing import SettingsError, keep_days_of
from voiceai_pipeline.database.mart_tables import FIRST_DAY
from voiceai_pipeline.sandbox import story


def test_a_month_is_kept_until_its_last_day_is_older_than_the_limit() -> None:
    last = date(2026, 8, 31)
    for age, since in ((60, date(2026, 8, 1)), (61, date(2026, 9, 1)), (90, date(2026, 9, 1))):
        assert kept_days.kept_since(last + timedelta(days=age), 60) == since
    assert kept_days.kept_since(date(2026, 11, 20), None) is None
    assert list(kept_days.months(date(2025, 12, 31), date(2026, 2, 1))) == [
        date(2025, 12, 1),
        date(2026, 1, 1),
    ]


def test_nothing_that_runs_automatically_looks_back_beyond_the_shortest_limit() -> None:
    weeks = volume_anomalies.WEEKS * 7 + 1
    marts = reconciliation.DAYS + FIRST_DAY
    looks_back = (
        reconciliation.DAYS, day_status.FIRST_DAYS, days.TRAILING_DAYS + 1, hints.LOOK_BACK.days,
        weeks, marts, story.WEEKS * 7,
    )  # fmt: skip
    assert max(looks_back) < kept_days.LEAST_DAYS


@pytest.mark.parametrize(("text", "days"), [("", None), ("0", None), ("60", 60), (" 365 ", 365)])
def test_the_limit_is_a_number_of_days_and_off_by_default(text: str, days: int | None) -> None:
    assert keep_days_of({"VOICEAI_KEEP_CALLS_DAYS": text}) == days
    assert keep_days_of({}) is None


@pytest.mark.parametrize("text", ["59", "1", "-90", "90d", "1e3", "10000", "٩٠"])
def test_a_limit_that_is_too_short_or_no_number_is_refused_with_what_to_write(text: str) -> None:
    with pytest.raises(SettingsError) as refused:
        keep_days_of({"VOICEAI_KEEP_CALLS_DAYS": text})
    assert str(refused.value) == (
        f"VOICEAI_KEEP_CALLS_DAYS is {text!r}. Write a whole number of days from 60 to 9999, or "
        "leave it out to keep calls for ever."
    )
