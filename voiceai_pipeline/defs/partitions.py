"""How work is partitioned: calls by day, tokens by user.

The two are never combined: Dagster advises at most 100,000 partitions per asset, so within a day a
user is a row of the ledger (decision 13).
"""

import os
from datetime import date, datetime
from typing import Final
from zoneinfo import ZoneInfo

import dagster as dg

from voiceai_pipeline.core.kept_days import kept_since
from voiceai_pipeline.core.settings_parsing import keep_days_of, start_date_of, timezone_of

# The environment is read here because Dagster fixes partitions when definitions load. Both settings
# have defaults, so definitions load with an empty environment.
FIRST_DAY: Final = start_date_of(os.environ)
"""The first day that can be synced. If it is in the future, no partition exists yet."""

KEEP_DAYS: Final = keep_days_of(os.environ)
"""How many days calls are kept; None: for ever. Days that are no longer kept stay partitions."""

days = dg.DailyPartitionsDefinition(
    start_date=FIRST_DAY.isoformat(),
    timezone=timezone_of(os.environ).key,
    end_offset=1,  # today is a partition: it is synced while it is still open
)


def first_day(now: datetime) -> date:
    """The first day that sensors may have synced: a partition, and still kept."""
    since = kept_since(now.astimezone(ZoneInfo(days.timezone)).date(), KEEP_DAYS)
    return max(FIRST_DAY, since or FIRST_DAY)


def range_tags(first: date, last: date) -> dict[str, str]:
    """The tags of one run over consecutive days, inclusive."""
    return {
        "dagster/asset_partition_range_start": first.isoformat(),
        "dagster/asset_partition_range_end": last.isoformat(),
    }


USERS: Final = "users"

# Keyed by the immutable user id. A key is never deleted: added again, it would show its old status.
users = dg.DynamicPartitionsDefinition(name=USERS)
