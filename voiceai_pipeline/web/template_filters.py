"""Presentation of single values in templates: times, colours, and fixes in terms of buttons."""

import re
from datetime import datetime
from typing import Final
from zoneinfo import ZoneInfo

from voiceai_pipeline.core.connection import Connection, ConnectionState

_COMMAND: Final = re.compile(
    r"(^|:? )voiceai-pipeline (connect|check|resume) (?:USER|[0-9a-f-]{36})"
    "(?: --private-token)?"
)
_VERBS: Final = {"connect": "Connect", "check": "Test", "resume": "Resume"}

_TONES: Final = {
    ConnectionState.CONNECTED: "good",
    ConnectionState.EXPIRING: "good",
    ConnectionState.REFRESHING: "good",
    ConnectionState.IN_DOUBT: "warn",
    ConnectionState.PAUSED: "warn",
    ConnectionState.NEEDS_RECONNECT: "bad",
    ConnectionState.DISCONNECTED: "plain",
    ConnectionState.NEVER_CONNECTED: "plain",
}

_UNITS: Final = (("day", 86400), ("hour", 3600), ("minute", 60))


def on_page(text: str) -> str:
    """A fix in terms of the page's buttons instead of the command line's commands."""

    def button(found: re.Match[str]) -> str:
        return " with the button here" if found[1] else f"{_VERBS[found[2]]} with the button here"

    return _COMMAND.sub(button, text)


def tone(connection: Connection) -> str:
    """The colour of a connection's tag: good, warn, bad or plain. Its text says the same."""
    found = _TONES[connection.status]
    if found != "good":
        return found
    if connection.obstacle is not None:
        return "bad"
    is_odd = connection.pause or connection.failed_attempts or connection.rotation_is_due
    return "warn" if is_odd else "good"


def moment(at: datetime, zone: ZoneInfo) -> str:
    """A time in ``zone``, such as ``20 Nov 2026, 14:05 UTC``."""
    local = at.astimezone(zone)
    return f"{local.day} {local:%b %Y, %H:%M} {local:%Z}"


def distance(at: datetime, now: datetime) -> str:
    """A relative time, such as ``3 hours ago`` or ``in 20 minutes``."""
    seconds = int((now - at).total_seconds())
    for unit, length in _UNITS:
        number = abs(seconds) // length
        if number:
            words = f"{number} {unit}{'s' if number > 1 else ''}"
            return f"{words} ago" if seconds > 0 else f"in {words}"
    return "just now" if seconds >= 0 else "in a moment"
