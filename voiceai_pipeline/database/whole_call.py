"""Reassembles a call, as HighLevel lists it, from the columns of ``call_logs``.

Each value is stored once: ``raw`` has only those members of the item that the columns cannot
reproduce exactly (``highlevel/unheld.py``), and they take precedence. So a row whose ``raw`` is the
whole item, as older versions stored it, is reassembled correctly too.
"""

from typing import Final

import sqlalchemy as sa

from voiceai_pipeline.database.tables import call_logs

_MEMBERS: Final = {
    "id": "call_id",
    # HighLevel's usual format; a time in another format is in raw.
    "createdAt": "to_char(call_logs.started_at AT TIME ZONE 'UTC', "
    '\'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"\')',
    "agentId": "agent_id",
    "contactId": "contact_id",
    "fromNumber": "from_number",
    "duration": "duration_seconds",
    "trialCall": "is_trial",
    "isAgentDeleted": "is_agent_deleted",
    "summary": "summary",
    "transcript": "transcript",
    "executedCallActions": "nullif(call_logs.executed_call_actions, '[]')",
    "extractedData": "extracted_data",
    "translation": "translation",
    "messageId": "message_id",
}
"""The item's members in columns, by HighLevel's names; NULL means that the member is absent."""

_VALUES: Final = ", ".join(
    f"('{name}', to_jsonb({source if '(' in source else f'call_logs.{source}'}))"
    for name, source in _MEMBERS.items()
)

HELD: Final = (
    "(SELECT coalesce(jsonb_object_agg(name, value), '{}') "  # noqa: S608 - our own names
    f"FROM (VALUES {_VALUES}) AS member(name, value) WHERE value IS NOT NULL)"
)
"""SQL: the members that a row's columns reproduce."""

WHOLE: Final = f"({HELD} || coalesce(call_logs.raw, '{{}}'))"
"""SQL: the whole item of a row of ``call_logs``, redacted."""

UNHELD: Final = (
    "(SELECT jsonb_object_agg(name, value) FROM jsonb_each(call_logs.raw) AS sent(name, value) "  # noqa: S608
    # Compared as text: 65 and 65.0 are equal as JSON, but differ.
    f"WHERE ({HELD} -> name)::text IS DISTINCT FROM value::text)"
)
"""SQL: the members of a row's ``raw`` that its columns do not reproduce; NULL if there are none."""

WHOLE_ITEM: Final = sa.literal_column(WHOLE, call_logs.c.raw.type).label("raw")
