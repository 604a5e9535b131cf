"""Facts that are derived from each call, so that lists can filter by them and marts need not read
the transcript again.

They are written when marts are built (``marts/call_fact_store.py``), never by a sync: a call that
was just stored has no row until then.
"""

from typing import Any, Final

import sqlalchemy as sa

from voiceai_pipeline.core.days import TRAILING_DAYS
from voiceai_pipeline.core.outcome import PROVISIONAL, Outcome
from voiceai_pipeline.database.schema import instant, metadata

call_facts = sa.Table(
    "call_facts",
    metadata,
    sa.Column("location_id", sa.Text, primary_key=True,
              comment="The HighLevel location that the call belongs to."),
    sa.Column("call_id", sa.Text, primary_key=True, comment="HighLevel's id of the call."),
    instant("started_at", nullable=False, comment="Start of the call."),
    sa.Column("agent_id", sa.Text, nullable=False, comment="The agent; empty if there is none."),
    sa.Column("duration_seconds", sa.Double,
              comment="Length of the call in seconds; NULL: unknown or impossible."),
    sa.Column("caller", sa.BigInteger, nullable=False,
              comment="Hash of the contact, else of the number; 0: unknown or withheld."),
    sa.Column("is_counted", sa.Boolean, nullable=False,
              comment="Metrics count it: not a trial call, and still listed by HighLevel."),
    sa.Column("has_transcript", sa.Boolean, nullable=False, comment="The transcript has words."),
    sa.Column("caller_turns", sa.Integer,
              comment="How often the caller spoke; NULL: the transcript's speakers are unknown."),
    sa.Column("language", sa.Text,
              comment="Language in the call's translation, in lower case; NULL: none."),
    sa.Column("is_engaged", sa.Boolean, nullable=False,
              comment="The caller spoke: at least 2 caller turns and 10 seconds, unless "
                      "configured otherwise."),
    sa.Column("is_goal_reached", sa.Boolean, nullable=False, comment="It has a goal action."),
    sa.Column("is_transferred", sa.Boolean, nullable=False,
              comment="It has an executed CALL_TRANSFER."),
    sa.Column("is_data_captured", sa.Boolean, nullable=False,
              comment="It has an extracted value that is not empty."),
    sa.Column("outcome", sa.Text, nullable=False,
              comment="By the first rule that holds (docs/metrics.md), as if it were final."),
    sa.Column("rules_version", sa.Text, nullable=False,
              comment="Fingerprint of the rules of outcomes."),
    sa.Column("row_version", sa.BigInteger, nullable=False,
              comment="xmin of the call_logs row that these facts were derived from."),
    sa.Column("timezone", sa.Text,
              comment="IANA name of the zone of local_day and local_hour: the location's, else the "
                      "pipeline's. NULL: derived by a version without them."),
    sa.Column("local_day", sa.Date,
              comment="Day on which the call started, in its location's time zone, else the "
                      "pipeline's: the day of the marts. NULL: not derived yet."),
    sa.Column("local_hour", sa.SmallInteger,
              comment="Hour of local_day in which the call started, 0 to 23; the repeated hour in "
                      "autumn counts as one. NULL: not derived yet."),
    sa.Index("call_facts_location_id_started_at_idx", "location_id", "started_at"),
    sa.Index("call_facts_caller_idx", "caller", "started_at"),
    sa.Index("call_facts_outcome_idx", "location_id", "outcome", "started_at"),
    comment="Facts derived from each call: outcome, flags, turns. They are derived again when "
            "marts are built, if the call or the rules have changed.",
)  # fmt: skip

caller_key = sa.Table(
    "caller_key",
    metadata,
    sa.Column("id", sa.SmallInteger, primary_key=True, server_default="1",
              comment="1: there is one key."),
    sa.Column("key", sa.LargeBinary, nullable=False, comment="Secret; 32 bytes."),
    sa.CheckConstraint("id = 1"),
    comment="The key of callers' pseudonyms in the views. Without it, a pseudonym cannot be traced "
            "to a number, not even by trying all numbers.",
)  # fmt: skip

CALLER_PSEUDONYM: Final = sa.case(
    (
        call_facts.c.caller != 0,
        sa.func.left(
            sa.func.encode(
                sa.func.sha256(
                    sa.select(caller_key.c.key)
                    .scalar_subquery()
                    .op("||")(sa.func.int8send(call_facts.c.caller))
                ),
                "hex",
            ),
            16,
            type_=sa.Text,
        ),
    )
).label("caller_pseudonym")
"""The same text for each call of a caller; NULL: unknown, withheld, or not derived yet."""

_MIDNIGHT: Final = "date_trunc('day', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC'"
NOT_FINAL_SINCE: Final[sa.ColumnElement[Any]] = sa.literal_column(
    f"({_MIDNIGHT} - interval '{TRAILING_DAYS} days')"
)
"""``core.outcome.not_final_since`` by the database's clock."""

IS_NOT_FINAL: Final[sa.ColumnElement[bool]] = sa.or_(
    call_facts.c.outcome.is_(None),
    sa.and_(
        call_facts.c.outcome.in_([one.value for one in PROVISIONAL]),
        call_facts.c.started_at >= NOT_FINAL_SINCE,
    ),
)
"""For a call outer joined to its facts: its outcome may still change, or is not derived yet."""

OUTCOME: Final = sa.case(
    (IS_NOT_FINAL, sa.literal(Outcome.NOT_FINAL.value, sa.Text)), else_=call_facts.c.outcome
).label("outcome")
"""The outcome as screens show it. To filter by a final one, also compare ``call_facts.outcome``,
which has an index."""
