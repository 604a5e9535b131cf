"""Offsets of time zones, against the zones themselves."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from voiceai_pipeline.marts import offsets

FIRST = datetime(2026, 1, 1, 10, tzinfo=UTC)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("UTC", 0),
        ("Asia/Kathmandu", 0),
        ("America/New_York", 2),
        ("Australia/Lord_Howe", 2),  # by half an hour
        ("Africa/Casablanca", 2),
    ],
)
def test_a_year_has_the_zones_offsets_without_a_gap(name: str, changes: int) -> None:
    zone, last = ZoneInfo(name), FIRST + timedelta(days=365)
    found = offsets.between(zone, FIRST, last)
    assert len(found) == 1 + changes
    assert (found[0].start, found[-1].end) == (FIRST, last)
    assert [one.end for one in found[:-1]] == [one.start for one in found[1:]]
    for one in found:
        for at in (one.start, one.end - timedelta(seconds=1)):
            offset = at.astimezone(zone).utcoffset()
            assert offset == timedelta(seconds=one.seconds), at


def test_no_time_has_no_offset() -> None:
    assert offsets.between(ZoneInfo("UTC"), FIRST, FIRST) == []
