"""Cleans text from outside, such as a name, a key or a HighLevel error, for every medium.

It becomes one line of bounded length that cannot move a terminal's cursor or change the direction
of the text around it. Characters that are special in one medium only (Markdown, a spreadsheet, a
terminal's markup) are escaped where that medium is written.
"""

import re
from typing import Final

NAME_LENGTH: Final = 80
"""The most characters of a name that a screen shows."""

SENTENCE_LENGTH: Final = 1_000
"""The most characters of a sentence, such as an error with its fix, that a screen shows."""

JOINER: Final = "\N{WORD JOINER}"
"""Invisible; breaks an address, so that no program links it. ``cleaned`` drops foreign ones."""

# An address with a scheme or without one, and one of mail.
_ADDRESS: Final = re.compile(
    r"(?i)(?<=http)(?=s?://)|(?<=www)(?=\.)|(?=@)|(?<=[a-z0-9])(?=\.[a-z]{2})"
)

_LINE_LENGTH: Final = 10_000

_BREAKS: Final = re.compile(r"[\s\x85\u2028\u2029]+")
_BREAK: Final = re.compile(r"[^\S ]")

# Controls (C0, C1); invisible characters that mean nothing in a name (our Markdown itself inserts
# U+2060); embeddings, overrides and isolates of text direction; lone surrogates, which UTF-8 cannot
# encode. Marks and joiners that languages and emoji need stay.
_DROPPED: Final = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u200b\u2060\ufeff\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(text: str) -> str:
    """Our own lines, cleaned for a terminal, because each may quote foreign text.

    Spaces stay: they indent and align the lines.
    """
    lines = (_BREAK.sub(" ", _DROPPED.sub("", line)) for line in text.split("\n"))
    return "\n".join(
        line if len(line) <= _LINE_LENGTH else f"{line[: _LINE_LENGTH - 1]}…" for line in lines
    )


def unlinked(text: str) -> str:
    """A line of foreign text in which no mail program or chat finds a link."""
    return _ADDRESS.sub(JOINER, text)


def visible(text: str) -> str:
    """The text for HTML: spaces and line breaks stay; the dropped characters are removed."""
    return _DROPPED.sub("", text)


def cleaned(text: str, limit: int = SENTENCE_LENGTH) -> str:
    """The text as one line of at most ``limit`` characters, otherwise as it was typed."""
    line = _BREAKS.sub(" ", _DROPPED.sub("", text[: limit * 4])).strip()
    is_long = len(line) > limit or len(text) > limit * 4
    return f"{line[: limit - 1].rstrip()}…" if is_long else line
