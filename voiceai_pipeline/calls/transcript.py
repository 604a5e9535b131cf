"""A call's transcript as numbered turns, with what the agent's tools did in between.

Whose a line is, the label at its beginning says. The marts count by the same labels
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
    """A turn, or a step of the agent's tools.

    Attributes:
        number: of the turn, from 1; None: a step of a tool, which is not said.
        text: what is said; of a tool, its name.
        seconds: from the start of the call; None: not given.
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

# Without re.ASCII a long s would be an s, which PostgreSQL's lower() does not say.
LABEL: Final = re.compile(rf"({'|'.join(_SPEAKERS)}):", re.IGNORECASE | re.ASCII)
"""Where a line begins with it, a turn begins: without a space before or in it."""

_TOOL: Final = "action_executed"


def turns(transcript: str | None, with_tools: object) -> list[Turn]:
    """The turns in order.

    Args:
        with_tools: the item's ``transcriptWithToolCalls`` (CONTRACT 2.3), which knows times and
            tools; used where it holds any turn.
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
    """Lines without a label go on with the turn before them."""
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
