"""A call's transcript as numbered turns, with what the agent's tools did in between.

The label at the beginning of a line names its speaker. The marts count by the same labels
(``marts/call_sql.py``); docs/metrics.md has the rule.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final


class Speaker(StrEnum):
    """Who speaks, as far as the transcript says."""

    AGENT = "agent"
    CALLER = "caller"
    TOOL = "tool"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Turn:
    """A turn of the conversation, or the use of a tool by the agent.

    Attributes:
        number: counts the turns, from 1; None for a tool.
        text: what was said, or the tool's name.
        seconds: from the start of the call; None if not given.
    """

    number: int | None
    speaker: Speaker
    text: str
    seconds: float | None = None


AGENT_LABELS: Final = ("bot", "agent", "assistant", "ai")
CALLER_LABELS: Final = ("human", "user")

_SPEAKERS: Final = {
    **dict.fromkeys(AGENT_LABELS, Speaker.AGENT),
    **dict.fromkeys(CALLER_LABELS, Speaker.CALLER),
}

# Without re.ASCII a long s would match an s, unlike with PostgreSQL's lower().
LABEL: Final = re.compile(rf"({'|'.join(_SPEAKERS)}):", re.IGNORECASE | re.ASCII)
"""A line that begins with this, without a space before or in it, begins a turn."""

_TOOL: Final = "action_executed"


def turns(transcript: str | None, with_tools: object) -> list[Turn]:
    """The turns and uses of tools, in order.

    Args:
        with_tools: the item's ``transcriptWithToolCalls`` (CONTRACT 2.3), which has times and
            tools; used instead of ``transcript`` if it holds any turn.
    """
    timed = list(_timed(with_tools))
    if any(one.speaker is not Speaker.TOOL for one in timed):
        return timed
    return [*_spoken(transcript or ""), *timed]


def _timed(items: object) -> Iterable[Turn]:
    number = 0
    for item in items if isinstance(items, list) else ():
        if not isinstance(item, Mapping):
            continue
        seconds = _seconds(item.get("startTime"))
        role = str(item.get("role") or "").lower()
        if role == _TOOL:
            name = _text(item.get("toolName")) or _text(item.get("toolType")) or "a tool"
            yield Turn(None, Speaker.TOOL, name, seconds)
        elif text := _text(item.get("content")).strip():
            number += 1
            yield Turn(number, _SPEAKERS.get(role, Speaker.UNKNOWN), text, seconds)


def _spoken(transcript: str) -> Iterable[Turn]:
    """Lines without a label continue the turn before them."""
    said: list[tuple[Speaker, list[str]]] = []
    for line in transcript.split("\n"):
        label = LABEL.match(line)
        if label:
            said.append((_SPEAKERS[label[1].lower()], [line[label.end() :]]))
        elif said:
            said[-1][1].append(line)
        elif line.strip():
            said.append((Speaker.UNKNOWN, [line]))
    number = 0
    for speaker, lines in said:
        if text := "\n".join(lines).strip():
            number += 1
            yield Turn(number, speaker, text)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _seconds(value: Any) -> float | None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number and 0 <= value <= 86_400 else None
