"""A call's outcome: one for each call, by the first rule that holds.

HighLevel reports none, so it is derived. The rules are here as sentences, in order; the SQL that
applies them is in ``marts/call_fact_store.py``.
"""

import hashlib
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, time, timedelta
from enum import StrEnum
from typing import Final

from voiceai_pipeline.core.days import TRAILING_DAYS
from voiceai_pipeline.core.settings import BOOKING, MetricRules

_REVISION: Final = 3
"""Increase this when a rule or the derivation of another fact changes: all facts are then derived
again."""


class Outcome(StrEnum):
    """In the order of the rules; the first rule that holds decides."""

    GOAL = "goal"
    TRANSFERRED = "transferred"
    FOLLOW_UP = "follow_up"
    DATA_TAKEN = "data_taken"
    ANSWERED = "answered"
    UNCLEAR = "unclear"
    NO_CONVERSATION = "no_conversation"
    NOT_FINAL = "not_final"


PROVISIONAL: Final = (Outcome.UNCLEAR, Outcome.NO_CONVERSATION)
"""Outcomes that a late transcript could change: a call that started at or after ``not_final_since``
is NOT_FINAL instead."""

_LABELS: Final = {
    Outcome.GOAL: "Goal reached",
    Outcome.TRANSFERRED: "Transferred",
    Outcome.FOLLOW_UP: "Follow-up started",
    Outcome.DATA_TAKEN: "Data taken",
    Outcome.ANSWERED: "Answered",
    Outcome.UNCLEAR: "Unclear",
    Outcome.NO_CONVERSATION: "No conversation",
    Outcome.NOT_FINAL: "Not final yet",
}


def label(outcome: Outcome, goal_actions: Sequence[str]) -> str:
    """The outcome's name on screens: "Booked" for GOAL if booking is the only goal action."""
    if outcome is Outcome.GOAL and list(goal_actions) == [BOOKING]:
        return "Booked"
    return _LABELS[outcome]


def sentences(rules: MetricRules) -> dict[Outcome, str]:
    """The rule of each outcome in a sentence, in order."""
    spoke = f"{rules.engaged_turns} caller turns and {rules.engaged_seconds} seconds"
    return {
        Outcome.GOAL: f"A goal action was run: {_or(rules.goal_actions)}.",
        Outcome.TRANSFERRED: "A CALL_TRANSFER was executed.",
        Outcome.FOLLOW_UP: f"Another action was run: {_or(rules.follow_up_actions)}.",
        Outcome.DATA_TAKEN: "DATA_EXTRACTION or IN_CALL_DATA_EXTRACTION was run, or a captured "
        "value is not empty.",
        Outcome.ANSWERED: f"The call is engaged: at least {spoke}.",
        Outcome.UNCLEAR: "The speakers of the transcript or the duration of the call are unknown.",
        Outcome.NO_CONVERSATION: f"The call is not engaged: it has less than {spoke}.",
        Outcome.NOT_FINAL: "One of the last two rules holds, but the call started today or on one "
        f"of the {TRAILING_DAYS} days before (UTC): its transcript may still arrive.",
    }


def _or(names: Iterable[str]) -> str:
    return " or ".join(names) or "none"


def version(rules: MetricRules) -> str:
    """A fingerprint of the rules: equal versions mean equal outcomes."""
    parts = (
        _REVISION,
        rules.goal_actions,
        rules.follow_up_actions,
        rules.engaged_turns,
        rules.engaged_seconds,
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


def not_final_since(now: datetime) -> datetime:
    """A provisional outcome of a call that started at or after this time (UTC) is not final yet.

    It moves at midnight UTC only, so that daily counts stay true all day.
    """
    today = now.astimezone(UTC).date()
    return datetime.combine(today - timedelta(days=TRAILING_DAYS), time(), UTC)
