"""Reads the list of users from the HTML of its page."""

import re


def names(html: str) -> list[str]:
    """The users of a list, in order."""
    return re.findall(
        r'<th role="rowheader" scope="row">(?:<input [^>]+> )?<a [^>]+>([^<]+)</a>', html
    )


def row(html: str, name: str) -> str:
    """The HTML of one user's row."""
    rows = re.findall(r"<tr role=\"row\"[^>]*>.*?</tr>", html, re.DOTALL)
    (found,) = [text for text in rows if f">{name}</a>" in text]
    return re.sub(r"\s+", " ", found)
