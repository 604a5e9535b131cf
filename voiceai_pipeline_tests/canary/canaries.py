"""The canaries, and finding one in any form.

Their values are computed, so no file of the project holds one: whatever has one was recorded from a
run.
"""

import base64
import gzip
import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Iterator
from functools import cache
from typing import Final
from urllib.parse import quote

_SHOWN: Final = 12
"""Characters of a canary by which it is recognized, also where the rest was cut off."""


def _invented(name: str, length: int) -> str:
    digest = hashlib.sha256(f"voiceai canary {name}".encode()).digest()
    return base64.b32encode(digest).decode().lower()[:length]


def _number(name: str) -> str:
    return f"+1555{int(hashlib.sha256(name.encode()).hexdigest(), 16) % 10**7:07d}"


CANARIES: Final = {
    # As long as what the sandbox has in their place (``highlevel.py``).
    "access token": _invented("access token", len("SANDBOX-ACCESS")),
    "refresh token": _invented("refresh token", len("SANDBOX-REFRESH")),
    "auth code": _invented("auth code", len("SANDBOX-CODE")),
    "client secret": _invented("client secret", len("SANDBOX-CLIENT-SECRET-0f3a")),
    "private token": _invented("private token", 30),
    "password": _invented("password", 24),
    "authenticationValue": _invented("authenticationValue", 24),
    "header value": _invented("header value", 24),
    "phone": _number("phone"),
    "transcript word": _invented("transcript word", 18),
}


@cache
def forms(value: str) -> dict[str, tuple[bytes, ...]]:
    """The seven encodings in which a text may turn up, each as what to search for."""
    shown = value[:_SHOWN]
    plain = shown.encode()
    every = [_base64(plain, before) for before in range(3)]
    return {
        "plain": (value.encode(),),
        "prefix": (plain,),
        "base64": tuple(every),
        "base64url": tuple(text.replace(b"+", b"-").replace(b"/", b"_") for text in every),
        "urlencoded": (quote(shown, safe="").encode(),),
        "json": (json.dumps(shown)[1:-1].encode(),),
        "hex": (plain.hex().encode(), plain.hex().upper().encode()),
    }


def _base64(text: bytes, before: int) -> bytes:
    """What base64 makes of a text after so many other bytes, without the characters that depend on
    its neighbours."""
    whole = base64.b64encode(b"\0" * before + text)
    return whole[-(-8 * before // 6) : 8 * (before + len(text)) // 6]


def found(data: bytes) -> set[str]:
    """The names of the canaries that stand in the data, in any form, also where it is packed."""
    return {
        name
        for part in unpacked(data)
        for name, value in CANARIES.items()
        if any(one in part for every in forms(value).values() for one in every)
    }


def unpacked(data: bytes) -> Iterator[bytes]:
    """The data, and what it holds if it is compressed or an archive."""
    yield data
    if data[:2] == b"\x1f\x8b":
        yield gzip.decompress(data)
    elif data[:1] == b"\x78":
        try:
            yield zlib.decompress(data)
        except zlib.error:
            return
    elif data[:4] == b"PK\x03\x04":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for name in archive.namelist():
                yield name.encode()
                yield archive.read(name)
