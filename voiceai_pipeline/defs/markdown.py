"""Writes Markdown for Dagster's UI that contains foreign texts.

The UI renders as Markdown: Markdown metadata, and the descriptions of checks, their results,
observations and materializations. It loads every image that such a text links, even from the UI's
own address, where a single GET can change things. So a foreign text must never become markup. The
UI shows run messages, failures, text metadata and skip reasons as plain text, with any backslash:
for those, use ``foreign_text.cleaned``.
"""

import re
from collections.abc import Callable, Sequence
from typing import Final

from voiceai_pipeline.core.foreign_text import JOINER, SENTENCE_LENGTH, cleaned

Shown = Callable[[str, int], str]
"""Formats a foreign text for a medium, cut to a number of characters: ``shown`` or ``cleaned``."""


class Markup(str):
    """Text that is Markdown already and must not be escaped. ``shown`` makes it from any text."""

    __slots__ = ()


# An underscore inside a word is never markup.
_ANYWHERE: Final = re.compile(r"[!&*<\[\\\]`|~]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
# Before the bar that ends a cell, some parsers take the second of two backslashes for its escape.
_AT_END: Final = re.compile(r"\\\\$")
# At the start of a line, these begin a list, a heading, a quote or a rule.
_AT_START: Final = re.compile(r"^(|\d{1,9}(?=[.)](?: |$)))([-+=:.)#>])")
# GFM links addresses anywhere, and does so after it has resolved escapes. A word joiner, which is
# invisible, prevents that.
_ADDRESS: Final = re.compile(r"(?i)(?<=http)(?=://)|(?<=https)(?=://)|(?<=www)(?=\.)|(?=@)")


def shown(text: str, limit: int = SENTENCE_LENGTH) -> Markup:
    """A foreign text as Markdown that reads as it was typed, on one line, wherever it is put."""
    line = _AT_START.sub(r"\1\\\2", _ANYWHERE.sub(r"\\\g<0>", cleaned(text, limit)))
    return Markup(_ADDRESS.sub(JOINER, _AT_END.sub("&#92;", line)))


def table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """The lines of a table: header, rule, rows. Cells that are not ``Markup`` are escaped."""
    return [_row(heads), _row([Markup("--")] * len(heads)), *map(_row, rows)]


UNKNOWN: Final = "\N{EN DASH}"
"""Stands for an unknown number, which is never shown as 0."""


def _row(cells: Sequence[object]) -> str:
    return f"|{'|'.join(map(_cell, cells))}|"


def _cell(value: object) -> str:
    if value is None:
        return UNKNOWN
    return value if isinstance(value, Markup) else shown(str(value))
