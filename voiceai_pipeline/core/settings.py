"""The settings, read from the environment.

``VARIABLES`` has the name, meaning and default of each; a test keeps ``.env.example`` and
``docs/settings.md`` equal to it. Nothing here opens a connection or writes a file.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, urlsplit
from zoneinfo import ZoneInfo

from voiceai_pipeline.core.database_url import database_url_of
from voiceai_pipeline.core.page_settings import PageSettings as PageSettings
from voiceai_pipeline.core.page_settings import page_of
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.core.settings_parsing import (
    SettingsError,
    is_link,
    is_local,
    is_safe,
    keep_days_of,
    list_of,
    parse_keys,
    port_of,
    signing_keys_of,
    timezone_of,
    web_address_of,
    whole_number_of,
)

VARIABLES: Final[Mapping[str, str]] = {
    "VOICEAI_DATABASE_URL": "PostgreSQL for users, tokens and calls; unset: the embedded server",
    "VOICEAI_OWNER_DATABASE_URL": "the same database with the login that owns the tables, for "
    "`migrate`, `backup` and `restore`; unset: VOICEAI_DATABASE_URL",
    "DAGSTER_POSTGRES_URL": "PostgreSQL for Dagster's own tables, as postgresql+psycopg2://...; "
    "unset: the embedded server",
    "HIGHLEVEL_CLIENT_ID": "the app's client id in the HighLevel marketplace; unset: the sandbox",
    "HIGHLEVEL_CLIENT_SECRET": "the app's client secret; only ever on the server",
    "HIGHLEVEL_APP_VERSION_ID": "the version of the app that users consent to: version_id of its "
    "install link; default: that of HIGHLEVEL_AUTH_URL, else the client id up to its dash",
    "HIGHLEVEL_REDIRECT_URI": "where HighLevel sends the browser after consent",
    "HIGHLEVEL_AUTH_URL": "the authorize page: v2, older or white-label; a complete install link "
    "works too",
    "HIGHLEVEL_TOKEN_URL": "the token endpoint",
    "HIGHLEVEL_API_URL": "the API's base URL; if set to HighLevel's own without a client id, there "
    "is no app, and only private integration tokens are used",
    "HIGHLEVEL_APP_URL": "HighLevel's web application, for links to contacts; white-label: your "
    "own domain; default https://app.gohighlevel.com",
    "HIGHLEVEL_WEBHOOK_KEYS": "public keys that HighLevel signs its webhooks with, as published, "
    "comma separated; default: the one published in 2026",
    "HIGHLEVEL_API_VERSION": "dated (2021-04-15 and 2021-07-28, the default) or v3",
    "VOICEAI_TOKEN_KEYS": "keys that encrypt tokens at rest: id:base64 of 32 bytes, newest "
    "first, comma separated; unset: a generated key file beside the embedded server",
    "VOICEAI_PLAIN_TOKENS": "plain-text tokens of the source system: accept (the default; they "
    "are encrypted when they are refreshed) or refuse",
    "VOICEAI_TIMEZONE": "the IANA zone whose days are the partitions; default UTC",
    "VOICEAI_START_DATE": "the first day that can be synced, YYYY-MM-DD; default 2025-01-01",
    "VOICEAI_KEEP_CALLS_DAYS": "calls older than this many days are deleted for good, by whole "
    "months; 60 to 9999; unset or 0: they are kept for ever",
    "VOICEAI_SANDBOX_PORT": "port of the sandbox on this machine; default 8790",
    "VOICEAI_SQL_PORT": "port on this machine where SQL tools reach the embedded server with a "
    "password; unset: none",
    "VOICEAI_HOME": "folder of the embedded server, key file and logs; default .voiceai",
    "VOICEAI_PAGE_HOST": "address the Connections page listens on; default 127.0.0.1",
    "VOICEAI_PAGE_PORT": "port of the Connections page; default 8791",
    "VOICEAI_PAGE_URL": "public URL of the page, if it is behind a proxy or listens on every "
    "address",
    "VOICEAI_PAGE_SECRET": "password of the page, 16 characters or more; required on any address "
    "but loopback",
    "VOICEAI_ANALYST_SECRET": "second password, 16 characters or more, for analysts, who can look "
    "at the pages and change nothing; unset: none",
    "VOICEAI_ANALYST_CONTENT": "allow: analysts may read what callers said and their numbers, on "
    "the pages of calls and in their exports; unset: operators only",
    "VOICEAI_TRUSTED_PROXIES": "addresses or networks of the proxies in front of the page, comma "
    "separated: their X-Forwarded-For is trusted; unset: none",
    "VOICEAI_DAGSTER_URL": "public URL of Dagster's UI; default: /dagster at the page's URL",
    "VOICEAI_DAGSTER_KEY": "key that the web process sends to Dagster's UI process, 16 characters "
    "or more; make up generates one",
    "VOICEAI_API_KEY": "key of /functions/v1 for every user, 16 characters or more; unset: none",
    "VOICEAI_ALLOWED_ORIGINS": "origins that may call /functions/v1 from a browser, comma "
    "separated",
    "VOICEAI_JWKS_URL": "URL of the public keys of the replaced dashboard's login service, whose "
    "users may then call /functions/v1 for themselves; unset: only VOICEAI_API_KEY is accepted",
    "VOICEAI_JWT_AUDIENCE": "audience (aud) that these logins must have; default authenticated",
    "VOICEAI_ALERT_WEBHOOK_URL": "where alerts are posted as Slack-compatible JSON; unset: nowhere",
    "VOICEAI_ALERT_EMAIL_TO": "recipients of alerts by e-mail, comma separated; unset: none",
    "VOICEAI_ALERT_EMAIL_FROM": "sender of these e-mails",
    "VOICEAI_SMTP_URL": "mail server: smtp://user:password@host:587 (STARTTLS) or smtps://...:465",
    "VOICEAI_ENGAGED_TURNS": "caller turns from which a call counts as engaged; default 2",
    "VOICEAI_ENGAGED_SECONDS": "seconds from which a call counts as engaged; default 10",
    "VOICEAI_GOAL_ACTIONS": "action types that reach a call's goal, comma separated; default "
    "APPOINTMENT_BOOKING",
    "VOICEAI_FOLLOW_UP_ACTIONS": "action types that start a follow-up, comma separated; default "
    "CUSTOM_ACTION,SMS,WORKFLOW_TRIGGER",
    "VOICEAI_HELPERS": "how many runs at once may help syncs of many locations, over all syncs; "
    "default 0",
    "VOICEAI_COST_PER_MINUTE": "price of each started minute, for estimated_cost; unset: no "
    "estimate",
}

_REAL: Final[Mapping[str, str]] = {
    "HIGHLEVEL_AUTH_URL": "https://marketplace.gohighlevel.com/v2/oauth/chooselocation",
    "HIGHLEVEL_TOKEN_URL": "https://services.leadconnectorhq.com/oauth/token",
    "HIGHLEVEL_API_URL": "https://services.leadconnectorhq.com",
}
_WEBHOOK_KEY: Final = "MCowBQYDK2VwAyEAi2HR1srL4o18O8BRa7gVJY7G7bupbN3H9AwJrHCDiOg="
"""HighLevel's public key, the same for all apps (CONTRACT 13.3)."""

