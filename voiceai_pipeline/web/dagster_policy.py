"""Which parts of Dagster's UI are open under ``/dagster``, and what its files may do in a browser.

An allow-list: what another release adds is closed until it is listed here. A test walks the routes
of the installed release.
"""

import re
from dataclasses import dataclass
from enum import Enum
from typing import Final

from voiceai_pipeline.core.dagster_access import DAGSTER_PATH

GRAPHQL: Final = "/graphql"

_FILES: Final = re.compile(
    r"/_next/static/[\w./\[\]-]+|/favicon[\w-]*\.(ico|png|svg)|/manifest\.json|/robots\.txt"
    r"|/Dagster_world\.mp4"
)
_ANSWERS: Final = re.compile(r"/server_info|/logs/[\w./-]+")

CLOSED: Final = re.compile(
    r"/(report_asset_\w+|notebook|dagit\w*|download_debug|graphql|vendor)(/.*)?"
)
"""Paths that accept changes of any media type or show more than the UI. GraphQL: POST only."""


class Kind(Enum):
    """What a path is."""

    PAGE = "the UI itself, whichever of its pages the path names"
    FILE = "a file of the UI"
    ANSWER = "data for the UI: a run's output, versions"


@dataclass(frozen=True)
class Open:
    """A path that may be requested.

    Attributes:
        path: what to request of the UI process; never a path that a browser made up.
    """

    kind: Kind
    path: str


def find(path: str) -> Open | None:
    """What a GET of ``path`` (without the prefix) shows; None: it is closed."""
    if ".." in path:
        return None
    if _FILES.fullmatch(path):
        return Open(Kind.FILE, f"{DAGSTER_PATH}{path}")
    if _ANSWERS.fullmatch(path):
        return Open(Kind.ANSWER, f"{DAGSTER_PATH}{path}")
    if CLOSED.fullmatch(path):
        return None
    # Every page of the UI is the same document, whose scripts show the page that the path names.
    return Open(Kind.PAGE, f"{DAGSTER_PATH}/")


_NONCE: Final = re.compile(r"'nonce-([A-Za-z0-9+/=_-]{16,})'")

SCRIPT: Final = "default-src 'none'; script-src 'self'; connect-src 'self'"
"""The policy of a script file, which also applies to a worker that runs it."""

SANDBOX: Final = "default-src 'none'; sandbox"
"""The policy of everything else, in case a browser opens it."""


def nonce_of(dagsters_policy: str) -> str | None:
    """The nonce that Dagster gave the scripts of this document; None if there is none."""
    found = _NONCE.search(dagsters_policy)
    return found[1] if found else None


def page_policy(nonce: str, host: str, *, is_https: bool) -> str:
    """The policy of the UI's document: it allows the UI's own scripts and server, and nothing that
    a foreign text asks for.

    Args:
        host: the request's host with its port, because not every browser counts websockets as
            'self'.
    """
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src 'nonce-{nonce}' 'strict-dynamic'",
            "style-src 'self' 'unsafe-inline'",
            "img-src 'self' data:",
            "font-src 'self' data:",
            f"connect-src 'self' {'wss' if is_https else 'ws'}://{host}",
            "worker-src 'self' blob:",
            "manifest-src 'self'",
            "media-src 'self'",
            "form-action 'self'",
            "frame-ancestors 'none'",
            "base-uri 'none'",
        )
    )
