"""Cleans text from outside, such as a name, a key or an error of HighLevel's, for every medium.

Such a text is data. Here it becomes one line of bounded length that cannot move a terminal's cursor
or turn the direction of the text around it. What else a medium gives a meaning to (Markdown, a
spreadsheet, a terminal's markup) is made harmless where that medium is written.
"""

import re
from typing import Final

NAME_LENGTH: Final = 80
"""The most characters of a name that a screen shows."""

SENTENCE_LENGTH: Final = 1_000
"""The most characters of a sentence, such as an error with its fix, that a screen shows."""

_LINE_LENGTH: Final = 10_000

_BREAKS: Final = re.compile(r"[\s\x85\u2028\u2029]+")
_BREAK: Final = re.compile(r"[^\S ]")

# Controls (C0, C1); invisible characters without a meaning in a name, whose joiner the Markdown
# needs for itself; embeddings, overrides and isolates of the direction; halves of characters,
# which no file and no socket takes. Marks and joiners that languages and emoji need stay.
_DROPPED: Final = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u200b\u2060\ufeff\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(text: str) -> str:
    """Several lines of ours, each of which may quote foreign text, for a terminal.

    Spaces stay, because they indent and align our lines.
    """
    lines = (_BREAK.sub(" ", _DROPPED.sub("", line)) for line in text.split("\n"))
    return "\n".join(
        line if len(line) <= _LINE_LENGTH else f"{line[: _LINE_LENGTH - 1]}…" for line in lines
    )


def cleaned(text: str, limit: int = SENTENCE_LENGTH) -> str:
    """The text as one line of at most ``limit`` characters, as it was typed apart from that."""
    line = _BREAKS.sub(" ", _DROPPED.sub("", text[: limit * 4])).strip()
    is_long = len(line) > limit or len(text) > limit * 4
    return f"{line[: limit - 1].rstrip()}…" if is_long else line