_APP_URL: Final = "https://app.gohighlevel.com"
_LOOPBACK: Final = "http://127.0.0.1"

CALLBACK_PATH: Final = "/oauth/callback"
API_VERSIONS: Final = ("dated", "v3")

SANDBOX_CLIENT_ID: Final = "65f0c0ffee0000000000e000-sandbox"
SANDBOX_CLIENT_SECRET: Final = "SANDBOX-CLIENT-SECRET-0f3a"
SANDBOX_WEBHOOK_KEY: Final = "MCowBQYDK2VwAyEA8X2XiLGuDZ758d1jPoDqL187EIOSfC+PHh7j509u7lw="
"""The sandbox's client, and the public key of its webhooks. The product does not import the
sandbox, so they are repeated here; a test keeps them equal."""


@dataclass(frozen=True)
class HighLevelSettings:
    """HighLevel's URLs and the app that we use.

    Attributes:
        app_version_id: the version of the app that users consent to; without it, or while it is a
            draft, the authorize page answers ``noAppVersionIdFound`` (CONTRACT 15).
        auth_url: the authorize page; its query, if any, is kept.
        app_url: HighLevel's web application, for links; "" in the sandbox, which has none.
        webhook_keys: raw Ed25519 public keys; any of them may have signed a webhook message.
    """

    client_id: str
    app_version_id: str
    client_secret: Secret
    redirect_uri: str
    auth_url: str
    token_url: str
    api_url: str
    api_version: str
    is_sandbox: bool
    webhook_keys: tuple[bytes, ...] = ()
    app_url: str = ""

    @property
    def has_app(self) -> bool:
        """Whether users can be sent to HighLevel for consent; private tokens need no app."""
        return bool(self.client_id)

    @property
    def app_id(self) -> str:
        """The app's id in webhook messages: the client id up to its dash (CONTRACT 13.3)."""
        return self.client_id.partition("-")[0]


