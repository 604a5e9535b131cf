"""What the environment says, read once and in one place.

Names, meanings and defaults of every variable live here; ``.env.example`` and the README's table
are held equal to ``VARIABLES`` by a test. Nothing here opens a connection or writes a file.
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from voiceai_pipeline.models import Secret

VARIABLES: Final[Mapping[str, str]] = {
    "VOICEAI_DATABASE_URL": "PostgreSQL for users, tokens and calls; unset: the embedded server",
    "DAGSTER_POSTGRES_URL": "PostgreSQL for Dagster's own tables, as postgresql+psycopg2://...; "
    "unset: the embedded server",
    "HIGHLEVEL_CLIENT_ID": "the app's client id in the HighLevel marketplace; unset: the sandbox",
    "HIGHLEVEL_CLIENT_SECRET": "the app's client secret; only ever on the server",
    "HIGHLEVEL_REDIRECT_URI": "where HighLevel sends the browser after consent",
    "HIGHLEVEL_AUTH_URL": "the authorize page",
    "HIGHLEVEL_TOKEN_URL": "the token endpoint",
    "HIGHLEVEL_API_URL": "the API's base URL",
    "HIGHLEVEL_API_VERSION": "dated (2021-04-15 and 2021-07-28, the default) or v3",
    "VOICEAI_TOKEN_KEYS": "keys that encrypt tokens at rest: id:base64 of 32 bytes, newest first, "
    "comma separated; unset: a generated key file beside the embedded server",
    "VOICEAI_TIMEZONE": "the IANA zone whose days are the partitions; default UTC",
    "VOICEAI_START_DATE": "the first day that can be synced, YYYY-MM-DD; default 2025-01-01",
    "VOICEAI_SANDBOX_PORT": "where the sandbox listens on this machine; default 8790",
    "VOICEAI_HOME": "folder of the embedded server, key file and logs; default .voiceai",
}

_REAL: Final[Mapping[str, str]] = {
    "HIGHLEVEL_AUTH_URL": "https://marketplace.gohighlevel.com/v2/oauth/chooselocation",
    "HIGHLEVEL_TOKEN_URL": "https://services.leadconnectorhq.com/oauth/token",
    "HIGHLEVEL_API_URL": "https://services.leadconnectorhq.com",
}
_REDIRECT_URI: Final = "http://127.0.0.1:8791/oauth/callback"
API_VERSIONS: Final = ("dated", "v3")


class SettingsError(ValueError):
    """A variable has a value that cannot be used; the text says which, why and what to write."""


@dataclass(frozen=True)
class HighLevelSettings:
    """Where HighLevel is and as which app we speak to it."""

    client_id: str
    client_secret: Secret
    redirect_uri: str
    auth_url: str
    token_url: str
    api_url: str
    api_version: str
    is_sandbox: bool


@dataclass(frozen=True)
class Settings:
    """Everything configurable.

    Attributes:
        database_url: SQLAlchemy URL on psycopg 3; None means the embedded server.
        dagster_url: SQLAlchemy URL on psycopg2; None means the embedded server.
        token_keys: key id to 32 bytes, the first one encrypts; empty means the key file.
    """

    home: Path
    highlevel: HighLevelSettings
    timezone: ZoneInfo
    database_url: Secret | None = None
    dagster_url: Secret | None = None
    token_keys: Mapping[str, bytes] = field(default_factory=dict, repr=False)

    @classmethod
    def load(cls, env: Mapping[str, str]) -> "Settings":
        """Read the settings from ``env`` (usually ``os.environ``); an empty value counts as unset.

        Raises:
            SettingsError: a value cannot be used.
        """
        given = {name: value for name in VARIABLES if (value := env.get(name, "").strip())}
        return cls(
            home=Path(given.get("VOICEAI_HOME", ".voiceai")).absolute(),
            highlevel=_highlevel(given),
            timezone=timezone_of(given),
            database_url=_url(given, "VOICEAI_DATABASE_URL", "psycopg"),
            dagster_url=_url(given, "DAGSTER_POSTGRES_URL", "psycopg2"),
            token_keys=parse_keys(given.get("VOICEAI_TOKEN_KEYS", "")),
        )


def _highlevel(given: Mapping[str, str]) -> HighLevelSettings:
    client_id = given.get("HIGHLEVEL_CLIENT_ID")
    version = given.get("HIGHLEVEL_API_VERSION", "dated")
    if version not in API_VERSIONS:
        raise SettingsError(
            f"HIGHLEVEL_API_VERSION is {version!r}. Set it to one of: {', '.join(API_VERSIONS)}."
        )
    if client_id is None and "HIGHLEVEL_CLIENT_SECRET" in given:
        raise SettingsError(
            "HIGHLEVEL_CLIENT_SECRET is set but HIGHLEVEL_CLIENT_ID is not. Set both, or neither "
            "to use the sandbox."
        )
    if client_id is None:
        from voiceai_pipeline.sandbox.cast import SANDBOX_CLIENT_ID, SANDBOX_CLIENT_SECRET

        client_id, secret = SANDBOX_CLIENT_ID, SANDBOX_CLIENT_SECRET
        sandbox = f"http://127.0.0.1:{_port(given)}"
        urls = {
            "HIGHLEVEL_AUTH_URL": f"{sandbox}/v2/oauth/chooselocation",
            "HIGHLEVEL_TOKEN_URL": f"{sandbox}/oauth/token",
            "HIGHLEVEL_API_URL": sandbox,
        }
    elif "HIGHLEVEL_CLIENT_SECRET" not in given:
        raise SettingsError(
            "HIGHLEVEL_CLIENT_ID is set but HIGHLEVEL_CLIENT_SECRET is not. Set both, or neither "
            "to use the sandbox."
        )
    else:
        secret, urls = given["HIGHLEVEL_CLIENT_SECRET"], dict(_REAL)
    urls |= {name: given[name].rstrip("/") for name in urls if name in given}
    for name, url in urls.items():
        if not _is_safe(url):
            raise SettingsError(f"{name} must begin with https:// (plain http is for loopback).")
    return HighLevelSettings(
        client_id=client_id,
        client_secret=Secret(secret),
        redirect_uri=given.get("HIGHLEVEL_REDIRECT_URI", _REDIRECT_URI),
        auth_url=urls["HIGHLEVEL_AUTH_URL"],
        token_url=urls["HIGHLEVEL_TOKEN_URL"],
        api_url=urls["HIGHLEVEL_API_URL"],
        api_version=version,
        is_sandbox="HIGHLEVEL_CLIENT_ID" not in given,
    )


def _is_safe(url: str) -> bool:
    """Encrypted on the way, or never on its way."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        return False
    loopback = host in ("127.0.0.1", "localhost", "::1")
    return bool(host) and (parts.scheme == "https" or (parts.scheme == "http" and loopback))


