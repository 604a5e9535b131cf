"""A response from HighLevel, read in full. ``errors.py`` says what it means."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import requests


@dataclass(frozen=True)
class Answer:
    """An HTTP response.

    Attributes:
        request: as sent, secrets included.
        headers: names are case-insensitive.
        content: the body, decompressed.
    """

    request: requests.PreparedRequest = field(repr=False)
    status: int
    headers: Mapping[str, str] = field(repr=False)
    content: bytes = field(repr=False)

    @property
    def text(self) -> str:
        """The body, decoded by the headers' charset, else UTF-8; invalid bytes are replaced."""
        return self._decoded(self._charset or "utf-8")

    def json(self) -> Any:
        """The body as JSON.

        Raises:
            ValueError, RecursionError: it is not JSON.
        """
        text = self._decoded(self._charset or json.detect_encoding(self.content))
        return json.loads(text.removeprefix("\ufeff"), parse_int=whole_or_text)

    @property
    def _charset(self) -> str | None:
        named = requests.utils.get_encoding_from_headers(self.headers)
        return str(named) if named else None

    def _decoded(self, charset: str) -> str:
        try:
            return self.content.decode(charset, "replace")
        except LookupError:
            return self.content.decode("utf-8", "replace")


def whole_or_text(digits: str) -> int | str:
    """A JSON integer; as text if it has more digits than Python converts."""
    try:
        return int(digits)
    except ValueError:
        return digits
