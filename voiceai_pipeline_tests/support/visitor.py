"""A browser's requests without a browser: opens pages and sends their forms."""

import base64
import html
import re
import time
import zlib
from dataclasses import dataclass, field
from html.parser import HTMLParser
from urllib.parse import parse_qs, urlencode, urljoin, urlsplit
from uuid import UUID

import requests

PASSWORD = "correct horse battery"
"""Of pages that have one."""


@dataclass
class Visitor:
    """Opens pages and sends their forms, as a browser would."""

    url: str
    headers: dict[str, str] = field(default_factory=dict)
    session: requests.Session = field(default_factory=requests.Session)

    def __enter__(self) -> "Visitor":
        return self

    def __exit__(self, *_: object) -> None:
        self.session.close()

    def get(self, path: str = "/", *, follow: bool = True) -> requests.Response:
        return self.session.get(
            self._absolute(path), headers=self.headers, allow_redirects=follow, timeout=60
        )

    def post(
        self, path: str, fields: dict[str, str] | None = None, *, token: str | None = None,
        follow: bool = True, **headers: str,
    ) -> requests.Response:  # fmt: skip
        """Send a form; with the token of the page at ``/`` unless another is given."""
        token = self.token() if token is None else token
        return self.session.post(
            self._absolute(path),
            data={"form_token": token, **(fields or {})},
            headers={**self.headers, **{k.replace("_", "-"): v for k, v in headers.items()}},
            allow_redirects=follow,
            timeout=60,
        )

    def token(self, path: str = "/") -> str:
        """The token of the forms of a page; on a busy machine it may have to be reloaded."""
        deadline = time.monotonic() + 120
        while (page := self.get(path)).status_code == 503 and time.monotonic() < deadline:
            pass  # the page itself waits five seconds for the database
        found = re.search(r'name="form_token" value="([^"]+)"', page.text)
        assert found is not None, page.text
        return found[1]

    def begin(self, user_id: UUID, back: str = "/") -> str:
        """Press Connect; the address of the authorize page that the response leads to."""
        answer = self.post(f"/users/{user_id}/connect", {"back": back}, follow=False)
        found = re.search(r'http-equiv="refresh" content="0;url=([^"]+)"', answer.text)
        assert found is not None, answer.text
        return html.unescape(found[1])

    def allow(self, authorize_url: str, target: str = "") -> str:
        """Give consent on the sandbox's authorize page; the callback's address."""
        opened = self.session.get(authorize_url, timeout=60)
        form = _AuthorizeForm()
        form.feed(opened.text)
        answer = self.session.post(
            urljoin(opened.url, form.action),
            data={"target": target or form.checked, "action": "allow"},
            allow_redirects=False,
            timeout=60,
        )
        return answer.headers["Location"]

    def connect(self, user_id: UUID, target: str = "") -> requests.Response:
        return self.get(self.allow(self.begin(user_id), target))

    def log_in(self, password: str = PASSWORD, **fields: str) -> requests.Response:
        return self.post(
            "/login", {"password": password, **fields}, token=self.token("/login"), follow=False
        )

    def _absolute(self, path: str) -> str:
        return path if path.startswith("http") else self.url + path


class _AuthorizeForm(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.action = ""
        self.checked = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "form":
            self.action = found.get("action") or ""
        if tag == "input" and "checked" in found:
            self.checked = found.get("value") or ""


def unsigned(cookie: str) -> str:
    """What anyone can read in a signed cookie."""
    compressed, payload = cookie.startswith("."), cookie.lstrip(".").partition(".")[0]
    raw = base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))
    return (zlib.decompress(raw) if compressed else raw).decode()


def with_query(url: str, **changed: str | None) -> str:
    """An address with parameters replaced, or removed where None."""
    parts = urlsplit(url)
    query = {**{k: v[0] for k, v in parse_qs(parts.query).items()}, **changed}
    given = {k: v for k, v in query.items() if v is not None}
    return parts._replace(query=urlencode(given)).geturl()