@dataclass(frozen=True)
class AlertSettings:
    """Where alerts are sent when a connection needs action; Dagster's UI always shows them.

    Attributes:
        webhook_url: accepts Slack-compatible JSON; secret, because knowing it is enough to post.
        smtp_url: ``smtp`` or ``smtps``, with user and password if the server requires them.
    """

    webhook_url: Secret | None = None
    email_to: tuple[str, ...] = ()
    email_from: str = ""
    smtp_url: Secret | None = None


BOOKING: Final = "APPOINTMENT_BOOKING"


@dataclass(frozen=True)
class MetricRules:
    """Parameters of the metrics.

    Attributes:
        engaged_turns, engaged_seconds: the fewest caller turns and seconds of an engaged call.
        goal_actions: action types that reach a call's goal, sorted.
        follow_up_actions: action types that start a follow-up of a call, sorted.
        cost_per_minute: price of each started minute; None: no cost is estimated.
    """

    engaged_turns: int = 2
    engaged_seconds: int = 10
    goal_actions: tuple[str, ...] = (BOOKING,)
    cost_per_minute: Decimal | None = None
    follow_up_actions: tuple[str, ...] = ("CUSTOM_ACTION", "SMS", "WORKFLOW_TRIGGER")


@dataclass(frozen=True)
class Settings:
    """Everything configurable.

    Attributes:
        database_url: SQLAlchemy URL on psycopg 3; None means the embedded server.
        owner_url: the same database with the login that migrates; None: ``database_url``.
        dagster_url: SQLAlchemy URL on psycopg2; None means the embedded server.
        sql_port: the loopback port of the embedded server for SQL tools; None: none.
        token_keys: key id to 32 bytes; the first key encrypts. Empty means the key file.
        refuse_plain_tokens: do not read tokens stored in plain text.
        helpers: how many runs at once may help syncs, over all syncs.
        keep_calls_days: how many days calls are kept at least; None: for ever.
    """

    home: Path
    highlevel: HighLevelSettings
    timezone: ZoneInfo
    page: PageSettings
    alerts: AlertSettings
    metrics: MetricRules = MetricRules()
    database_url: Secret | None = None
    owner_url: Secret | None = None
    dagster_url: Secret | None = None
    sql_port: int | None = None
    token_keys: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    refuse_plain_tokens: bool = False
    helpers: int = 0
    keep_calls_days: int | None = None

    @classmethod
    def load(cls, env: Mapping[str, str]) -> "Settings":
        """Read the settings from ``env`` (usually ``os.environ``); an empty value counts as unset.

        Raises:
            SettingsError: a value is invalid.
        """
        given = {
            name: value
            for name in VARIABLES
            if (value := env.get(name, "").strip()) and not is_link(value)
        }
        return cls(
            home=Path(given.get("VOICEAI_HOME", ".voiceai")).absolute(),
            highlevel=_highlevel(given),
            timezone=timezone_of(given),
            page=page_of(given),
            alerts=_alerts(given),
            metrics=_metrics(given),
            database_url=database_url_of(given, "VOICEAI_DATABASE_URL", "psycopg"),
            owner_url=database_url_of(given, "VOICEAI_OWNER_DATABASE_URL", "psycopg"),
            dagster_url=database_url_of(given, "DAGSTER_POSTGRES_URL", "psycopg2"),
            sql_port=port_of(given, "VOICEAI_SQL_PORT", 0) if "VOICEAI_SQL_PORT" in given else None,
            token_keys=parse_keys(given.get("VOICEAI_TOKEN_KEYS", "")),
            refuse_plain_tokens=_plain_tokens(given) == "refuse",
            helpers=whole_number_of(given, "VOICEAI_HELPERS", 0),
            keep_calls_days=keep_days_of(given),
        )


