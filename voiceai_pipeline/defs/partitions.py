"""How work is cut: by day for calls, by user for tokens.

The two never multiply: Dagster advises at most 100,000 partitions per asset, so within a day a user
is a row of the ledger (README, "Decisions").
"""

import os
from datetime import date
from typing import Final

import dagster as dg

from voiceai_pipeline.core.settings_parsing import start_date_of, timezone_of

# The environment is read here because Dagster fixes partitions when definitions load; both have
# defaults, so they load without it.
FIRST_DAY: Final = start_date_of(os.environ)
"""The first day that can be synced, also while it is still to come and no partition exists."""

days = dg.DailyPartitionsDefinition(
    start_date=FIRST_DAY.isoformat(),
    timezone=timezone_of(os.environ).key,
    end_offset=1,  # today is a partition: it is synced while it is still open
)


def range_tags(first: date, last: date) -> dict[str, str]:
    """The tags of one run over consecutive days, inclusive."""
    return {
        "dagster/asset_partition_range_start": first.isoformat(),
        "dagster/asset_partition_range_end": last.isoformat(),
    }


USERS: Final = "users"

# Keyed by the immutable user id. A key is never deleted: it would come back with its old green.
users = dg.DynamicPartitionsDefinition(name=USERS)
