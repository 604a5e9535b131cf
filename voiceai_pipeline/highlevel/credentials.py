"""Removes credentials from free text, whether a caller, an agent or a configuration wrote it.

They are recognized by their form: authorization headers, bearer and basic credentials, connection
strings. A URL keeps only scheme and host, because any other part may hold a key. What a caller says
about passwords in ordinary words stays: it is the conversation (decision 15).
"""

import base64
import re
import string
from typing import Final

REDACTED: Final = "[redacted]"

_ASSIGNMENTS: Final = ("=", '":', "':", "key:")
_HINTS: Final = tuple(
    hint.replace('"', '\\"').encode()
    for hint in (*_ASSIGNMENTS, "//", "\\/", "bearer", "basic", "authori")
)
"""Any JSON with a credential in one of its texts contains one of these once it is in lower case."""

_URL: Final = re.compile(r"([a-z][a-z0-9+.-]{0,20}):\\?/\\?/(\S*)", re.IGNORECASE)
_HOST: Final = re.compile(r"(?:\[[0-9a-f:.]+\]|[\w-]+(?:\.[\w-]+)*)(?::\d{1,5}(?!\d))?", re.I)
_AFTER: Final = re.compile(r"[.,;:!?)]*$")

_BETWEEN: Final = r"(?:[\s\"'\\:=+,]|%20)+"
_SCHEMES: Final = re.compile(
    rf"((?:\b(?:bearer|basic){_BETWEEN})+)([A-Za-z0-9._~+/=:-]+)", re.IGNORECASE
)
_WORD: Final = re.compile(r"[A-Z]?[a-z]{0,19}(?:-[a-z]{1,19}){0,3}[.:]*")

_AUTHORIZATION: Final = re.compile(
    r"(authori[sz]ation[\"'\\]*\s*[:=][\s\"'\\]*)((?:[A-Za-z][A-Za-z0-9-]*\s+)?[^\s\"'\\,;]+)",
    re.IGNORECASE,
)

_NAME: Final = (
    r"(?:pass(?:word|wd|phrase|code)?|pwd|secret|token|credentials?|signature|sig"
    r"|(?:api|access|account|private|secret|signing|subscription|shared|auth)[-_ ]?key)"
)
_VALUE: Final = r"(\[redacted\]|\{[^}]*\}|\\*\"[^\"\\]*|\\*'[^'\\]*|[^\s;&,\"'\\)}\]]+)"
_ASSIGNED: Final = re.compile(
    rf"((?:{_NAME}\w{{0,20}}[\"'\\]*\s*=\s*"
    rf"|{_NAME}\w{{0,20}}\\*[\"']\s*:\s*"
    rf"|\w[-_]?key:\s*)){_VALUE}",
    re.IGNORECASE,
)
"""``Pwd=...`` of a connection string, ``"password": ...`` of JSON, ``x-api-key: ...`` of a
header."""


def may_hold_credentials(content: bytes) -> bool:
    """False if ``without_credentials`` would change no text of this JSON. Much cheaper than
    checking each text; may be True although none would change."""
    lower = content.lower()
    return any(hint in lower for hint in _HINTS)


def text_may_hold_credentials(text: str) -> bool:
    """False if ``without_credentials`` would not change this text; may be True even so."""
    # Bytes are searched faster than characters, a single one faster than two, and two from the end
    # faster than from the start.
    folded = text.encode().translate(_FOLDED)
    return (
        b"=" in folded
        or (b"/" in folded and (b"//" in folded or b"\\/" in folded))
        or folded.rfind(b'":') >= 0
        or b"key:" in folded
        or b"bearer" in folded
        or b"basic" in folded
        or b"authori" in folded
    )


_FOLDED: Final = bytes.maketrans(
    string.ascii_uppercase.encode() + b"'", string.ascii_lowercase.encode() + b'"'
)


def without_credentials(text: str) -> str:
    """The text with ``REDACTED`` instead of credentials. Idempotent."""
    lower = text.lower()
    if "//" in text or "\\/" in text:
        text = _URL.sub(lambda url: bare_url(url[0]), text)
    if "authori" in lower:
        text = _AUTHORIZATION.sub(rf"\1{REDACTED}", text)
    if "bearer" in lower or "basic" in lower:
        text = _SCHEMES.sub(_without_credential, text)
    if any(hint in lower for hint in _ASSIGNMENTS):
        text = _ASSIGNED.sub(_without_value, text)
    return text


def bare_url(url: str) -> str:
    """Scheme and host of a URL, and the punctuation after it; ``REDACTED`` if it has no host."""
    found = _URL.match(url)
    scheme, rest = (found[1], found[2]) if found else ("", url.lstrip("/\\"))
    authority = re.split(r"[/?#\\]", rest, maxsplit=1)[0].rpartition("@")[2]
    after = _AFTER.search(rest)
    host = _HOST.match(authority)
    if not host:
        return REDACTED
    return f"{scheme}://{host[0]}{after[0] if after else ''}" if scheme else host[0]


def _without_credential(found: re.Match[str]) -> str:
    before, value = found.groups()
    if "basic" in before.lower() and "bearer" not in before.lower():
        is_credential = _is_basic(value)
    else:
        is_credential = len(value) >= 6 and not _WORD.fullmatch(value)
    return before + REDACTED if is_credential else found[0]


def _is_basic(value: str) -> bool:
    """Whether it is user and password in base64, or at least does not look like a word."""
    plain = value.rstrip("=:.").translate(str.maketrans("-_", "+/"))
    try:
        decoded = base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except ValueError:
        decoded = b""
    if b":" in decoded and decoded.isascii():
        return True
    return len(value) >= 8 and re.search(r"\d|=$|[a-z][A-Z]", value) is not None


def _without_value(found: re.Match[str]) -> str:
    value = found[2]
    opening = re.match(r"\\*[\"']|\{", value)
    closing = "}" if value.endswith("}") and value.startswith("{") else ""
    return f"{found[1]}{opening[0] if opening else ''}{REDACTED}{closing}"
