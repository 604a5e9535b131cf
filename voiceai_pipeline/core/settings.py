"""What the environment says, read once and in one place.

Names, meanings and defaults of every variable live here; ``.env.example`` and the README's table
are held equal to ``VARIABLES`` by a test. Nothing here opens a connection or writes a file.
"""

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from ipaddress import ip_address
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from voiceai_pipeline.core.models import Secret

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
    "VOICEAI_PLAIN_TOKENS": "plain-text tokens of the source system: accept (the default; they are "
    "encrypted when they are renewed) or refuse",
    "VOICEAI_TIMEZONE": "the IANA zone whose days are the partitions; default UTC",
    "VOICEAI_START_DATE": "the first day that can be synced, YYYY-MM-DD; default 2025-01-01",
    "VOICEAI_SANDBOX_PORT": "where the sandbox listens on this machine; default 8790",
    "VOICEAI_HOME": "folder of the embedded server, key file and logs; default .voiceai",
    "VOICEAI_PAGE_HOST": "address the Connections page listens on; default 127.0.0.1",
    "VOICEAI_PAGE_PORT": "port of the Connections page; default 8791",
    "VOICEAI_PAGE_URL": "where people and links find the page, if a proxy stands before it or it "
    "listens on every address",
    "VOICEAI_PAGE_SECRET": "password of the page, 16 characters or more; needed on any address "
    "but loopback",
    "VOICEAI_DAGSTER_URL": "where people and links find Dagster's UI; default "
    "http://127.0.0.1:3000",
    "VOICEAI_READ_ONLY_PORT": "port on this machine of a second Dagster UI that can change "
    "nothing, for analysts; unset: none",
    "VOICEAI_API_KEY": "bearer key of /functions/v1, 16 characters or more; unset: they are off",
    "VOICEAI_ALLOWED_ORIGINS": "web pages that may call /functions/v1 from a browser, comma "
    "separated",
    "VOICEAI_ALERT_WEBHOOK_URL": "where alerts are posted as Slack-compatible JSON; unset: nowhere",
    "VOICEAI_ALERT_EMAIL_TO": "who gets alerts by e-mail, comma separated; unset: nobody",
    "VOICEAI_ALERT_EMAIL_FROM": "sender of these e-mails",
    "VOICEAI_SMTP_URL": "mail server: smtp://user:password@host:587 (STARTTLS) or smtps://...:465",
    "VOICEAI_ENGAGED_TURNS": "caller turns from which a call counts as engaged; default 2",
    "VOICEAI_ENGAGED_SECONDS": "seconds from which a call counts as engaged; default 10",
    "VOICEAI_GOAL_ACTIONS": "action types that reach a call's goal, comma separated; default "
    "APPOINTMENT_BOOKING",
    "VOICEAI_COST_PER_MINUTE": "price of a begun minute, for estimated_cost; unset: no estimate",
}

_REAL: Final[Mapping[str, str]] = {
    "HIGHLEVEL_AUTH_URL": "https://marketplace.gohighlevel.com/v2/oauth/chooselocation",
    "HIGHLEVEL_TOKEN_URL": "https://services.leadconnectorhq.com/oauth/token",
    "HIGHLEVEL_API_URL": "https://services.leadconnectorhq.com",
}
_PAGE_PORT: Final = 8791
_DAGSTER_URL: Final = "http://127.0.0.1:3000"
_MIN_SECRET: Final = 16
CALLBACK_PATH: Final = "/oauth/callback"
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
class PageSettings:
    """Where the Connections page is and who may use it.

    Attributes:
        url: where people find it, without a slash at the end.
        secret: the password; None is allowed on loopback only.
        dagster_url: where people find Dagster's UI, without a slash at the end.
        api_key: what callers of ``/functions/v1`` present; None: they are off.
        allowed_origins: web pages that may call ``/functions/v1`` from a browser.
    """

    host: str
    port: int
    url: str
    dagster_url: str
    secret: Secret | None = None
    api_key: Secret | None = None
    allowed_origins: tuple[str, ...] = ()


@dataclass(frozen=True)
class AlertSettings:
    """Who is told when a connection needs a person; the Dagster UI always is.

    Attributes:
        webhook_url: takes Slack-compatible JSON; secret, for whoever knows it can post there.
        smtp_url: ``smtp`` or ``smtps``, with user and password where the server wants them.
    """

    webhook_url: Secret | None = None
    email_to: tuple[str, ...] = ()
    email_from: str = ""
    smtp_url: Secret | None = None


