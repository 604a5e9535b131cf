"""Sends requests and reads responses: sessions, proxies, certificates, deadlines. It tracks whether
any byte was sent: a request that was not sent has spent no token (REQUIREMENTS T8).
"""

import math
import os
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any, Final
from urllib.parse import quote_plus

import requests
import urllib3
from requests.structures import CaseInsensitiveDict

from voiceai_pipeline.core.failures import FailureClass
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.core.settings_parsing import is_local
from voiceai_pipeline.highlevel import errors
from voiceai_pipeline.highlevel.adapter import Adapter, PlainRequest, handed_over, read_plain
from voiceai_pipeline.highlevel.answer import Answer
from voiceai_pipeline.highlevel.errors import HighLevelError
from voiceai_pipeline.highlevel.grant import SENDABLE
from voiceai_pipeline.highlevel.reads import Reads

CONNECT_TIMEOUT: Final = 5.0
USER_AGENT: Final = "voiceai-pipeline/0.1 (+HighLevel Voice AI call logs)"
"""HighLevel's Cloudflare bans some libraries' default User-Agents (CONTRACT 1)."""

_HEADERS: Final = {
    "User-Agent": USER_AGENT,
    "Accept": "application/json",
    "Accept-Encoding": requests.utils.DEFAULT_ACCEPT_ENCODING,
}

Auth = Callable[[requests.PreparedRequest], requests.PreparedRequest]


class Transport:
    """Sends one request at a time per thread. Safe to share between threads."""

    def __init__(self, reads: Reads | None = None) -> None:
        self._reads = reads or Reads()
        self._local = threading.local()
        self._environments: dict[str, dict[str, Any]] = {}
        self._sessions: weakref.WeakSet[requests.Session] = weakref.WeakSet()

    def close(self) -> None:
        """Close every connection. The transport cannot be used afterwards."""
        for session in self._sessions:
            session.close()

    def send(
        self,
        request: requests.Request,
        *,
        path: str,
        timeout: float,
        chunk_size: int,
        deadline: float = math.inf,
        at_most: float = math.inf,
    ) -> Answer:
        """Send a request and read the complete response; redirects are not followed.

        Args:
            path: path template of the request, for messages.
            timeout: longest time in seconds without a byte.
            chunk_size: bytes to read at once.
            deadline: for the complete response, on the monotonic clock, in seconds.
            at_most: most bytes of the complete response.

        Raises:
            HighLevelError: no response; ``sent`` says whether any byte of the request was sent.
        """
        request.headers = _HEADERS | dict(request.headers)

        def send(session: requests.Session, environment: dict[str, Any]) -> requests.Response:
            return session.send(
                request.prepare(),
                timeout=(CONNECT_TIMEOUT, timeout),
                allow_redirects=False,
                stream=True,
                **environment,
            )

        method = str(request.method)
        read = partial(_read, chunk_size=chunk_size, deadline=deadline, at_most=at_most)
        return self._exchange(send, read, method, request.url, path)

    def read(
        self,
        url: str,
        query: Mapping[str, Any],
        headers: Mapping[str, str],
        auth: Auth,
        *,
        path: str,
        timeout: float,
    ) -> Answer:
        """A cheaper GET for pages that are read by the thousand. It skips what requests does for
        each request, response (cookies, hooks, redirects) and URL.

        Args:
            url: without a query.
            query: the parameters of the query.

        Raises:
            HighLevelError: as ``send``.
        """

        def send(session: requests.Session, environment: dict[str, Any]) -> requests.Response:
            prepared = PlainRequest()
            prepared.method = "GET"
            prepared.url = f"{_normal(url)}?{_encoded(query)}"
            prepared.headers = CaseInsensitiveDict(_HEADERS | dict(headers))
            return session.get_adapter(url).send(
                auth(prepared), stream=True, timeout=(CONNECT_TIMEOUT, timeout), **environment
            )

        return self._exchange(send, read_plain, "GET", url, path)

    def _exchange(
        self,
        send: Callable[[requests.Session, dict[str, Any]], requests.Response],
        read: Callable[[requests.Response], bytes],
        method: str,
        url: str,
        path: str,
    ) -> Answer:
        is_read = method == "GET"
        if is_read:
            self._reads.check(path=path)
        handed_over.yes = False
        handed_over.reads = self._reads if is_read else None
        environment = self._environment(url)
        try:
            response = send(self._session("reader" if is_read else "sender"), environment)
            # In large chunks: a page takes longer in chunks of 10 kB, as ``Session.get`` reads it.
            content = read(response)
        except OSError as error:  # requests' own errors are of this class too
            if is_read:
                self._reads.check(path=path)
            sent = handed_over.yes
            obstacle = "" if sent else _obstacle(error, url, environment["proxies"])
            raise errors.lost(
                error, method=method, path=path, sent=sent, obstacle=obstacle
            ) from None
        return Answer(response.request, response.status_code, response.headers, content)

    def get(self, url: str, *, path: str, within: float, at_most: int) -> Answer:
        """Read a small document from a service other than HighLevel's API.

        Args:
            path: what the document is, for messages.
            within: seconds for the complete response.
            at_most: its most bytes.

        Raises:
            HighLevelError: no response, or none within these limits.
        """
        return self.send(
            requests.Request("GET", url),
            path=path,
            timeout=within,
            chunk_size=at_most,
            deadline=time.monotonic() + within,
            at_most=at_most,
        )

    def _session(self, kind: str) -> requests.Session:
        """A session per thread: ``requests`` does not guarantee that sessions can be shared. Reads
        have their own, so that nothing else uses a connection that ``Reads`` shuts down."""
        session: requests.Session | None = getattr(self._local, kind, None)
        if session is None:
            session = requests.Session()
            session.trust_env = False  # see _environment
            for scheme in ("http://", "https://"):
                session.mount(scheme, Adapter())
            setattr(self._local, kind, session)
            self._sessions.add(session)
        return session

    def _environment(self, url: str) -> dict[str, Any]:
        """The environment's proxies and certificates for the host of ``url``, cached: requests
        looks them up for each request, which takes longer than building the request."""
        host = "/".join(url.split("/", 3)[:3])  # not the path, which names a location
        if host not in self._environments:
            with open_session() as session:
                found = session.merge_environment_settings(host, {}, None, None, None)
            self._environments[host] = {name: found[name] for name in ("proxies", "verify")}
        return self._environments[host]


