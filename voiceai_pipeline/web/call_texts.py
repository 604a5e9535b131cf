"""How the pages word a call: its time, length, agent, actions, and where a search found it.

Pure functions of values. Templates escape what they get; a hit is marked as a part of the text and
never as markup.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

from voiceai_pipeline.calls.call_filter import Search
from voiceai_pipeline.calls.call_search import CallRow
from voiceai_pipeline.calls.transcript import LABEL
from voiceai_pipeline.core.call import agent_label
from voiceai_pipeline.core.foreign_text import cleaned

ACTIONS: Final[Mapping[str, str]] = {
    "APPOINTMENT_BOOKING": "booking",
    "CALL_TRANSFER": "transfer",
    "WORKFLOW_TRIGGER": "workflow",
    "SMS": "text message",
    "CUSTOM_ACTION": "custom action",
    "DATA_EXTRACTION": "data taken afterwards",
    "IN_CALL_DATA_EXTRACTION": "data taken in the call",
    "KNOWLEDGE_BASE": "knowledge base",
}
"""What an action type is called. The words mean that the action was run, not that it worked."""

SUMMARY_LENGTH: Final = 160
_AROUND: Final = 90
"""Characters shown before and after a hit whose sentence is longer."""


@dataclass(frozen=True)
class Part:
    """A part of a text, and whether it is a search hit."""

    text: str
    is_hit: bool = False


def moment(at: datetime, zone: ZoneInfo) -> str:
    """A time with seconds and the zone's abbreviation: ``Sat 28 Nov 2026, 10:42:07 EST``."""
    local = at.astimezone(zone)
    return f"{local:%a} {local.day} {local:%b %Y, %H:%M:%S} {local:%Z}"


def day_and_time(at: datetime, zone: ZoneInfo) -> tuple[str, str]:
    """The day, and the time with its zone: ``Sat 28 Nov 2026`` and ``10:42 EST``."""
    local = at.astimezone(zone)
    return f"{local:%a} {local.day} {local:%b %Y}", f"{local:%H:%M} {local:%Z}"


def duration(seconds: float | None) -> str:
    """Minutes and seconds, with hours if any; a dash if unknown or not within 0 to 24 hours."""
    if seconds is None or not 0 <= seconds <= 86_400:
        return "–"  # noqa: RUF001 - a dash stands for no value
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def agent(row: CallRow) -> str:
    """Its name, and whether it was deleted."""
    return agent_label(row.agent_id, row.agent_name, is_deleted=bool(row.is_agent_deleted))


def action(kind: str) -> str:
    """An action type in words; one that HighLevel does not document, in lower case."""
    return ACTIONS.get(kind) or cleaned(kind, 40).replace("_", " ").lower() or "action"


def actions(kinds: Sequence[str]) -> list[str]:
    """The actions of a call in words, each once, with how often it was run."""
    return [
        f"{action(kind)} ×{count}" if (count := kinds.count(kind)) > 1 else action(kind)  # noqa: RUF001
        for kind in dict.fromkeys(kinds)
    ]


def pretty(value: Any) -> str:
    """The value as indented JSON."""
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)


def extracted(value: Any) -> list[tuple[str, str]]:
    """The values that an agent captured, by name; nested ones as JSON."""
    if not isinstance(value, dict):
        return [("value", pretty(value))] if value not in (None, "", []) else []
    return [
        (str(name), one if isinstance(one, str) else json.dumps(one, ensure_ascii=False))
        for name, one in value.items()
    ]


# Hits --------------------------------------------------------------------------------------------


def words_of(search: Search | None) -> "re.Pattern[str] | None":
    """A pattern for what to mark in a text: the words and quoted phrases of a search, without those
    that it excludes. None: there is nothing to mark."""
    if search is None:
        return None
    found: list[str] = []
    for sign, quoted, plain in re.findall(r'(-?)(?:"([^"]*)"|(\S+))', search.text):
        if not sign and plain.lower() != "or":
            words = re.findall(r"\w+", quoted or plain)
            if words:
                found.append(r"\W+".join(map(re.escape, words)))
    if search.digits:
        found.append(r"\D?".join(search.digits))
    if not found:
        return None
    return re.compile(rf"(?<!\w)(?:{'|'.join(found)})(?!\w)", re.IGNORECASE)


def marked(text: str, wanted: "re.Pattern[str] | None") -> list[Part]:
    """The text in parts, with the hits marked."""
    parts, done = [], 0
    for hit in wanted.finditer(text) if wanted else ():
        parts += [Part(text[done : hit.start()]), Part(hit[0], is_hit=True)]
        done = hit.end()
    parts.append(Part(text[done:]))
    return [one for one in parts if one.text]


def sentence_with_hit(row: CallRow, wanted: "re.Pattern[str] | None") -> tuple[str, list[Part]]:
    """Where a search found a call: the name of the text, and the sentence with the hits marked.
    Both are empty if the words are in neither text."""
    for source, text in (("summary", row.summary), ("transcript", row.transcript)):
        hit = wanted.search(text) if wanted and text else None
        if hit and text:
            start = max(_sentence_start(text, hit.start()), hit.start() - _AROUND)
            end = min(_sentence_end(text, hit.end()), hit.end() + _AROUND)
            before = "…" if start > 0 and hit.start() - start == _AROUND else ""
            after = "…" if end < len(text) and end - hit.end() == _AROUND else ""
            return source, marked(f"{before}{cleaned(text[start:end], 600)}{after}", wanted)
    return "", []


_ENDS: Final = re.compile(r"[.!?]\s|\n")


def _sentence_start(text: str, before: int) -> int:
    start = 0
    for end in _ENDS.finditer(text, max(0, before - 400), before):
        start = end.end()
    label = LABEL.match(text, start)
    return label.end() if label and label.end() <= before else start


def _sentence_end(text: str, after: int) -> int:
    found = _ENDS.search(text, after)
    return found.start() + 1 if found else len(text)
