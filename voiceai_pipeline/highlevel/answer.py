"""An answer of HighLevel, read whole. What it means is in ``errors.py``."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import requests


@dataclass(frozen=True)
class Answer:
    """An HTTP answer.

    Attributes:
        request: what it answers, with the secrets that were sent.
        headers: by name in any case.
        content: the body, decompressed.
    """

    request: requests.PreparedRequest = field(repr=False)
    status: int
    headers: Mapping[str, str] = field(repr=False)
    content: bytes = field(repr=False)

    @property
    def text(self) -> str:
        """The body in the charset that the headers name, else in UTF-8; bytes outside of it are
        replaced."""
        return self._decoded(self._charset or "utf-8")

    def json(self) -> Any:
        """The body as JSON.

        Raises:
            ValueError, RecursionError: it is none.
        """
        return json.loads(self._decoded(self._charset or json.detect_encoding(self.content)))

    @property
    def _charset(self) -> str | None:
        named = requests.utils.get_encoding_from_headers(self.headers)
        return str(named) if named else None

    def _decoded(self, charset: str) -> str:
        try:
            return self.content.decode(charset, "replace")
        except LookupError:
            return self.content.decode("utf-8", "replace")
