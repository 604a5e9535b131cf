"""Writes Markdown for Dagster's UI with texts from outside in it.

The UI renders as Markdown: Markdown metadata, and the descriptions of checks, their results,
observations and materializations. It loads every picture that such a text names, from its own
address too, where a single GET can change things; so a foreign text must never be markup. Messages
of runs, errors of failures, text metadata and reasons of ticks are shown as they are:
``foreign_text.cleaned`` is enough for those, and a backslash of this module would be seen.
"""

import re
from collections.abc import Callable, Sequence
from typing import Final

from voiceai_pipeline.core.foreign_text import SENTENCE_LENGTH, cleaned

Shown = Callable[[str, int], str]
"""Formats a foreign text for a medium, cut to a number of characters: ``shown``, ``cleaned``."""


class Markup(str):
    """Markdown: what stands in it means what it says. ``shown`` makes it of any text."""

    __slots__ = ()


# An underscore inside a word is one already.
_ANYWHERE: Final = re.compile(r"[!&*<\[\\\]`|~]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
# Before the bar that ends a cell some parsers would take the second of two for one that escapes it.
_AT_END: Final = re.compile(r"\\\\$")
# What makes a list, a heading, a quote or a rule of a line that begins with it.
_AT_START: Final = re.compile(r"^(|\d{1,9}(?=[.)](?: |$)))([-+=:.)#>])")
# GFM links addresses wherever they stand, and after escapes are resolved; an invisible joiner in
# the middle leaves nothing to link, and is not seen.
_ADDRESS: Final = re.compile(r"(?i)(?<=http)(?=://)|(?<=https)(?=://)|(?<=www)(?=\.)|(?=@)")
JOINER: Final = "\N{WORD JOINER}"


def shown(text: str, limit: int = SENTENCE_LENGTH) -> Markup:
    """A foreign text such that it reads as it was typed, on one line, wherever it is put."""
    line = _AT_START.sub(r"\1\\\2", _ANYWHERE.sub(r"\\\g<0>", cleaned(text, limit)))
    return Markup(_ADDRESS.sub(JOINER, _AT_END.sub("&#92;", line)))


def table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """The lines of a table: heads, a rule, the rows. A cell that is no ``Markup`` is escaped."""
    return [_row(heads), _row([Markup("--")] * len(heads)), *map(_row, rows)]


UNKNOWN: Final = "\N{EN DASH}"
"""A number that is not known: never 0."""


def _row(cells: Sequence[object]) -> str:
    return f"|{'|'.join(map(_cell, cells))}|"


def _cell(value: object) -> str:
    if value is None:
        return UNKNOWN
    return value if isinstance(value, Markup) else shown(str(value))
