"""The members of an item that its columns cannot reproduce exactly: unknown ones, null instead of
absent ones, other spellings, and values that do not fit a column.

``database/whole_call.py`` reassembles the item; a test checks that the two match.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from voiceai_pipeline.core.call import CallLog


def unheld(item: Mapping[str, Any], call: CallLog) -> dict[str, Any]:
    """The members of an item, redacted, that must be stored beside the columns of its call.

    Args:
        call: made from this same object: a column that keeps a value unchanged is that object.
    """
    sent_id, created_at, duration = (item.get(name) for name in ("id", "createdAt", "duration"))
    is_usual = type(created_at) is str and created_at == as_highlevel_writes(call.started_at)
    # 65.0 would come back as 65.
    is_whole = type(duration) is int and call.duration_seconds is not None
    held = {
        "id": sent_id if type(sent_id) is str and sent_id == call.call_id else None,
        "createdAt": created_at if is_usual else None,
        "agentId": call.agent_id,
        "contactId": call.contact_id,
        "fromNumber": call.from_number,
        "duration": duration if is_whole else None,
        "trialCall": call.is_trial,
        "isAgentDeleted": call.is_agent_deleted,
        "summary": call.summary,
        "transcript": call.transcript,
        # In the column, an empty list means that the member is absent.
        "executedCallActions": call.executed_call_actions or None,
        "extractedData": call.extracted_data,
        "translation": call.translation,
        "messageId": call.message_id,
    }
    return {
        name: value for name, value in item.items() if value is None or held.get(name) is not value
    }


def as_highlevel_writes(instant: datetime) -> str:
    """The instant with milliseconds and a Z. HighLevel never sent a time with microseconds so."""
    return f"{instant.isoformat(timespec='milliseconds')[:_MILLISECONDS]}Z"


_MILLISECONDS: Final = len("2026-01-31T23:59:59.999")
