"""Removes secrets from JSON: by the names of members, and from texts by their form.

For JSON without published fields, such as extracted data. JSON with published fields is redacted by
``allow_list.py``, which uses ``shape`` for the rest. The callers' own data (numbers, transcripts,
names) is kept: the tables exist for it (decision 15, REQUIREMENTS X7).
"""

import math
import re
from enum import Enum, auto
from functools import lru_cache
from typing import Any, Final

from voiceai_pipeline.highlevel.credentials import REDACTED, bare_url, without_credentials

_SECRET_NAME: Final = re.compile(
    r"authenticationvalue|authorization|secret|passw|pwd|bearer|credential|cookie|signature"
    r"|(api|access|private|subscription)[-_ ]?key|(access|refresh|auth|session)[-_ ]?token|token$",
    re.IGNORECASE,
)
_URL_NAME: Final = re.compile(r"(url|uri|endpoint)$", re.IGNORECASE)


class _Name(Enum):
    """What a member's name says about its value."""

    PLAIN = auto()
    PART = auto()
    """A secret if a sibling member says so: ``{"name": "api_key", "value": ...}``."""
    SECRET = auto()
    HEADERS = auto()
    SECRET_HEADERS = auto()
    ADDRESS = auto()


@lru_cache(maxsize=4096)
def _meaning(name: str) -> _Name:
    """What a name says. Cached: most names recur in every call; extracted data's vary by user."""
    are_headers = name.lower().endswith("headers")
    if _SECRET_NAME.search(name):
        return _Name.SECRET_HEADERS if are_headers else _Name.SECRET
    if are_headers:
        return _Name.HEADERS
    if _URL_NAME.search(name):
        return _Name.ADDRESS
    return _Name.PART if name.lower() in ("value", "example", "default") else _Name.PLAIN


def redact(value: Any) -> Any:
    """A copy of a JSON value without members whose names say that they are secret. Not yet safe:
    pass it to ``clean``."""
    kind = type(value)
    if kind is dict:
        redacted = {}
        for name, item in value.items():
            meaning = _meaning(name)
            if meaning is _Name.PLAIN:
                redacted[name] = redact(item)
            else:
                is_secret = meaning is _Name.PART and _names_a_secret(value)
                redacted[name] = _member(meaning, item, is_secret)
        return redacted
    if kind is list:
        return [redact(item) for item in value]
    return value


def clean(value: Any) -> Any:
    """A copy of a JSON value without credentials in its texts and names, and without characters
    and numbers that PostgreSQL cannot store."""
    kind = type(value)
    if kind is str:
        return clean_text(value)
    if kind is dict:
        return {clean_text(name): clean(item) for name, item in value.items()}
    if kind is list:
        return [clean(item) for item in value]
    return value if kind is not float or math.isfinite(value) else None


NUMBER: Final = "[redacted number]"
"""Replaces a number; ``REDACTED`` replaces a text."""

_LONGEST_NAME: Final = 64
"""Most characters of a name; a longer one may be a value, and is redacted."""


def shape(value: Any) -> Any:
    """The names and types of a JSON value. Flags, nulls and empty texts stay: they reveal nothing.

    A value and its redacted copy have the same shape, so that rules that were added later can be
    applied to stored values.
    """
    return _types(redact(value))


def _types(value: Any) -> Any:
    kind = type(value)
    if kind is dict:
        return {
            name if len(name) <= _LONGEST_NAME else REDACTED: _types(item)
            for name, item in value.items()
        }
    if kind is list:
        return [_types(item) for item in value]
    if kind is str:
        return value if value in ("", NUMBER) else REDACTED
    if kind is float and not math.isfinite(value):
        return None
    return value if value is None or kind is bool else NUMBER


def clean_text(value: str) -> str:
    """A text without credentials, and without characters that PostgreSQL cannot store."""
    return without_credentials(_text(value))


def _names_a_secret(value: dict[str, Any]) -> bool:
    return any(
        isinstance(name, str) and _SECRET_NAME.search(name)
        for key, name in value.items()
        if key.lower() in ("name", "key")
    )


def _member(meaning: _Name, item: Any, is_secret: bool) -> Any:
    """The redacted value of a member whose name says what it holds.

    Args:
        is_secret: a sibling member says that this one is a secret.
    """
    if is_secret:
        return REDACTED
    if item is None:
        return None
    if meaning is _Name.SECRET_HEADERS:
        return REDACTED
    if meaning is _Name.SECRET and not isinstance(item, bool):
        return REDACTED
    if meaning is _Name.HEADERS:
        return without_header_values(item)
    if meaning is _Name.ADDRESS and isinstance(item, str):
        return bare_address(item)
    return redact(item)


def without_header_values(headers: Any) -> Any:
    """Keep header names and remove the values: any of them may be an API key."""
    match headers:
        case list():
            return [
                {
                    k: v if k in ("key", "name") and isinstance(v, str) else REDACTED
                    for k, v in header.items()
                }
                if isinstance(header, dict)
                else REDACTED
                for header in headers
            ]
        case dict():
            return dict.fromkeys(headers, REDACTED)
        case None:
            return None
        case _:
            return REDACTED


def bare_address(value: str) -> str:
    """Only scheme and host of the value of a URL field; the scheme may be missing."""
    text = value.strip()
    return without_credentials(text) if "://" in text or re.search(r"\s", text) else bare_url(text)


def _text(value: str) -> str:
    """The text without NUL and lone surrogates, which PostgreSQL cannot store."""
    if value.isascii() and "\x00" not in value:
        return value
    return value.replace("\x00", "\ufffd").encode("utf-8", "replace").decode("utf-8")
