"""How long calls are kept (``VOICEAI_KEEP_CALLS_DAYS``), in whole months of the pipeline's zone.

A month is deleted when its last day is older than the limit. No clock here: the caller passes
today.
"""

from collections.abc import Iterator
from datetime import date, timedelta
from typing import Final

LEAST_DAYS: Final = 60
"""The shortest limit. Totals are compared 30 days back, a new user's first sync goes as far, and a
day's usual number of calls is taken from the 8 weeks before it: nothing that runs on a schedule may
ask for days that are not kept."""


def kept_since(today: date, keep_days: int | None) -> date | None:
    """The first day that the limit keeps: the first of a month. None: there is no limit.

    Args:
        today: in the pipeline's time zone.
        keep_days: the limit in days; a day that is exactly so old is kept, with its whole month.
    """
    return None if keep_days is None else (today - timedelta(days=keep_days)).replace(day=1)


def months(first: date, before: date) -> Iterator[date]:
    """The first day of each month from that of ``first`` to the last one before ``before``."""
    month = first.replace(day=1)
    while month < before:
        yield month
        month = next_month(month)


def next_month(day: date) -> date:
    """The first day of the month after that of ``day``."""
    return (day.replace(day=1) + timedelta(days=31)).replace(day=1)


def sentence(since: date) -> str:
    """The sentence of pages and reports about days before ``since``."""
    return f"Calls before {since} are no longer kept (VOICEAI_KEEP_CALLS_DAYS)."


def refusal(day: date, since: date, keep_days: int) -> str:
    """Why ``day`` cannot be synced, and what to change."""
    return (
        f"{day} is before {since}: calls before that are no longer kept (VOICEAI_KEEP_CALLS_DAYS "
        f"is {keep_days}). Choose a later day, or set a higher number and restart."
    )