def _highlevel(given: Mapping[str, str]) -> HighLevelSettings:
    client_id = given.get("HIGHLEVEL_CLIENT_ID")
    # A real API's URL without a client id: private integration tokens need no app.
    has_no_app = client_id is None and not is_local(given.get("HIGHLEVEL_API_URL", _LOOPBACK))
    is_sandbox = client_id is None and not has_no_app
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
    if has_no_app:
        client_id, secret, urls = "", "", dict(_REAL)
    elif client_id is None:
        client_id, secret = SANDBOX_CLIENT_ID, SANDBOX_CLIENT_SECRET
        sandbox = f"http://127.0.0.1:{port_of(given, 'VOICEAI_SANDBOX_PORT', 8790)}"
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
        if not is_safe(url):
            raise SettingsError(
                f"{name} must begin with https:// (plain http is allowed for loopback only)."
            )
    version_of_link = parse_qs(urlsplit(urls["HIGHLEVEL_AUTH_URL"]).query).get("version_id", [""])
    return HighLevelSettings(
        client_id=client_id,
        app_version_id=given.get("HIGHLEVEL_APP_VERSION_ID")
        or version_of_link[0]
        or client_id.partition("-")[0],
        client_secret=Secret(secret),
        redirect_uri=given.get("HIGHLEVEL_REDIRECT_URI", page_of(given).url + CALLBACK_PATH),
        auth_url=urls["HIGHLEVEL_AUTH_URL"],
        token_url=urls["HIGHLEVEL_TOKEN_URL"],
        api_url=urls["HIGHLEVEL_API_URL"],
        api_version=version,
        is_sandbox=is_sandbox,
        webhook_keys=signing_keys_of(
            given, "HIGHLEVEL_WEBHOOK_KEYS", SANDBOX_WEBHOOK_KEY if is_sandbox else _WEBHOOK_KEY
        ),
        app_url=""
        if is_sandbox and "HIGHLEVEL_APP_URL" not in given
        else web_address_of(given, "HIGHLEVEL_APP_URL", _APP_URL),
    )


def _plain_tokens(given: Mapping[str, str]) -> str:
    choice = given.get("VOICEAI_PLAIN_TOKENS", "accept")
    if choice not in ("accept", "refuse"):
        raise SettingsError(f"VOICEAI_PLAIN_TOKENS is {choice!r}. Set it to accept or refuse.")
    return choice


def _alerts(given: Mapping[str, str]) -> AlertSettings:
    webhook, smtp = given.get("VOICEAI_ALERT_WEBHOOK_URL"), given.get("VOICEAI_SMTP_URL")
    if webhook is not None and not is_safe(webhook):
        raise SettingsError(
            "VOICEAI_ALERT_WEBHOOK_URL must begin with https:// "
            "(plain http is allowed for loopback only)."
        )
    recipients = list_of(given, "VOICEAI_ALERT_EMAIL_TO")
    sender = given.get("VOICEAI_ALERT_EMAIL_FROM", "")
    if recipients and not (smtp and sender):
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
        email_to=recipients,
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
    return MetricRules(
        engaged_turns=whole_number_of(given, "VOICEAI_ENGAGED_TURNS", MetricRules.engaged_turns),
        engaged_seconds=whole_number_of(
            given, "VOICEAI_ENGAGED_SECONDS", MetricRules.engaged_seconds
        ),
        goal_actions=_actions(given, "VOICEAI_GOAL_ACTIONS", MetricRules.goal_actions),
        cost_per_minute=None if rate is None else Decimal(rate),
        follow_up_actions=_actions(
            given, "VOICEAI_FOLLOW_UP_ACTIONS", MetricRules.follow_up_actions
        ),
    )


def _actions(given: Mapping[str, str], name: str, otherwise: tuple[str, ...]) -> tuple[str, ...]:
    types = list_of(given, name) or otherwise
    for one in types:
        if not re.fullmatch(r"[A-Z][A-Z_]*", one):
            raise SettingsError(
                f"{name}: {one!r} is not an action type. Write types such as "
                "APPOINTMENT_BOOKING,WORKFLOW_TRIGGER."
            )
    return tuple(sorted(set(types)))
