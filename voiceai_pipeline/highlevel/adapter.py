"""requests' adapter, with connections that record whether they have written anything (REQUIREMENTS
T8), and a fast path for reads.
"""

import threading
from typing import Any, Final

import requests
import urllib3
from requests.adapters import HTTPAdapter

from voiceai_pipeline.highlevel.reads import Reads


class PlainRequest(requests.PreparedRequest):
    """A read whose response does not become a full ``requests.Response``, which would take as long
    as sending the request. ``read_plain`` reads its body."""


class _PlainResponse(requests.Response):
    def __init__(self, request: PlainRequest, raw: Any) -> None:
        # Without ``super().__init__``: nothing else that it sets is used.
        self.request, self.raw = request, raw
        self.status_code, self.headers = raw.status, raw.headers


def read_plain(response: requests.Response) -> bytes:
    """Read the complete body, decompressed.

    Raises:
        requests.RequestException: the body is incomplete or damaged.
    """
    try:
        body: bytes = response.raw.read(decode_content=True)
        return body
    except urllib3.exceptions.DecodeError as error:
        raise requests.exceptions.ContentDecodingError(error) from None
    except urllib3.exceptions.HTTPError as error:
        raise requests.exceptions.ChunkedEncodingError(error) from None


class _HandedOver(threading.local):
    yes = False
    reads: Reads | None = None


handed_over = _HandedOver()
"""This thread's last request. ``yes``: its first byte was written to an established connection,
that is, after the TLS handshake and through the proxy's tunnel, if any. ``reads``: tracks the
connection of a read; None for other requests."""


class _Recording:
    """Mixed into urllib3's connections: records that bytes of a request are written."""

    _stands = False
    sock: Any

    def connect(self) -> None:
        self._stands = False  # bytes sent while connecting only ask a proxy for a tunnel
        super().connect()  # type: ignore[misc]
        if handed_over.reads is not None:
            handed_over.reads.add(self)
        self._stands = True

    def send(self, data: Any) -> None:
        if self.sock is None:
            self.connect()
        if self._stands:
            handed_over.yes = True
        super().send(data)  # type: ignore[misc]


class _Connection(_Recording, urllib3.connection.HTTPConnection):
    pass


class _TlsConnection(_Recording, urllib3.connection.HTTPSConnection):
    pass


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


_POOLS: Final = {"http": _Pool, "https": _TlsPool}


class Adapter(HTTPAdapter):
    """requests' adapter with connections that record what they write."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        self._connections: dict[Any, Any] = {}
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def get_connection_with_tls_context(
        self, request: Any, verify: Any, proxies: Any = None, cert: Any = None
    ) -> Any:
        """Cached by host and environment: the lookup takes as long as writing a request."""
        host = "/".join(request.url.split("/", 3)[:3])
        key = (host, verify, tuple((proxies or {}).items()), cert)
        if key not in self._connections:
            found = super().get_connection_with_tls_context(request, verify, proxies, cert)
            self._connections[key] = found
        return self._connections[key]

    def request_url(self, request: Any, proxies: Any) -> str:
        """The path and query; for a read without a proxy, taken without parsing the URL."""
        if proxies or not isinstance(request, PlainRequest):
            return str(super().request_url(request, proxies))
        host = "/".join(str(request.url).split("/", 3)[:3])
        return str(request.url)[len(host) :]

    def build_response(self, req: Any, resp: Any) -> requests.Response:
        if not isinstance(req, PlainRequest):
            return super().build_response(req, resp)
        return _PlainResponse(req, resp)

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **kwargs)
        if type(manager) is urllib3.ProxyManager:
            manager.pool_classes_by_scheme = _POOLS
        else:
            # A SOCKS proxy's connections are not ours, so every request counts as sent.
            handed_over.yes = True
        return manager
