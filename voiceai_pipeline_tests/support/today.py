"""The current day for tests on real time, which does not end during the test.

Real processes and Dagster's partitions follow the clock of the machine. A test that takes today's
date from here cannot see it change; it never reads the date when it is imported.
"""

import time
from datetime import UTC, date, datetime, timedelta
from datetime import time as clock_time
from typing import Final
from zoneinfo import ZoneInfo

A_TEST: Final = timedelta(minutes=3)
"""How long one test takes at most on a busy machine."""

NIGHT: Final = (clock_time(23, 35), clock_time(0, 25))
"""UTC: a running product that starts in between would see its day end, or run its nightly schedule,
which changes what its days show."""

ELSEWHERE: Final = "Etc/GMT+8"


def today_for(needed: timedelta = A_TEST) -> date:
    """Today in UTC, once at least ``needed`` is left of it."""
    now = datetime.now(UTC)
    left = datetime.combine(now.date() + timedelta(days=1), datetime.min.time(), UTC) - now
    if left < needed:
        time.sleep(left.total_seconds() + 0.1)
        return today_for(needed)
    return now.date()


def zone_of_a_product() -> ZoneInfo:
    """A time zone in which it is not night, for the days of a product that runs for minutes: UTC,
    except near its midnight."""
    now = datetime.now(UTC).time()
    is_night = now >= NIGHT[0] or now < NIGHT[1]
    return ZoneInfo(ELSEWHERE if is_night else "UTC")
