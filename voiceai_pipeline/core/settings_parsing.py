"""Parses the text of an environment variable into a value, or raises ``SettingsError`` with what to
write instead. Which variables there are is in ``settings.py``.
"""

import base64
import re
from collections.abc import Mapping
from datetime import date
from ipaddress import ip_address, ip_network
from typing import Final
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from voiceai_pipeline.core.kept_days import LEAST_DAYS
from voiceai_pipeline.core.secret import Secret

_MIN_SECRET: Final = 16


class SettingsError(ValueError):
    """A variable has an invalid value; the text says which, why, and what to write."""


def whole_number_of(given: Mapping[str, str], name: str, otherwise: int) -> int:
    text = given.get(name, str(otherwise))
    if not re.fullmatch(r"\d{1,4}", text):
        raise SettingsError(f"{name} is {text!r}. Write a whole number from 0 to 9999.")
    return int(text)


def list_of(given: Mapping[str, str], name: str) -> tuple[str, ...]:
    return tuple(filter(None, (entry.strip() for entry in given.get(name, "").split(","))))


def long_secret_of(given: Mapping[str, str], name: str) -> Secret | None:
    value = given.get(name)
    if value is not None and len(value) < _MIN_SECRET:
        raise SettingsError(
            f"{name} is too short to be safe: write {_MIN_SECRET} characters or more "
            "(openssl rand -base64 24)."
        )
    return Secret(value) if value is not None else None


def web_address_of(given: Mapping[str, str], name: str, otherwise: str) -> str:
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
    """True for a host name or address that only this machine can reach."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def is_link(value: str) -> bool:
    """True for an address that Kubernetes sets: with a Service called voiceai-page, it puts one
    into VOICEAI_PAGE_PORT, where we expect a port."""
    return bool(re.fullmatch(r"(tcp|udp|sctp)://[0-9A-Fa-f.:\[\]]+:[0-9]+", value))


def is_every_address(host: str) -> bool:
    try:
        return ip_address(host).is_unspecified
    except ValueError:
        return False


def is_private(host: str) -> bool:
    """True for an address of a private network; False for a name, which may resolve to any."""
    try:
        return ip_address(host).is_private
    except ValueError:
        return False


def networks_of(given: Mapping[str, str], name: str) -> tuple[str, ...]:
    """Addresses and networks, such as 10.0.0.7 and 10.0.0.0/24.

    Raises:
        SettingsError: an entry is neither.
    """
    entries = list_of(given, name)
    for entry in entries:
        try:
            ip_network(entry)
        except ValueError:
            raise SettingsError(
                f"{name}: {entry!r} is not an address. Write addresses or networks such as "
                "10.0.0.7 or 10.0.0.0/24."
            ) from None
    return entries


def is_local(url: str) -> bool:
    """Whether a URL names this machine: a request to it never goes through a proxy."""
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        return False
    return is_loopback(host) or is_every_address(host)


def is_safe(url: str) -> bool:
    """True for https, and for plain http to this machine."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        return False
    return bool(host) and (
        parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host or ""))
    )


def port_of(given: Mapping[str, str], name: str, otherwise: int) -> int:
    text = given.get(name, str(otherwise))
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise SettingsError(f"{name} is {text!r}. Set it to a port from 1 to 65535.")
    return int(text)


def timezone_of(env: Mapping[str, str]) -> ZoneInfo:
    """The zone whose days are the partitions.

    Raises:
        SettingsError: it is not an IANA name.
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
        SettingsError: it is not a date.
    """
    text = env.get("VOICEAI_START_DATE", "").strip() or "2025-01-01"
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise SettingsError(
            f"VOICEAI_START_DATE is {text!r}. Write a day as YYYY-MM-DD."
        ) from error


def keep_days_of(env: Mapping[str, str]) -> int | None:
    """How many days calls are kept at least; None: for ever.

    Raises:
        SettingsError: it is not a whole number, or too small.
    """
    text = env.get("VOICEAI_KEEP_CALLS_DAYS", "").strip() or "0"
    days = int(text) if re.fullmatch(r"[0-9]{1,4}", text) else -1
    if days != 0 and days < LEAST_DAYS:
        raise SettingsError(
            f"VOICEAI_KEEP_CALLS_DAYS is {text!r}. Write a whole number of days from {LEAST_DAYS} "
            "to 9999, or leave it out to keep calls for ever."
        )
    return days or None


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
                f"VOICEAI_TOKEN_KEYS: entry {number} is not usable. Write id:key, where the id is "
                "a word used once and the key is 32 bytes in base64 (openssl rand -base64 32)."
            )
        keys[key_id] = key
    return keys


_ED25519: Final = bytes.fromhex("302a300506032b6570032100")
"""The prefix of the 32 bytes of an Ed25519 public key in its published form (RFC 8410)."""


def signing_keys_of(given: Mapping[str, str], name: str, otherwise: str) -> tuple[bytes, ...]:
    """Ed25519 public keys of 32 bytes, from base64 with or without the published prefix.

    Raises:
        SettingsError: an entry is not such a key.
    """
    keys = []
    for number, entry in enumerate(list_of({name: given.get(name, otherwise)}, name), start=1):
        try:
            key = base64.b64decode(entry, validate=True).removeprefix(_ED25519)
        except ValueError:  # also for what is not ASCII
            key = b""
        if len(key) != 32:
            raise SettingsError(
                f"{name}: entry {number} is not an Ed25519 public key. Copy the key from "
                "HighLevel's webhook guide, without its BEGIN and END lines."
            )
        keys.append(key)
    return tuple(keys)
