"""The first check of every request: refuses what a foreign page may have made a browser send.

Any web page that is open in an operator's browser can send requests here: images, forms, scripts,
websockets. The browser says where a request comes from (``Sec-Fetch-Site``, ``Origin``) and for
which host it is (``Host``). A request from another site or for another host is refused here, before
anything is looked up; a link that a user follows passes. Login and roles are in ``access``.
"""

import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from voiceai_pipeline.core.settings import PageSettings

_SAFE: Final = ("GET", "HEAD")
_METHODS: Final = (*_SAFE, "POST")
_WITH_ORIGINS: Final = (*_METHODS, "OPTIONS")


def allowed_hosts(page: PageSettings) -> list[str]:
    """The host names for which requests are answered. Under any other name that resolves to this
    machine (DNS rebinding), the scripts of that site could read our responses."""
    names = {"127.0.0.1", "localhost", "::1", page.host, urlsplit(page.url).hostname or page.host}
    return sorted(f"[{name}]" if ":" in name else name for name in names)


class Guard:
    """Refuses what a foreign page may have sent.

    Args:
        page: its host names and public address.
        keyed: prefixes of paths whose callers send a key that no browser adds on its own; these
            requests may come from other sites.
    """

    def __init__(self, app: ASGIApp, page: PageSettings, keyed: Iterable[str]) -> None:
        self._app = app
        self._hosts = allowed_hosts(page)
        public = urlsplit(page.url)
        self._public = f"{public.scheme}://{public.netloc}"
        self._keyed = tuple(keyed)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused = (
            self._refuse_host(scope) or _refuse_two_lengths(scope) or self._refuse_sender(scope)
        )
        if refused is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            status, sentence = refused
            # The rest of the connection's data would be ambiguous.
            end = {"Connection": "close"} if status == 400 else None
            await PlainTextResponse(f"{sentence} Nothing was changed.\n", status, end)(
                scope, receive, send
            )

    def _refuse_host(self, scope: Scope) -> tuple[int, str] | None:
        if _name_of(Headers(scope=scope).getlist("host")) in self._hosts:
            return None
        return 400, (
            "This installation does not answer to this host name. Open its own address, or set "
            "VOICEAI_PAGE_URL to the address that users open."
        )

    def _refuse_sender(self, scope: Scope) -> tuple[int, str] | None:
        headers = Headers(scope=scope)
        if scope["type"] == "websocket":
            return None if self._is_ours(headers, required=True) else _FOREIGN
        method, path = scope["method"], scope["path"]
        is_keyed = path.startswith(self._keyed)
        if method not in (_WITH_ORIGINS if is_keyed else _METHODS):
            return 405, "This address does not accept the method."
        if is_keyed or self._is_ours(headers, required=False):
            return None
        return None if method in _SAFE and _is_followed_link(headers) else _FOREIGN

    def _is_ours(self, headers: Headers, *, required: bool) -> bool:
        """Whether one of our own pages sent the request, as far as the browser says.

        Args:
            required: whether an Origin has to be present. Browsers send one with every websocket
                and every unsafe request; other programs send none.
        """
        sites, origins = headers.getlist("sec-fetch-site"), headers.getlist("origin")
        if sites not in ([], ["same-origin"], ["none"]):
            return False
        host = headers["host"]
        # Behind a proxy the browser uses the public address.
        ours = (f"http://{host}", f"https://{host}", self._public)
        return (not origins and not required) or (len(origins) == 1 and origins[0] in ours)


def _refuse_two_lengths(scope: Scope) -> tuple[int, str] | None:
    """Refuse a request with two lengths: a proxy in front of us may follow the other one, so that
    the body hides a second request."""
    headers = Headers(scope=scope)
    if "content-length" in headers and "transfer-encoding" in headers:
        return 400, "This request says twice how long it is."
    return None


_FOREIGN: Final = (
    403,
    "This request did not come from a page of this installation. Go to its page and use the links "
    "and buttons there.",
)


def _is_followed_link(headers: Headers) -> bool:
    """Whether a user followed a link, for example from an alert or HighLevel's consent page; False
    for an image, a frame or a script of a foreign page."""
    return (
        headers.getlist("sec-fetch-mode") == ["navigate"]
        and headers.getlist("sec-fetch-dest") == ["document"]
        and headers.get("origin", "null") == "null"
    )


_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[\w.-]+)(?::[0-9]{1,5})?", re.ASCII)


def _name_of(hosts: list[str]) -> str:
    """The host name of a Host header, without its port; empty if the header is malformed.

    The whole header becomes part of the policy for Dagster's UI and of addresses.
    """
    found = _HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
    return found[1].lower() if found else ""
