"""HighLevel's redirect after a consent, on its way back to the command line.

It is caught on loopback where it leads there, by this program or by the Connections page that
listens already; else its address is pasted. Codes are secrets: they are never an argument.
"""

import http.server
import queue
import threading
import time
from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qs, urlsplit
from urllib.request import urlopen

import click

from voiceai_pipeline.connections.consent import CONNECTED, Begun, Consent, ConsentError
from voiceai_pipeline.core.secret import Secret

_CALLBACK_TIMEOUT: Final = 600.0
"""Seconds a person has to give consent in the browser."""

_NOBODY_CAME: Final = (
    "Nobody gave consent within 10 minutes; nothing was changed. Run the command again."
)


def follow(consent: Consent, begun: Begun, redirect_uri: str, *, open_browser: bool) -> None:
    """See a consent through to its end.

    Raises:
        ConsentError: it did not come, or was no good; the text says what to do.
        ChooseLocationError, PipelineError: as ``Consent.finish``.
        click.ClickException: where the redirect leads, somebody else listens.
    """
    target = urlsplit(redirect_uri)
    if target.hostname not in ("127.0.0.1", "localhost") or not target.port:
        if open_browser:
            click.launch(begun.url)
        pasted = click.prompt("Paste the address you were sent to", hide_input=True)
        query: Mapping[str, list[str]] = parse_qs(urlsplit(pasted.strip()).query)
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
            "That is not the answer to this request (another state, or none). Nothing was changed; "
            "run the command again and use the new address."
        )
    consent.finish(begun.state, Secret(code) if code else None, error or None)


def _is_connections_page(url: str) -> bool:
    try:
        with urlopen(url, timeout=2) as answer:  # noqa: S310 - loopback, from our own settings
            return b"voiceai-pipeline connections" in answer.read(200)
    except (OSError, ValueError):
        return False


def _wait_for_page(consent: Consent, begun: Begun) -> None:
    """The page takes the redirect and finishes the consent; the database tells how it ended."""
    deadline = time.monotonic() + _CALLBACK_TIMEOUT
    while (outcome := consent.outcome(begun.state)) is None:
        if time.monotonic() > deadline:
            raise ConsentError(_NOBODY_CAME)
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
            body = b"Received. The terminal says how it went; you can close this page."
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            answers.put(query)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: the request line holds the code."""

    try:
        # A thread per connection: browsers open some in advance and send nothing on them.
        server = http.server.ThreadingHTTPServer((host, port), Handler)
    except OSError as error:
        raise click.ClickException(
            f"{host}:{port}, where HIGHLEVEL_REDIRECT_URI leads, cannot be listened on "
            f"({error.strerror}). Stop the program that uses it, or change the variable."
        ) from error
    with server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        if open_url:
            click.launch(open_url)
        try:
            return answers.get(timeout=_CALLBACK_TIMEOUT)
        except queue.Empty:
            raise ConsentError(_NOBODY_CAME) from None
        finally:
            server.shutdown()