@dataclass(frozen=True)
class MetricRules:
    """What the marts count by, where the definitions leave a choice.

    Attributes:
        engaged_turns, engaged_seconds: from how many caller turns and seconds a call is engaged.
        goal_actions: action types that reach a call's goal, sorted.
        cost_per_minute: price of a begun minute; None: no cost is estimated.
    """

    engaged_turns: int = 2
    engaged_seconds: int = 10
    goal_actions: tuple[str, ...] = ("APPOINTMENT_BOOKING",)
    cost_per_minute: Decimal | None = None


@dataclass(frozen=True)
class Settings:
    """Everything configurable.

    Attributes:
        database_url: SQLAlchemy URL on psycopg 3; None means the embedded server.
        dagster_url: SQLAlchemy URL on psycopg2; None means the embedded server.
        token_keys: key id to 32 bytes, the first one encrypts; empty means the key file.
        refuse_plain_tokens: do not read tokens that stand in plain text.
        read_only_port: of Dagster's webserver for analysts, on loopback; None: there is none.
    """

    home: Path
    highlevel: HighLevelSettings
    timezone: ZoneInfo
    page: PageSettings
    alerts: AlertSettings
    metrics: MetricRules = MetricRules()
    database_url: Secret | None = None
    dagster_url: Secret | None = None
    token_keys: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    refuse_plain_tokens: bool = False
    read_only_port: int | None = None

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
            page=_page(given),
            alerts=_alerts(given),
            metrics=_metrics(given),
            database_url=_url(given, "VOICEAI_DATABASE_URL", "psycopg"),
            dagster_url=_url(given, "DAGSTER_POSTGRES_URL", "psycopg2"),
            token_keys=parse_keys(given.get("VOICEAI_TOKEN_KEYS", "")),
            refuse_plain_tokens=_plain_tokens(given) == "refuse",
            read_only_port=(
                _port(given, "VOICEAI_READ_ONLY_PORT", 0)
                if "VOICEAI_READ_ONLY_PORT" in given
                else None
            ),
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
        sandbox = f"http://127.0.0.1:{_port(given, 'VOICEAI_SANDBOX_PORT', 8790)}"
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
        redirect_uri=given.get("HIGHLEVEL_REDIRECT_URI", _page(given).url + CALLBACK_PATH),
        auth_url=urls["HIGHLEVEL_AUTH_URL"],
        token_url=urls["HIGHLEVEL_TOKEN_URL"],
        api_url=urls["HIGHLEVEL_API_URL"],
        api_version=version,
        is_sandbox="HIGHLEVEL_CLIENT_ID" not in given,
    )


def _plain_tokens(given: Mapping[str, str]) -> str:
    choice = given.get("VOICEAI_PLAIN_TOKENS", "accept")
    if choice not in ("accept", "refuse"):
        raise SettingsError(f"VOICEAI_PLAIN_TOKENS is {choice!r}. Set it to accept or refuse.")
    return choice


def _page(given: Mapping[str, str]) -> PageSettings:
    host = given.get("VOICEAI_PAGE_HOST", "127.0.0.1")
    port = _port(given, "VOICEAI_PAGE_PORT", _PAGE_PORT)
    secret = _long_secret(given, "VOICEAI_PAGE_SECRET")
    if secret is None and not is_loopback(host):
        raise SettingsError(
            f"VOICEAI_PAGE_HOST is {host}, which others can reach, and VOICEAI_PAGE_SECRET is not "
            "set. Set it to a password of 16 characters or more (openssl rand -base64 24), or "
            "leave VOICEAI_PAGE_HOST out to listen on this machine only."
        )
    if _is_every_address(host) and "VOICEAI_PAGE_URL" not in given:
        raise SettingsError(
            f"VOICEAI_PAGE_HOST is {host}, every address of this machine and none that a browser "
            "can be sent to, and VOICEAI_PAGE_URL is not set. Set it to the address that people "
            "use, such as https://calls.example.test: links, HighLevel's way back and the names "
            "under which the page answers follow from it."
        )
    shown = f"[{host}]" if ":" in host else host
    origins = _listed(given, "VOICEAI_ALLOWED_ORIGINS")
    for origin in origins:
        parts = urlsplit(origin)
        if parts.scheme not in ("http", "https") or not parts.netloc or parts.path:
            raise SettingsError(
                f"VOICEAI_ALLOWED_ORIGINS: {origin!r} is no origin. Write scheme and host only, "
                "such as https://dashboard.example.test."
            )
    return PageSettings(
        host=host,
        port=port,
        url=_web_address(given, "VOICEAI_PAGE_URL", f"http://{shown}:{port}"),
        dagster_url=_web_address(given, "VOICEAI_DAGSTER_URL", _DAGSTER_URL),
        secret=secret,
        api_key=_long_secret(given, "VOICEAI_API_KEY"),
        allowed_origins=origins,
    )


