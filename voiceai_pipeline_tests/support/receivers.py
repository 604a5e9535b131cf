"""What receives requests in tests: small servers, real ones, on loopback."""

import base64
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from ipaddress import IPv4Address
from pathlib import Path
from socketserver import StreamRequestHandler, TCPServer, ThreadingTCPServer
from typing import Any, Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

Security = Literal["plain", "starttls", "implicit"]

HOOK_SECRET = "T00-CANARY-WEBHOOK"
HANGS_UP = ""
"""As a mail server's reply: none, and the connection is closed."""

MAIL_PASSWORD = "CANARY/mail:password@1"


@contextmanager
def serving(server: TCPServer) -> Iterator[int]:
    """Run a server in a thread; yields its port."""
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


# Whatever is posted ------------------------------------------------------------------------------

Answer = tuple[int, object]
"""A status and a body: bytes as they are, all else as JSON."""


@contextmanager
def answering(answer: Callable[[str], Answer | None]) -> Iterator[str]:
    """A server that answers every POST as `answer` says; yields its URL.

    Args:
        answer: called with the body; None closes the connection without an answer.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            answered = answer(self.rfile.read(int(self.headers["Content-Length"])).decode())
            if answered is None:
                self.close_connection = True
                return
            status, body = answered
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as port:
        yield f"http://127.0.0.1:{port}"


# Webhook -----------------------------------------------------------------------------------------


@dataclass
class Hook:
    """A webhook: ``url`` is where it listens, ``texts`` what it took, ``answers`` the statuses to
    give first."""

    url: str = ""
    answers: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    asked: int = 0
    agents: set[str | None] = field(default_factory=set)


@contextmanager
def running_hook() -> Iterator[Hook]:
    hook = Hook()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            hook.asked += 1
            hook.agents.add(self.headers["Content-Type"])
            status = hook.answers.pop(0) if hook.answers else 200
            if status == 200:
                hook.texts.append(body["text"])
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("Location", hook.url)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_POST  # noqa: N815 - as http.server calls it

        def log_message(self, *_: object) -> None:
            pass

    with serving(HTTPServer(("127.0.0.1", 0), Handler)) as port:
        hook.url = f"http://127.0.0.1:{port}/services/{HOOK_SECRET}"
        yield hook


# Mail --------------------------------------------------------------------------------------------


@dataclass
class Mailbox:
    """A mail server: ``mails`` is what it took, ``refusals`` the replies to give instead of yes, by
    the command they answer."""

    port: int = 0
    security: Security = "plain"
    mails: list[EmailMessage] = field(default_factory=list)
    recipients: list[list[str]] = field(default_factory=list)
    refusals: dict[str, str] = field(default_factory=dict)
    logins: list[tuple[str, str, bool]] = field(default_factory=list)
    """User, password, and whether they came encrypted."""

    @property
    def url(self) -> str:
        scheme = "smtps" if self.security == "implicit" else "smtp"
        return f"{scheme}://127.0.0.1:{self.port}"


class _Session(StreamRequestHandler):
    """One connection, as RFC 5321 has it."""

    mailbox: Mailbox
    context: ssl.SSLContext

    def setup(self) -> None:
        self.encrypted = self.mailbox.security == "implicit"
        if self.encrypted:
            self.request = self.context.wrap_socket(self.request, server_side=True)
        super().setup()
        self.to: list[str] = []

    def finish(self) -> None:
        super().finish()
        self.request.close()  # the server closes only the socket it accepted

    def handle(self) -> None:
        self._say("220 mail.test")
        while line := self.rfile.readline().decode().strip():
            verb, _, rest = line.partition(" ")
            refusal = self.mailbox.refusals.get(verb.upper())
            if refusal == HANGS_UP:
                return
            if refusal is not None:
                self._say(refusal)
                continue
            getattr(self, f"do_{verb.lower()}")(rest)
            if verb.upper() == "QUIT":
                return

    def _say(self, reply: str) -> None:
        self.wfile.write(f"{reply}\r\n".encode())

    def do_ehlo(self, _: str) -> None:
        offers = ["mail.test", "8BITMIME"]
        if self.mailbox.security == "starttls" and not self.encrypted:
            offers.append("STARTTLS")
        else:
            offers.append("AUTH PLAIN")
        for offer in offers[:-1]:
            self._say(f"250-{offer}")
        self._say(f"250 {offers[-1]}")

    def do_starttls(self, _: str) -> None:
        self._say("220 go on")
        self.connection = self.request = self.context.wrap_socket(self.request, server_side=True)
        self.rfile = self.connection.makefile("rb")
        self.wfile = self.connection.makefile("wb", 0)
        self.encrypted = True

    def do_auth(self, rest: str) -> None:
        _, user, password = base64.b64decode(rest.split()[1]).decode().split("\0")
        self.mailbox.logins.append((user, password, self.encrypted))
        self._say("235 welcome")

    def do_mail(self, _: str) -> None:
        self.to = []
        self._say("250 ok")

    def do_rcpt(self, rest: str) -> None:
        self.to.append(rest.partition("<")[2].partition(">")[0])
        self._say("250 ok")

    def do_data(self, _: str) -> None:
        self._say("354 go on")
        lines = []
        while (line := self.rfile.readline()) != b".\r\n":
            lines.append(line)
        mail = message_from_bytes(b"".join(lines), policy=policy.default)
        assert isinstance(mail, EmailMessage)
        self.mailbox.mails.append(mail)
        self.mailbox.recipients.append(self.to)
        self._say("250 taken")

    def do_rset(self, _: str) -> None:
        self._say("250 ok")

    def do_quit(self, _: str) -> None:
        self._say("221 bye")


@contextmanager
def running_mailbox(folder: Path, security: Security = "plain") -> Iterator[Mailbox]:
    """Args: folder: for the certificate, which is self-signed."""
    mailbox = Mailbox(security=security)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(_certificate(folder))
    session: Any = type("Session", (_Session,), {"mailbox": mailbox, "context": context})

    class Server(ThreadingTCPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """A client that hangs up is no news."""

    with serving(Server(("127.0.0.1", 0), session)) as port:
        mailbox.port = port
        yield mailbox


def _certificate(folder: Path) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mail.test")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    path = folder / "mail.pem"
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + certificate.public_bytes(pem))
    return path
