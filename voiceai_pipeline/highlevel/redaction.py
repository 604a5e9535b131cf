"""What is taken out of a call before anything is stored (DESIGN 7, REQUIREMENTS X7).

Call actions carry secrets of third parties: ``apiDetails.authenticationValue``, header values,
credentials in URLs (CONTRACT 2.4). People's own data (numbers, transcripts, names) stays: it is
what the tables are for.
"""

import re
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

REDACTED: Final = "[redacted]"

_SECRET_NAME: Final = re.compile(
    r"authenticationvalue|authorization|secret|passw|api[-_]?key|bearer|credential|private[-_]?key"
    r"|(access|refresh|auth|id|session|bearer|api)[-_]?token|^token$|cookie|signature",
    re.IGNORECASE,
)
_URL: Final = re.compile(r"^[a-z][a-z0-9+.-]*://", re.IGNORECASE)


def redact(value: Any) -> Any:
    """A copy of a JSON value without secrets, and without what PostgreSQL cannot store as text."""
    match value:
        case dict():
            names_a_secret = any(
                isinstance(value.get(key), str) and _SECRET_NAME.search(value[key])
                for key in ("name", "key")
            )
            return {
                _text(str(key)): REDACTED
                if names_a_secret and key in ("value", "example", "default")
                else _member(str(key), item)
                for key, item in value.items()
            }
        case list():
            return [redact(item) for item in value]
        case str():
            return _bare_url(_text(value)) if _URL.match(value) else _text(value)
        case _:
            return value


def _member(key: str, item: Any) -> Any:
    if _SECRET_NAME.search(key) and item is not None and not isinstance(item, bool):
        return REDACTED
    return _without_values(item) if key.lower() == "headers" else redact(item)


def _without_values(headers: Any) -> Any:
    """Header names stay, header values go: any of them may be an API key."""
    match headers:
        case list():
            return [
                {_text(k): v if k in ("key", "name") else REDACTED for k, v in header.items()}
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


def _bare_url(url: str) -> str:
    """The URL without user info, query values and fragment, where keys and tokens travel."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return REDACTED
    query = REDACTED if parts.query else ""
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, query, ""))


def _text(value: str) -> str:
    """PostgreSQL stores neither NUL nor half a surrogate pair; the rest is untouched."""
    return value.replace("\x00", "\ufffd").encode("utf-8", "replace").decode("utf-8")
