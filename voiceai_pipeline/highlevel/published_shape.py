"""The shape of a call log as HighLevel publishes it, held against what really arrives.

Both versions publish the same fields (CONTRACT 2.3). Nothing is refused for a difference: reading
copes with it (``calls.py``). It is told, so that a person hears of a change before it matters.
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
"""Not published, and reported by several clients (CONTRACT 2.3)."""


@dataclass(frozen=True)
class Drift:
    """How a live sample differs from the published shape.

    Attributes:
        unknown: fields that are published nowhere.
        missing: fields that are published as required and that some call lacks.
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
    """The difference between these raw call logs and the published shape: names of fields only."""
    unknown: set[str] = set()
    missing: set[str] = set()
    for item in items:
        fields = set(item) if isinstance(item, dict) else set[str]()
        unknown |= fields - REQUIRED - OPTIONAL - SEEN
        missing |= REQUIRED - fields
    return Drift(tuple(sorted(unknown)), tuple(sorted(missing)))