def _port(given: Mapping[str, str]) -> int:
    text = given.get("VOICEAI_SANDBOX_PORT", "8790")
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise SettingsError(f"VOICEAI_SANDBOX_PORT is {text!r}. Write a port from 1 to 65535.")
    return int(text)


def timezone_of(env: Mapping[str, str]) -> ZoneInfo:
    """The zone whose days are the partitions.

    Raises:
        SettingsError: it is no IANA name.
    """
    name = env.get("VOICEAI_TIMEZONE", "").strip() or "UTC"
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise SettingsError(
            f"VOICEAI_TIMEZONE is {name!r}. Set it to an IANA name such as America/New_York."
        ) from error


def start_date_of(env: Mapping[str, str]) -> date:
    """The first partition.

    Raises:
        SettingsError: it is no date.
    """
    text = env.get("VOICEAI_START_DATE", "").strip() or "2025-01-01"
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise SettingsError(
            f"VOICEAI_START_DATE is {text!r}. Write a day as YYYY-MM-DD."
        ) from error


def _url(given: Mapping[str, str], name: str, driver: str) -> Secret | None:
    """The URL with the driver we use: people paste postgres://, postgresql:// or a driver."""
    url = given.get(name)
    if url is None:
        return None
    scheme, found, rest = url.partition("://")
    if not found or scheme.partition("+")[0] not in ("postgres", "postgresql"):
        raise SettingsError(f"{name} must be a PostgreSQL URL: postgresql://user@host:5432/name.")
    return Secret(f"postgresql+{driver}://{rest}")


def parse_keys(text: str) -> dict[str, bytes]:
    """Read a keyring ``id:base64,id:base64``; the first key encrypts, all of them decrypt.

    Raises:
        SettingsError: an entry is not an id, a colon and 32 bytes in base64. The key itself is
            never repeated in the text.
    """
    keys: dict[str, bytes] = {}
    for number, entry in enumerate(filter(None, (e.strip() for e in text.split(","))), start=1):
        key_id, _, encoded = entry.partition(":")
        try:
            key = base64.b64decode(encoded, validate=True)
        except ValueError:  # also for what is not ASCII
            key = b""
        if not key_id.isidentifier() or len(key) != 32 or key_id in keys:
            raise SettingsError(
                f"VOICEAI_TOKEN_KEYS: entry {number} is not usable. Write id:key, the id a word "
                "used once, the key 32 bytes in base64 (openssl rand -base64 32)."
            )
        keys[key_id] = key
    return keys
