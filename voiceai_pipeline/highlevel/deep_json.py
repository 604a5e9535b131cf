"""Cuts JSON that nests deeper than parsers allow, so that one member does not fail its page."""

import re
from typing import Final

DEEPEST: Final = 200
"""Levels that stay. Parsers fail at about a thousand, as does recursive code on their result."""

CUT: Final = '"nested too deeply"'

_TOKENS: Final = re.compile(r'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]', re.DOTALL)


def cut(text: str) -> str:
    """The JSON text with every value below ``DEEPEST`` levels replaced by a text that says so."""
    parts, depth, start = [], 0, 0
    for token in _TOKENS.finditer(text):
        bracket = token.group()
        if bracket in "[{":
            depth += 1
            if depth == DEEPEST + 1:
                parts += [text[start : token.start()], CUT]
        elif bracket in "]}":
            depth -= 1
            if depth == DEEPEST:
                start = token.end()
    return "".join([*parts, text[start:]])
