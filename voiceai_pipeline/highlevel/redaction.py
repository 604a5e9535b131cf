"""What is taken out of a call before anything is stored (DESIGN 7, REQUIREMENTS X7).

Call actions carry secrets of third parties: ``apiDetails.authenticationValue``, header values,
credentials in URLs (CONTRACT 2.4). People's own data (numbers, transcripts, names) stays: it is
what the tables are for.
"""

import math
import re
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


def redact(value: Any) -> Any:
    """A copy of a JSON value without secrets, and without what PostgreSQL cannot store as text."""
    match value:
        case dict():
            names_a_secret = any(
                isinstance(name, str) and _SECRET_NAME.search(name)
                for key, name in value.items()
                if key.lower() in ("name", "key")
            )
            return {
                _text(str(key)): REDACTED
                if names_a_secret and key.lower() in ("value", "example", "default")
                else _member(str(key), item)
                for key, item in value.items()
            }
        case list():
            return [redact(item) for item in value]
        case str():
            return _bare_urls(_text(value))
        case float():
            return value if math.isfinite(value) else None
        case _:
            return value


def _member(key: str, item: Any) -> Any:
    if _SECRET_NAME.search(key) and item is not None and not isinstance(item, bool):
        return REDACTED
    if key.lower().endswith("headers"):
        return _without_values(item)
    if isinstance(item, str) and _URL_NAME.search(key):
        return _bare_address(_text(item).strip())
    return redact(item)


def _without_values(headers: Any) -> Any:
    """Header names stay, header values go: any of them may be an API key."""
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
    """The value of a field that is called a URL, also where it leaves out its scheme."""
    if "://" in text or re.search(r"\s", text):
        return _bare_urls(text)
    prefix = "" if text.startswith("//") else "//"
    return _bare_url(prefix + text).removeprefix(prefix)


def _bare_urls(text: str) -> str:
    return _URL.sub(lambda url: _bare_url(url.group()), text) if "://" in text else text


def _bare_url(url: str) -> str:
    """The URL without user info, query values and fragment, where keys and tokens travel."""
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
    """PostgreSQL stores neither NUL nor half a surrogate pair; the rest is untouched."""
    return value.replace("\x00", "\ufffd").encode("utf-8", "replace").decode("utf-8")
