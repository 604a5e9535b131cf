"""The sentences and lists that check results show: what is wrong, why and what to do.

Pure: which check passes is decided in ``checks``.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import Any
from uuid import UUID

from voiceai_pipeline.calls import volume_anomalies
from voiceai_pipeline.calls.day_status import StaleUser
from voiceai_pipeline.calls.reconciliation import LocationComparison
from voiceai_pipeline.calls.volume_anomalies import Judgement
from voiceai_pipeline.core.connection import Connection
from voiceai_pipeline.core.days import DayResult, DayState
from voiceai_pipeline.core.failures import for_user
from voiceai_pipeline.core.foreign_text import NAME_LENGTH
from voiceai_pipeline.defs.markdown import shown
from voiceai_pipeline.defs.texts import FOLLOWS, LINES, at_most, message_for


def reconciliation_text(places: Sequence[LocationComparison], facts: Mapping[str, Any]) -> str:
    """The result of the comparison: how many days differ, which, and what could not be compared.

    Args:
        facts: ``numbers.of_reconciliation`` of these locations.
    """
    parts = [f"{facts['days_that_differ']} of {facts['days_checked']} days compared differ."]
    if facts["days_without_total"]:
        parts.append(f"HighLevel gave no total for {facts['days_without_total']} more.")
    if facts["locations_not_asked"]:
        parts.append(
            f"Locations whose totals could not all be read: {facts['locations_not_asked']}."
        )
    lines = [
        f"- {shown(place.name, NAME_LENGTH)}, {day.day}: HighLevel counts {day.total}, "
        f"{day.stored} are stored; {FOLLOWS[day.verdict]}."
        for place in places
        for day in place.days
        if day.difference
    ]
    rest = len(lines) - LINES
    lines = [*lines[:LINES], *([f"- and {rest} more"] if rest > 0 else [])]
    return "\n\n".join([" ".join(parts), *(["\n".join(lines)] if lines else [])])


def connections_text(affected: Sequence[Connection]) -> str:
    """Which connections need action, why and what to do."""
    lines = [
        f"- {shown(one.user.name, NAME_LENGTH)}: {shown(for_user(one.message, one.user.id))}."
        for one in affected
    ]
    return "\n".join(at_most(lines))


def needing(action: int, paused: int) -> str:
    """How many users need action, and how many have paused syncs."""
    counts = [f"{action} users need action"] if action else []
    return ", ".join([*counts, *([f"{paused} users are paused"] if paused else [])])


def waiting_text(waiting: Iterable[DayResult]) -> str:
    """Which users wait, why and what to do; each user once."""
    rows = {
        row.user: f"{shown(row.user.name, NAME_LENGTH)}: {shown(message_for(row))}"
        for row in waiting
    }
    return "\n".join(at_most([f"- {text}" for text in rows.values()]))


def twice_text(calls: Mapping[str, Sequence[str]], names: Mapping[str, str]) -> str:
    """Calls that are stored under several locations, and what that means.

    Args:
        calls: by call id, the ids of its locations.
        names: of locations, by id.
    """
    lines = at_most(
        [
            f"- {shown(call_id, NAME_LENGTH)}: "
            f"{', '.join(shown(names.get(place, place), NAME_LENGTH) for place in places)}"
            for call_id, places in calls.items()
        ],
        "",
    )
    return "\n".join(
        [
            f"{len(calls)} calls are stored under more than one location, and would count more "
            "than once. Call ids are unique in HighLevel, so one location returns the calls of "
            "another: compare the locations of these users on the Connections page, and reconnect "
            "the user with the wrong one.",
            "",
            *lines,
        ]
    )


def types_text(types: Mapping[str, int]) -> str:
    """Undocumented action types, and how often each occurs."""
    lines = at_most(
        [f"- {shown(kind, NAME_LENGTH)}: {count} actions" for kind, count in types.items()], ""
    )
    return "\n".join(
        [
            "Some calls have actions of types that HighLevel does not document. They are stored "
            "unchanged; metrics by action count them as unknown. Report them to the developers.",
            "",
            *lines,
        ]
    )


def volume_text(judged: Sequence[Judgement], names: Mapping[str, str]) -> str:
    """How the calls of the days compare with the same weekday of past weeks."""
    together = [one for one in judged if one.location_id is None]
    if not judged:
        return (
            f"Not enough history yet: the comparison needs {volume_anomalies.MIN_WEEKS} complete "
            "weeks of the same weekday."
        )
    odd = [one for one in judged if not one.is_usual]
    parts = [
        f"All locations on {one.day:%A} {one.day}: {one.calls} calls; usual: {one.band.low} to "
        f"{one.band.high} (last {one.band.weeks} weeks)."
        for one in together[-1:]
    ]
    if not odd:
        return " ".join([*parts, f"All {len(judged)} comparisons are as usual."])
    lines = []
    for one in odd:
        who = names.get(one.location_id, one.location_id) if one.location_id else "All locations"
        than = "fewer" if one.calls < one.band.low else "more"
        lines.append(
            f"- {shown(who, NAME_LENGTH)}, {one.day:%A} {one.day}: {one.calls} calls, "
            f"{than} than the usual {one.band.low} to {one.band.high} (last {one.band.weeks} weeks)"
        )
    parts.append(
        f"Outside the usual range: {len(odd)} of {len(judged)} comparisons. Every day named here "
        "is complete, so this is what HighLevel has: ask the location, or check whether its agent "
        "or number was changed."
    )
    return "\n".join([" ".join(parts), "", *at_most(lines, "")])


def stale_text(
    found: Sequence[StaleUser], rows: Mapping[UUID, DayResult], able: int, due: date
) -> str:
    """Which users are not up to date, since when, why and what to do.

    Args:
        rows: the ledger's rows for the day ``due``, by user id.
        able: how many users can be synced.
        due: the day up to which every user should be complete.
    """
    lines = []
    for one in found:
        user = one.connection.user
        last = f"complete up to {one.last_complete}" if one.last_complete else "never complete"
        row = rows.get(user.id)
        why = (
            message_for(row)
            if row is not None and row.state is DayState.FAILED
            else f"{due} was never synced. Fix: check that the daemon runs and its schedules are "
            "on, then sync it."
        )
        lines.append(f"- {shown(user.name, NAME_LENGTH)}, {last}: {shown(why)}")
    return "\n".join(
        [
            f"{len(found)} of {able} connected users are not complete up to {due}:",
            "",
            *at_most(lines),
        ]
    )
