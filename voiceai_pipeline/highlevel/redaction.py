"""Removes secrets from a call before it is stored (decision 15, REQUIREMENTS X7).

Call actions hold secrets of third parties: ``apiDetails.authenticationValue``, header values,
credentials in URLs (CONTRACT 2.4). The callers' own data (numbers, transcripts, names) is kept: the
tables exist for it.
"""

import math
import re
from enum import Enum, auto
from functools import lru_cache
from typing import Any, Final
from urllib.parse import urlsplit

REDACTED: Final = "[redacted]"

_SECRET_NAME: Final = re.compile(
    r"authenticationvalue|authorization|secret|passw|pwd|bearer|credential|cookie|signature"
    r"|(api|access|private|subscription)[-_ ]?key|(access|refresh|auth|session)[-_ ]?token|token$",
    re.IGNORECASE,
)
_URL: Final = re.compile(r"\b[a-z][a-z0-9+.-]{0,20}://\S+", re.IGNORECASE)
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
    """Cached: most names are the same in every call; those of extracted data vary by user."""
    are_headers = name.lower().endswith("headers")
    if _SECRET_NAME.search(name):
        return _Name.SECRET_HEADERS if are_headers else _Name.SECRET
    if are_headers:
        return _Name.HEADERS
    if _URL_NAME.search(name):
        return _Name.ADDRESS
    return _Name.PART if name.lower() in ("value", "example", "default") else _Name.PLAIN


@lru_cache(maxsize=4096)
def _are_plain(names: tuple[str, ...]) -> bool:
    return all(_meaning(name) is _Name.PLAIN for name in names)


def is_plain(value: Any) -> bool:
    """True if ``redact`` changes nothing in this JSON value, unless a text in it has ``://``, a NUL
    or a lone surrogate, or a number is NaN or infinite.

    It checks names only, in a fraction of the time of a copy.
    """
    kind = type(value)
    if kind is dict:
        if not _are_plain(tuple(value)):
            return False
        items = value.values()
    elif kind is list:
        items = value
    else:
        return True
    for item in items:
        kind = type(item)
        if (kind is dict or kind is list) and not is_plain(item):
            return False
    return True


def redact(value: Any) -> Any:
    """A copy of a JSON value without secrets, and without text that PostgreSQL cannot store."""
    kind = type(value)
    if kind is str:
        if value.isascii() and "://" not in value and "\x00" not in value:
            return value
        return _bare_urls(_text(value))
    if kind is dict:
        redacted = {}
        for name, item in value.items():
            meaning = _meaning(name)
            if meaning is _Name.PLAIN:
                redacted[_name(name)] = redact(item)
            else:
                is_secret = meaning is _Name.PART and _names_a_secret(value)
                redacted[_name(name)] = _member(meaning, item, is_secret)
        return redacted
    if kind is list:
        return [redact(item) for item in value]
    return value if kind is not float or math.isfinite(value) else None


@lru_cache(maxsize=4096)
def _name(name: str) -> str:
    return _text(name)


def _names_a_secret(value: dict[str, Any]) -> bool:
    return any(
        isinstance(name, str) and _SECRET_NAME.search(name)
        for key, name in value.items()
        if key.lower() in ("name", "key")
    )


def _member(meaning: _Name, item: Any, is_secret: bool) -> Any:
    """The value of a member whose name is not plain.

    Args:
        is_secret: according to a sibling member.
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
        return _without_values(item)
    if meaning is _Name.ADDRESS and isinstance(item, str):
        return _bare_address(_text(item).strip())
    return redact(item)


def _without_values(headers: Any) -> Any:
    """Keep header names and remove the values: any of them may be an API key."""
    match headers:
        case list():
            return [
                {
                    _text(k): _text(v) if k in ("key", "name") and isinstance(v, str) else REDACTED
                    for k, v in header.items()
                }
                if isinstance(header, dict)
                else REDACTED
                for header in headers
            ]
        case dict():
            return dict.fromkeys(map(_text, headers), REDACTED)
        case None:
            return None
        case _:
            return REDACTED


def _bare_address(text: str) -> str:
    """The value of a field whose name says that it is a URL, with or without a scheme."""
    if "://" in text or re.search(r"\s", text):
        return _bare_urls(text)
    prefix = "" if text.startswith("//") else "//"
    return _bare_url(prefix + text).removeprefix(prefix)


def _bare_urls(text: str) -> str:
    return _URL.sub(lambda url: _bare_url(url.group()), text) if "://" in text else text


def _bare_url(url: str) -> str:
    """The URL without user info, query and fragment, where keys and tokens are."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return REDACTED
    if not (parts.query or parts.fragment or "@" in parts.netloc):
        return url
    scheme = f"{parts.scheme}:" if parts.scheme else ""
    query = f"?{REDACTED}" if parts.query else ""
    # urlunsplit would drop the slashes of a scheme it does not know.
    return f"{scheme}//{parts.netloc.rpartition('@')[2]}{parts.path}{query}"


def _text(value: str) -> str:
    """PostgreSQL stores neither NUL nor a lone surrogate; the rest is unchanged."""
    if value.isascii() and "\x00" not in value:
        return value
    return value.replace("\x00", "\ufffd").encode("utf-8", "replace").decode("utf-8")
