"""Connect a demo user the way a browser would: open the authorize page, choose, press Allow."""

import html.parser
import urllib.parse

import requests

_TIMEOUT_S = 30


def authorize(session: requests.Session, authorize_url: str, target: str) -> str:
    """Authorize the app; returns the callback URL with `code` and `state`.

    `target` is a location's id or, for an agency, its company id.

    Raises:
        requests.HTTPError: the page does not accept the link.
        ValueError: the page does not offer `target`.
    """
    opened = session.get(authorize_url, timeout=_TIMEOUT_S)
    opened.raise_for_status()
    form = _Form()
    form.feed(opened.text)
    if target not in form.targets:
        raise ValueError(f"the authorize page does not offer {target}")
    answer = session.post(
        urllib.parse.urljoin(opened.url, form.action),
        data={"target": target, "action": "allow"},
        timeout=_TIMEOUT_S,
        allow_redirects=False,
    )
    answer.raise_for_status()
    return answer.headers["Location"]


class _Form(html.parser.HTMLParser):
    """The address that the page's form posts to, and its choices."""

    def __init__(self) -> None:
        super().__init__()
        self.action = ""
        self.targets: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "form":
            self.action = found.get("action") or ""
        if tag == "input" and found.get("name") == "target":
            self.targets.add(found.get("value") or "")
