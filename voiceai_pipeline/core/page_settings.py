"""The settings of the web process: its addresses, and what protects it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from voiceai_pipeline.core.dagster_access import DAGSTER_PATH
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.core.settings_parsing import (
    SettingsError,
    is_every_address,
    is_loopback,
    is_private,
    is_safe,
    list_of,
    long_secret_of,
    networks_of,
    port_of,
    web_address_of,
)

_PAGE_PORT: Final = 8791


@dataclass(frozen=True)
class PageSettings:
    """The addresses of the Connections page, and what protects it.

    Attributes:
        url: the public URL, without a trailing slash.
        secret: the password; None is allowed on loopback only.
        dagster_url: the public URL of Dagster's UI, without a trailing slash.
        api_key: key of ``/functions/v1`` for every user; None: there is none.
        jwks_url: where the replaced dashboard's login service publishes its keys; None: its users'
            own logins are not accepted.
        jwt_audience: the audience (``aud``) that these logins must have.
        allowed_origins: origins that may call ``/functions/v1`` from a browser.
        analyst_secret: the analysts' password; None: there are no analysts.
        analysts_see_content: analysts may read what callers said, and their numbers.
        trusted_proxies: addresses and networks of proxies whose ``X-Forwarded-For`` is trusted.
        dagster_key: key that Dagster's UI process requires; None: ``/dagster`` does not show it.
    """

    host: str
    port: int
    url: str
    dagster_url: str
    secret: Secret | None = None
    api_key: Secret | None = None
    allowed_origins: tuple[str, ...] = ()
    analyst_secret: Secret | None = None
    dagster_key: Secret | None = None
    trusted_proxies: tuple[str, ...] = ()
    jwks_url: str | None = None
    jwt_audience: str = "authenticated"
    analysts_see_content: bool = False


def page_of(given: Mapping[str, str]) -> PageSettings:
    """The page's settings.

    Raises:
        SettingsError: a value is invalid, or others could reach the page without a password.
    """
    host = given.get("VOICEAI_PAGE_HOST", "127.0.0.1")
    port = port_of(given, "VOICEAI_PAGE_PORT", _PAGE_PORT)
    secret = long_secret_of(given, "VOICEAI_PAGE_SECRET")
    if secret is None and not is_loopback(host):
        raise SettingsError(
            f"VOICEAI_PAGE_HOST is {host}, which others can reach, and VOICEAI_PAGE_SECRET is not "
            "set. Set it to a password of 16 characters or more (openssl rand -base64 24), or "
            "leave VOICEAI_PAGE_HOST out to listen on this machine only."
        )
    analyst_secret = long_secret_of(given, "VOICEAI_ANALYST_SECRET")
    if analyst_secret is not None and (secret is None or analyst_secret == secret):
        raise SettingsError(
            "VOICEAI_ANALYST_SECRET is set, but VOICEAI_PAGE_SECRET, the operators' password, is "
            "unset or the same. Set two different ones: without a password every visitor is an "
            "operator."
        )
    if is_every_address(host) and "VOICEAI_PAGE_URL" not in given:
        raise SettingsError(
            f"VOICEAI_PAGE_HOST is {host}, which stands for every address of this machine and "
            "works in no link, and VOICEAI_PAGE_URL is not set. Set it to the page's public URL, "
            "such as https://calls.example.test: links, HighLevel's redirect and the host names "
            "that the page accepts depend on it."
        )
    shown = f"[{host}]" if ":" in host else host
    origins = list_of(given, "VOICEAI_ALLOWED_ORIGINS")
    for origin in origins:
        parts = urlsplit(origin)
        if parts.scheme not in ("http", "https") or not parts.netloc or parts.path:
            raise SettingsError(
                f"VOICEAI_ALLOWED_ORIGINS: {origin!r} is not an origin. Write scheme and host "
                "only, such as https://dashboard.example.test."
            )
    url = web_address_of(given, "VOICEAI_PAGE_URL", f"http://{shown}:{port}")
    proxies = networks_of(given, "VOICEAI_TRUSTED_PROXIES")
    if not proxies and not is_safe(url) and not is_private(urlsplit(url).hostname or ""):
        raise SettingsError(
            f"The page's address is {url}: passwords and sessions would cross the network in plain "
            "text. Put an HTTPS proxy in front of it and set VOICEAI_PAGE_URL to the proxy's "
            "https:// address; or, if there already is one, set VOICEAI_TRUSTED_PROXIES to its "
            "address."
        )
    return PageSettings(
        host=host,
        port=port,
        url=url,
        dagster_url=web_address_of(given, "VOICEAI_DAGSTER_URL", url + DAGSTER_PATH),
        secret=secret,
        analyst_secret=analyst_secret,
        dagster_key=long_secret_of(given, "VOICEAI_DAGSTER_KEY"),
        trusted_proxies=proxies,
        analysts_see_content=_analysts_see_content(given),
        api_key=long_secret_of(given, "VOICEAI_API_KEY"),
        allowed_origins=origins,
        jwks_url=_jwks_url(given),
        jwt_audience=given.get("VOICEAI_JWT_AUDIENCE", PageSettings.jwt_audience),
    )


def _jwks_url(given: Mapping[str, str]) -> str | None:
    url = given.get("VOICEAI_JWKS_URL")
    if url is not None and not is_safe(url):
        raise SettingsError(
            "VOICEAI_JWKS_URL must begin with https:// (plain http is allowed for loopback only): "
            "an attacker who changes the keys in transit could log in as any user."
        )
    return url


def _analysts_see_content(given: Mapping[str, str]) -> bool:
    choice = given.get("VOICEAI_ANALYST_CONTENT", "refuse")
    if choice not in ("allow", "refuse"):
        raise SettingsError(
            f"VOICEAI_ANALYST_CONTENT is {choice!r}. Set it to allow, or leave it out."
        )
    return choice == "allow"
