"""The current day for tests on real time: near midnight UTC they wait for the next day.

Real processes and Dagster's partitions follow the clock of the machine. A test that takes today's
date from here cannot see it change; it never reads the date when it is imported.
"""

import time
from datetime import UTC, date, datetime, timedelta
from datetime import time as clock_time

A_TEST = timedelta(minutes=3)
"""What one test takes at most on a busy machine."""

A_PRODUCT = timedelta(minutes=20)
"""What all tests that share a running product take together on a busy machine."""


NIGHT_IS_OVER = clock_time(0, 25)
"""UTC; until then the nightly schedule of a running product changes what its days show."""


def today_for(needed: timedelta = A_TEST) -> date:
    """Today in UTC, once at least ``needed`` is left of it."""
    now = datetime.now(UTC)
    if needed >= A_PRODUCT and now.time() < NIGHT_IS_OVER:
        time.sleep((datetime.combine(now.date(), NIGHT_IS_OVER, UTC) - now).total_seconds())
        return now.date()
    left = datetime.combine(now.date() + timedelta(days=1), datetime.min.time(), UTC) - now
    if left < needed:
        time.sleep(left.total_seconds() + 0.1)
        return today_for(needed)
    return now.date()