def _alerts(given: Mapping[str, str]) -> AlertSettings:
    webhook, smtp = given.get("VOICEAI_ALERT_WEBHOOK_URL"), given.get("VOICEAI_SMTP_URL")
    if webhook is not None and not _is_safe(webhook):
        raise SettingsError(
            "VOICEAI_ALERT_WEBHOOK_URL must begin with https:// (plain http is for loopback)."
        )
    people = _listed(given, "VOICEAI_ALERT_EMAIL_TO")
    sender = given.get("VOICEAI_ALERT_EMAIL_FROM", "")
    if people and not (smtp and sender):
        raise SettingsError(
            "VOICEAI_ALERT_EMAIL_TO is set: set VOICEAI_ALERT_EMAIL_FROM and VOICEAI_SMTP_URL too."
        )
    if smtp is not None:
        try:
            parts = urlsplit(smtp)
            named = bool(parts.hostname) and parts.port != 0
            usable = parts.scheme in ("smtp", "smtps") and named and not parts.path.strip("/")
        except ValueError:
            usable = False
        if not usable:
            raise SettingsError(
                "VOICEAI_SMTP_URL cannot be read. Write smtp://user:password@host:587, with every "
                "@, : and / inside the password percent-encoded (%40, %3A, %2F)."
            )
    return AlertSettings(
        webhook_url=Secret(webhook) if webhook else None,
        email_to=people,
        email_from=sender,
        smtp_url=Secret(smtp) if smtp else None,
    )


def _metrics(given: Mapping[str, str]) -> MetricRules:
    rate = given.get("VOICEAI_COST_PER_MINUTE")
    if rate is not None and not re.fullmatch(r"\d{1,6}(\.\d{1,4})?", rate):
        raise SettingsError(
            f"VOICEAI_COST_PER_MINUTE is {rate!r}. Write a price with up to four decimals, such as "
            "0.13."
        )
    goals = _listed(given, "VOICEAI_GOAL_ACTIONS") or MetricRules.goal_actions
    for goal in goals:
        if not re.fullmatch(r"[A-Z][A-Z_]*", goal):
            raise SettingsError(
                f"VOICEAI_GOAL_ACTIONS: {goal!r} is no action type. Write types such as "
                "APPOINTMENT_BOOKING,WORKFLOW_TRIGGER."
            )
    return MetricRules(
        engaged_turns=_whole_number(given, "VOICEAI_ENGAGED_TURNS", MetricRules.engaged_turns),
        engaged_seconds=_whole_number(
            given, "VOICEAI_ENGAGED_SECONDS", MetricRules.engaged_seconds
        ),
        goal_actions=tuple(sorted(set(goals))),
        cost_per_minute=None if rate is None else Decimal(rate),
    )


def _whole_number(given: Mapping[str, str], name: str, otherwise: int) -> int:
    text = given.get(name, str(otherwise))
    if not re.fullmatch(r"\d{1,4}", text):
        raise SettingsError(f"{name} is {text!r}. Write a whole number from 0 to 9999.")
    return int(text)


def _listed(given: Mapping[str, str], name: str) -> tuple[str, ...]:
    return tuple(filter(None, (entry.strip() for entry in given.get(name, "").split(","))))


def _long_secret(given: Mapping[str, str], name: str) -> Secret | None:
    value = given.get(name)
    if value is not None and len(value) < _MIN_SECRET:
        raise SettingsError(
            f"{name} is too short to keep anybody out: write {_MIN_SECRET} characters or more "
            "(openssl rand -base64 24)."
        )
    return Secret(value) if value is not None else None


def _web_address(given: Mapping[str, str], name: str, otherwise: str) -> str:
    url = given.get(name, otherwise).rstrip("/")
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.query
    except ValueError:
        usable = False
    if not usable:
        raise SettingsError(f"{name} is {url!r}. Write an address such as https://host.example.")
    return url


def is_loopback(host: str) -> bool:
    """True for a name or address that only this machine can reach."""
    return host in ("127.0.0.1", "localhost", "::1")


def _is_every_address(host: str) -> bool:
    try:
        return ip_address(host).is_unspecified
    except ValueError:
        return False


def _is_safe(url: str) -> bool:
    """Encrypted on the way, or never on its way."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        return False
    return bool(host) and (
        parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host or ""))
    )


def _port(given: Mapping[str, str], name: str, otherwise: int) -> int:
    text = given.get(name, str(otherwise))
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise SettingsError(f"{name} is {text!r}. Write a port from 1 to 65535.")
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
