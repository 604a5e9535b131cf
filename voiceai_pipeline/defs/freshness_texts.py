"""What ``sync_status`` says about how new calls arrive: announced by HighLevel, or found by syncs.

Pure: nothing is read or recorded here.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import dagster as dg

from voiceai_pipeline.calls.freshness import Freshness
from voiceai_pipeline.core.foreign_text import NAME_LENGTH
from voiceai_pipeline.defs.markdown import shown
from voiceai_pipeline.defs.texts import LINES, NAMES, rows_table

KEYS: Final = ("how_fresh", "found_by_syncs_only", "location_freshness")


def of_locations(found: Sequence[tuple[str, Freshness]]) -> Mapping[str, Any]:
    """The metadata of all connected locations; nothing if there are none.

    Args:
        found: names and freshness of locations, in the order of ``freshness.of_connected``.
    """
    if not found:
        return {}
    polled = [name for name, one in found if one.is_polled]
    answers = (
        dg.MetadataValue.md(_answer(found, polled)),
        len(polled),
        dg.MetadataValue.md(_table(found)),
    )
    return dict(zip(KEYS, answers, strict=True))


def _answer(found: Sequence[tuple[str, Freshness]], polled: Sequence[str]) -> str:
    seen = [one.seen_until for _, one in found if one.seen_until]
    unseen = len(found) - len(seen)
    until = f"Calls have been seen up to {_utc(min(seen))} or later" if seen else ""
    rest = f"; no recent read of {unseen} of {len(found)} locations" if unseen else ""
    until = f"{until}{rest}." if until else "No location has been read recently."
    told = max((one.last_message_at for _, one in found if one.last_message_at), default=None)
    if told is None:
        return f"{until} HighLevel announces no calls: each sync finds the new ones."
    said = f"{until} HighLevel last announced a call at {_utc(told)}."
    if not polled:
        return said
    names = ", ".join(shown(name, NAME_LENGTH) for name in polled[:NAMES])
    more = f" and {len(polled) - NAMES} more" if len(polled) > NAMES else ""
    return (
        f"{said} **Found by syncs only: {names}{more}.** Check that delivery is on in the app's "
        "Webhooks page; no call is lost."
    )


def _table(found: Sequence[tuple[str, Freshness]]) -> str:
    rows = [
        {
            "location": shown(name, NAME_LENGTH),
            "calls seen until": _utc(one.seen_until) if one.seen_until else "never",
            "last announced": _utc(one.last_message_at) if one.last_message_at else "never",
            "new calls": "found by syncs only"
            if one.is_polled
            else "announced"
            if one.last_message_at
            else "found by syncs",
        }
        for name, one in found[:LINES]
    ]
    rest = f"\n\nand {len(found) - LINES} more" if len(found) > LINES else ""
    return rows_table(rows) + rest


def _utc(instant: datetime) -> str:
    return f"{instant:%Y-%m-%d %H:%M} UTC"
