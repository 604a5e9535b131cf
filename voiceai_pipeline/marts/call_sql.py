"""SQL that several queries of stored calls share: callers, durations, turns, filled values.

A query selects FROM ``CALLS`` WHERE ``OURS``, with the values of ``spellings``.
"""

from collections.abc import Mapping
from typing import Any, Final

import sqlalchemy as sa

from voiceai_pipeline.calls.transcript import AGENT_LABELS, CALLER_LABELS
from voiceai_pipeline.marts import phone_numbers

_HASH: Final = "coalesce(hashtextextended({}, 0), 0)"

# With a withheld number the caller is unknown, even if HighLevel made a contact of it.
_WITHHELD: Final = (
    "(from_number = ANY(%(withheld)s) OR spelled.text IS NOT NULL AND spelled.number IS NULL)"
)
_E164: Final = "coalesce(spelled.number, nullif(from_number, ''))"
CALLER: Final = (
    f"CASE WHEN {_WITHHELD} THEN 0 ELSE "
    + _HASH.format(f"coalesce(nullif(contact_id, ''), {_E164})")
    + " END"
)
"""A hash of the contact, else of the number; 0 if the caller is unknown."""

NUMBER: Final = (
    f"CASE WHEN {_WITHHELD} THEN 0 ELSE "
    + _HASH.format(f"coalesce({_E164}, nullif(contact_id, ''))")
    + " END"
)
"""A hash of the number, else of the contact; 0 if the caller is unknown."""

CALLS: Final = (
    "call_logs LEFT JOIN unnest(%(spellings)s::text[], %(numbers)s::text[]) "
    "AS spelled(text, number) ON spelled.text = from_number"
)
OURS: Final = "location_id = ANY(%(ids)s) AND started_at >= %(first)s AND started_at < %(last)s"

DURATION: Final = "CASE WHEN duration_seconds BETWEEN 0 AND 86400 THEN duration_seconds END"
"""A duration below 0 or above a day is unknown: no sum may contain it."""

SAID: Final = "lower(E'\\n' || coalesce(transcript, ''))"
"""The transcript in lower case, with a line feed before each line."""

# string_to_array, because it takes a third of the time of a regular expression (measured).
TURNS: Final = " + ".join(
    f"cardinality(string_to_array(said, E'\\n{label}:')) - 1" for label in CALLER_LABELS
)
"""How many turns of ``SAID`` are the caller's."""

HAS_WORDS: Final = "said ~ '\\S'"
IS_SPEAKER_UNKNOWN: Final = (
    f"{HAS_WORDS} AND said !~ '\\n({'|'.join((*CALLER_LABELS, *AGENT_LABELS))}):'"
)

# False and 0 count as filled.
IS_FILLED: Final = (
    "entry.value NOT IN ('null', '[]', '{}') AND NOT "
    "(jsonb_typeof(entry.value) = 'string' AND entry.value #>> '{}' !~ '\\S')"
)
"""Whether an entry of ``jsonb_each`` is neither null, blank text, nor an empty list or object."""

_SPELLINGS: Final = """
    SELECT DISTINCT from_number FROM call_logs
    WHERE location_id = ANY(:ids) AND started_at >= :first AND started_at < :last
      AND from_number <> '' AND from_number !~ :plain
"""


def spellings(db: sa.Connection, where: Mapping[str, Any]) -> dict[str, Any]:
    """The values that ``CALLS``, ``CALLER`` and ``NUMBER`` bind: the numbers of these calls that
    are not stored in E.164, the same in E.164, and the numbers that stand for a withheld one.

    Args:
        where: ``ids``, ``first`` and ``last``.
    """
    values = {**where, "plain": phone_numbers.PLAIN}
    found = list(db.execute(sa.text(_SPELLINGS), values).scalars())
    return {
        "spellings": found,
        "numbers": [phone_numbers.number_of(text) for text in found],
        "withheld": list(phone_numbers.WITHHELD_NUMBERS),
    }
