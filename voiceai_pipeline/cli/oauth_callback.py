"""Receives HighLevel's redirect after consent, for the command line.

If HIGHLEVEL_REDIRECT_URI points to loopback, this program catches the redirect, or the Connections
page does if it already listens there. Otherwise the user pastes the URL. Codes are secrets: they
are never a command-line argument.
"""

import http.server
import queue
import threading
import time
from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qs, urlsplit

import click

from voiceai_pipeline.connections.consent import Begun, Consent
from voiceai_pipeline.connections.consent_errors import CONNECTED, ConsentError
from voiceai_pipeline.core.connection import User
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.highlevel.transport import open_session

_CALLBACK_TIMEOUT: Final = 600.0
"""Seconds the user has to give consent in the browser."""

_TIMED_OUT: Final = (
    "No consent was given within 10 minutes. Nothing was changed; run the command again."
)


def follow(
    consent: Consent, begun: Begun, user: User, redirect_uri: str, *, open_browser: bool
) -> None:
    """Wait for the redirect and finish the consent.

    Raises:
        ConsentError: there was no redirect, or not a valid one; the text says what to do.
        ChooseLocationError, PipelineError: as ``Consent.finish``.
        click.ClickException: another program listens where the redirect goes.
    """
    target = urlsplit(redirect_uri)
    if target.hostname not in ("127.0.0.1", "localhost") or not target.port:
        if open_browser:
            click.launch(begun.url)
        pasted = click.prompt("Paste the URL you were redirected to", hide_input=True)
        query: Mapping[str, list[str]] = parse_qs(urlsplit(pasted.strip()).query)
        if "code" in query and "state" not in query and "error" not in query:
            # Only for a pasted URL: any web page can send a code to a listening port.
            click.confirm(
                "This consent began in HighLevel's marketplace, so the URL does not say whose it "
                f"is. Connect {user.name} with it?",
                abort=True,
            )
            consent.connect(user.id, Secret(query["code"][0]))
            return
    elif _is_connections_page(f"http://{target.netloc}/health"):
        if open_browser:
            click.launch(begun.url)
        _wait_for_page(consent, begun)
        return
    else:
        query = _catch_redirect(
            target.hostname, target.port, target.path, begun.url if open_browser else None
        )
    state, code, error = (query.get(name, [""])[0] for name in ("state", "code", "error"))
    if state != begun.state.reveal():
        raise ConsentError(
            "The redirect does not belong to this request (its state is wrong or missing). Nothing "
            "was changed; run the command again and use the new URL."
        )
    consent.finish(begun.state, Secret(code) if code else None, error or None)


def _is_connections_page(url: str) -> bool:
    try:
        with open_session() as session:
            answer = session.get(url, timeout=2)
        return b"voiceai-pipeline connections" in answer.content[:200]
    except (OSError, ValueError):
        return False


def _wait_for_page(consent: Consent, begun: Begun) -> None:
    """Wait until the page has received the redirect and stored the outcome."""
    deadline = time.monotonic() + _CALLBACK_TIMEOUT
    while (outcome := consent.outcome(begun.state)) is None:
        if time.monotonic() > deadline:
            raise ConsentError(_TIMED_OUT)
        time.sleep(0.5)
    if outcome != CONNECTED:
        raise ConsentError(outcome)


def _catch_redirect(
    host: str, port: int, path: str, open_url: str | None
) -> Mapping[str, list[str]]:
    answers: queue.Queue[Mapping[str, list[str]]] = queue.Queue()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = urlsplit(self.path)
            query = parse_qs(asked.query)
            if asked.path != path or not query:
                self.send_error(404)
                return
            if "prefetch" in self.headers.get("Sec-Purpose", self.headers.get("Purpose", "")):
                self.send_error(503)  # the user does not see it, so the code must not be used up
                return
            body = b"Received. See the terminal for the result; you can close this page."
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            answers.put(query)

        def do_HEAD(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Log nothing: the request line contains the code."""

    try:
        # A thread per connection: browsers open idle connections in advance.
        server = http.server.ThreadingHTTPServer((host, port), Handler)
    except OSError as error:
        raise click.ClickException(
            f"Cannot listen on {host}:{port}, where HIGHLEVEL_REDIRECT_URI points "
            f"({error.strerror}). Stop the program that uses the port, or change the variable."
        ) from error
    with server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        if open_url:
            click.launch(open_url)
        try:
            return answers.get(timeout=_CALLBACK_TIMEOUT)
        except queue.Empty:
            raise ConsentError(_TIMED_OUT) from None
        finally:
            server.shutdown()
