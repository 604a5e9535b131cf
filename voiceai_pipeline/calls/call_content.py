"""What was said in one call and by whom, and the record of who opened it.

The pages read content only here and, on request, in ``call_search``. Code that sends content to a
browser or a file records that first, in the same transaction: no record, no content.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

import sqlalchemy as sa

from voiceai_pipeline.calls.transcript import Turn, turns
from voiceai_pipeline.database.tables import content_openings
from voiceai_pipeline.database.view_sources import SCHEMA


@dataclass(frozen=True)
class Action:
    """An action that the agent ran.

    Attributes:
        kind: HighLevel's type; "" where it gives none.
        at: when it was executed, else when its trigger arrived, as HighLevel writes it; "" if it
            gives neither.
        parameters: as stored, without secrets; None if there are none.
    """

    kind: str
    name: str
    at: str
    parameters: Any = field(default=None, repr=False)


@dataclass(frozen=True)
class CallContent:
    """The content of one call.

    Attributes:
        extracted: the values that the agent captured, by key.
        raw: the whole item as stored, without secrets.
    """

    from_number: str | None = field(repr=False)
    contact_id: str | None = field(repr=False)
    summary: str | None = field(repr=False)
    turns: Sequence[Turn] = field(repr=False)
    actions: Sequence[Action] = field(repr=False)
    extracted: Any = field(repr=False)
    translation: Any = field(repr=False)
    raw: Any = field(repr=False)


_CONTENTS: Final = sa.table(
    "call_contents",
    *map(
        sa.column,
        (
            "location_id", "call_id", "from_number", "contact_id", "summary", "transcript",
            "executed_call_actions", "extracted_data", "translation", "raw",
        ),
    ),
    schema=SCHEMA,
)  # fmt: skip


def read(db: sa.Connection, location_id: str, call_id: str) -> CallContent | None:
    """A call's content; None if there is no such call."""
    row = db.execute(
        sa.select(_CONTENTS).where(
            _CONTENTS.c.location_id == location_id, _CONTENTS.c.call_id == call_id
        )
    ).one_or_none()
    if row is None:
        return None
    raw = row.raw if isinstance(row.raw, dict) else {}
    return CallContent(
        from_number=row.from_number,
        contact_id=row.contact_id,
        summary=row.summary,
        turns=turns(row.transcript, raw.get("transcriptWithToolCalls")),
        actions=_actions(row.executed_call_actions),
        extracted=row.extracted_data,
        translation=row.translation,
        raw=row.raw,
    )


def _actions(items: object) -> list[Action]:
    found = [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []
    return [
        Action(
            kind=_text(item.get("actionType")),
            name=_text(item.get("actionName")),
            at=_text(item.get("executedAt")) or _text(item.get("triggerReceivedAt")),
            parameters=item.get("actionParameters") or None,
        )
        for item in found
    ]


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


# The record --------------------------------------------------------------------------------------


class Kind(StrEnum):
    """What was opened."""

    CALL = "call"
    LIST = "list"
    EXPORT = "export"
    VALUES = "values"


@dataclass(frozen=True)
class Opening:
    """Content that was sent to a visitor.

    Attributes:
        at: UTC.
        role: operator or analyst; visitors have no names of their own.
        visitor: a short hash of the browser's session, and the address it came from.
        location_id, call_id: None if the content of several calls was sent.
        calls: how many calls.
    """

    at: datetime
    role: str
    visitor: str
    kind: Kind
    calls: int = 1
    location_id: str | None = None
    call_id: str | None = None


def record(db: sa.Connection, opening: Opening) -> None:
    """Store an opening."""
    db.execute(
        sa.insert(content_openings).values(
            at=opening.at,
            role=opening.role,
            visitor=opening.visitor,
            kind=opening.kind.value,
            calls=opening.calls,
            location_id=opening.location_id,
            call_id=opening.call_id,
        )
    )


def openings(db: sa.Connection, limit: int, *, of: tuple[str, str] | None = None) -> list[Opening]:
    """The last openings, newest first.

    Args:
        of: location id and call id of the only call to include; None for all.
    """
    query = sa.select(content_openings).order_by(content_openings.c.id.desc()).limit(limit)
    if of is not None:
        query = query.where(
            content_openings.c.location_id == of[0], content_openings.c.call_id == of[1]
        )
    return [
        Opening(
            row.at, row.role, row.visitor, Kind(row.kind), row.calls, row.location_id, row.call_id
        )
        for row in db.execute(query)
    ]
