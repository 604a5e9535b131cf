"""Reads a PostgreSQL URL as it is copied from Supabase, Vercel, Prisma, Heroku and others.

Such URLs may have parameters that libpq refuses. Those that matter here are translated; those for
other clients are dropped. Any other one is an error that names it, never its value.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Final
from urllib.parse import parse_qsl, quote

from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.core.settings_parsing import SettingsError

_LIBPQ: Final = """
    host hostaddr port dbname user password passfile require_auth channel_binding connect_timeout
    client_encoding options application_name fallback_application_name keepalives keepalives_idle
    keepalives_interval keepalives_count tcp_user_timeout gssencmode sslmode sslnegotiation
    sslcompression sslcert sslkey sslpassword sslcertmode sslrootcert sslcrl sslcrldir sslsni
    requirepeer ssl_min_protocol_version ssl_max_protocol_version krbsrvname gsslib gssdelegation
    target_session_attrs load_balance_hosts
"""
"""libpq's own parameters."""

_OF_OTHER_CLIENTS: Final = """
    pgbouncer connection_limit pool_timeout pool_mode socket_timeout statement_cache_size
    prepared_statements preparethreshold single_use_connections supa workaround uselibpqcompat
    max_idle_connection_lifetime
"""
"""Pooling and prepared statements of other clients. Ours works with any pooler without them."""

_SSL_MODES: Final = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")


def database_url_of(given: Mapping[str, str], name: str, driver: str) -> Secret | None:
    """The URL with ``driver``, whatever form is given: postgres://, postgresql:// or a driver.

    Raises:
        SettingsError: it is not a PostgreSQL URL, or has an unknown or invalid parameter.
    """
    url = given.get(name)
    if url is None:
        return None
    scheme, found, rest = url.strip("\"'").partition("://")
    if not found or scheme.lower().partition("+")[0] not in ("postgres", "postgresql"):
        raise SettingsError(f"{name} must be a PostgreSQL URL: postgresql://user@host:5432/name.")
    address, _, query = rest.partition("?")
    if re.search(r":\[[\w -]*password[\w -]*\]@", address, re.IGNORECASE):
        raise SettingsError(
            f"{name} still has a placeholder where the password belongs, such as [YOUR-PASSWORD]. "
            "Put the password there, with every @, : and / in it percent-encoded (%40, %3A, %2F)."
        )
    pairs = list(_parameters(name, parse_qsl(query, keep_blank_values=True)))
    options = " ".join(value for key, value in pairs if key == "options")
    pairs = [(key, value) for key, value in pairs if key != "options"]
    pairs += [("options", options)] if options else []
    text = "&".join(f"{key}={quote(value, safe='')}" for key, value in pairs)
    return Secret(f"postgresql+{driver}://{address}{'?' if text else ''}{text}")


def _parameters(name: str, pairs: list[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """The parameters of a URL, translated to libpq's."""
    for key, value in pairs:
        match key.lower():
            case "sslmode" | "ssl":
                yield "sslmode", _ssl_mode(name, key, value)
            case "schema" | "currentschema":
                if not re.fullmatch(r"[A-Za-z0-9_$-]{1,63}", value):
                    raise SettingsError(f"{name}: its parameter {key} is not a schema name.")
                yield "options", f'-c search_path="{value}"'
            case known if known in _LIBPQ.split():
                yield known, value
            case other if other not in _OF_OTHER_CLIENTS.split():
                shown = key if re.fullmatch(r"\w{1,40}", key) else "one with an odd name"
                raise SettingsError(
                    f"{name} has a parameter that PostgreSQL does not know: {shown}. Remove it; if "
                    "it is part of the password, write every ? and & there as %3F and %26."
                )


def _ssl_mode(name: str, key: str, value: str) -> str:
    """libpq's mode; values that only node-postgres or JDBC know become one without verification."""
    mode = {"true": "require", "1": "require", "no-verify": "require", "false": "prefer",
            "0": "prefer"}.get(value.lower(), value.lower())  # fmt: skip
    if mode not in _SSL_MODES:
        raise SettingsError(f"{name}: its parameter {key} must be one of {', '.join(_SSL_MODES)}.")
    return mode
