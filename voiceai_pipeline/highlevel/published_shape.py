"""The published fields of a call log, compared with what really arrives.

Both API versions publish the same fields (CONTRACT 2.3). ``calls.py`` tolerates differences, so
none of them is a failure; they are reported so that a change is noticed before it matters.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

REQUIRED: Final = frozenset(
    {
        "id",
        "agentId",
        "isAgentDeleted",
        "createdAt",
        "duration",
        "trialCall",
        "executedCallActions",
        "summary",
        "transcript",
    }
)
OPTIONAL: Final = frozenset(
    {"contactId", "fromNumber", "translation", "extractedData", "messageId"}
)
SEEN: Final = frozenset({"agentTransferOccurred", "transcriptWithToolCalls"})
"""Not published, but seen by several clients (CONTRACT 2.3)."""


@dataclass(frozen=True)
class Drift:
    """How a live sample differs from the published shape.

    Attributes:
        unknown: fields that are not published.
        missing: required fields that at least one call lacks.
    """

    unknown: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.unknown or self.missing)

    def __str__(self) -> str:
        parts = [
            f"{what} {', '.join(fields)}"
            for what, fields in (("unknown fields:", self.unknown), ("missing:", self.missing))
            if fields
        ]
        return "; ".join(parts)


def drift_of(items: Iterable[Any]) -> Drift:
    """The difference between these raw call logs and the published shape: field names only."""
    unknown: set[str] = set()
    missing: set[str] = set()
    for item in items:
        fields = set(item) if isinstance(item, dict) else set[str]()
        unknown |= fields - REQUIRED - OPTIONAL - SEEN
        missing |= REQUIRED - fields
    return Drift(tuple(sorted(unknown)), tuple(sorted(missing)))