class _Session(requests.Session):
    def merge_environment_settings(self, url: Any, *given: Any) -> Any:
        found = super().merge_environment_settings(url, *given)
        return {**found, "proxies": {}} if is_local(str(url)) else found

    def rebuild_proxies(self, prepared_request: Any, proxies: Any) -> Any:
        if is_local(str(prepared_request.url)):
            return {}
        return super().rebuild_proxies(prepared_request, proxies)  # type: ignore[no-untyped-call]


def open_session() -> requests.Session:
    """A session that uses the environment's proxy, if any, except for URLs of this machine: the
    proxy would connect to its own machine instead."""
    return _Session()


def _encoded(query: Mapping[str, Any]) -> str:
    """As ``urlencode``, in half the time, because names and integers are not quoted."""
    return "&".join(
        f"{name}={value if type(value) is int else quote_plus(str(value))}"
        for name, value in query.items()
    )


@lru_cache(maxsize=64)
def _normal(url: str) -> str:
    """A URL as requests sends it.

    Raises:
        requests.RequestException: it is not a URL.
    """
    return str(requests.Request("GET", url).prepare().url)


def _read(response: requests.Response, chunk_size: int, deadline: float, at_most: float) -> bytes:
    """Read the complete body by the deadline. The timeouts of requests apply to each chunk only, so
    without it a slow response could outlive the lease that protects it.

    Raises:
        requests.RequestException: the body is incomplete, late or too long.
    """
    pieces, size = [], 0
    with response:
        for part in response.iter_content(chunk_size):
            pieces.append(part)
            size += len(part)
            if size > at_most:
                raise requests.exceptions.ContentDecodingError("the answer is too long")
            if time.monotonic() > deadline:
                raise requests.ReadTimeout("the answer trickled")
    return b"".join(pieces)


def bearer(token: Secret) -> Auth:
    """The ``auth`` that sends ``token`` with a request. Not a plain header, because requests would
    replace that with an entry of ~/.netrc."""

    def sign(request: requests.PreparedRequest) -> requests.PreparedRequest:
        if not SENDABLE.fullmatch(token.reveal()):
            # http.client would refuse the header with a ValueError that quotes it.
            raise HighLevelError(
                FailureClass.ACCESS_REJECTED,
                method=str(request.method),
                path="",
                reason="the access token cannot be sent in a header",
                sent=False,
            )
        request.headers["Authorization"] = f"Bearer {token.reveal()}"
        return request

    return sign


# Why a request was not sent -----------------------------------------------------------------------


def _obstacle(error: OSError, url: str, proxies: Mapping[str, str]) -> str:
    """What must be fixed on this side before a request can be sent; empty if unknown. It quotes
    neither the error nor the proxy's address, which may contain a password."""
    if not isinstance(error, requests.RequestException):
        bundle = _variable("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
        return f"the file of certificates that {bundle} names cannot be read" if bundle else ""
    if isinstance(error, requests.exceptions.SSLError):
        return "TLS failed, or HighLevel's certificate could not be verified"
    proxy = requests.utils.select_proxy(url, proxies)
    reason = getattr(error.args[0] if error.args else None, "reason", None)
    if proxy:
        variable = _variable(f"{url.partition('://')[0]}_proxy", "all_proxy")
        if isinstance(error, requests.exceptions.InvalidSchema):
            return f"{variable} names a SOCKS proxy, which requires the package PySocks"
        if isinstance(error, requests.exceptions.InvalidProxyURL):
            return f"{variable} is not the address of a proxy"
        status = str(reason).rpartition("Tunnel connection failed: ")[2][:3]
        said = f": HTTP {status}" if status.isdecimal() else ""
        return f"the proxy that {variable} names did not let the request through{said}"
    if isinstance(reason, urllib3.exceptions.NameResolutionError):
        return "its host name could not be resolved"
    return ""


def _variable(*names: str) -> str:
    """The environment variable that applies, in the order in which requests checks them; empty if
    none is set."""
    spellings = (spelling for name in names for spelling in (name.lower(), name.upper()))
    return next((spelling for spelling in spellings if os.environ.get(spelling)), "")
