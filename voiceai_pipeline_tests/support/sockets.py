"""Servers on loopback that speak raw bytes or TLS, hang up or say nothing."""

import selectors
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

# Small servers ------------------------------------------------------------------------------------

Talk = Callable[[socket.socket], None]


@contextmanager
def listening(talk: Talk) -> Iterator[int]:
    """A server that gives each connection to ``talk`` and closes it; yields its port."""

    def accept(server: socket.socket, ended: threading.Event) -> None:
        server.settimeout(0.05)
        while not ended.is_set():
            try:
                connection, _ = server.accept()
            except TimeoutError:
                continue
            with connection:
                connection.settimeout(5)
                try:
                    talk(connection)
                except OSError:
                    continue

    with _serving(accept) as port:
        yield port


@contextmanager
def _serving(serve: Callable[[socket.socket, threading.Event], None]) -> Iterator[int]:
    """Runs ``serve`` in a thread until the event is set, with a server; yields its port."""
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, args=(server, ended), daemon=True)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            ended.set()
            thread.join()


@contextmanager
def forwarding_to(path: Path) -> Iterator[int]:
    """A port that leads to the server behind a Unix socket, for any number of connections."""
    others: dict[socket.socket, socket.socket] = {}

    def connect(server: socket.socket, ready: selectors.DefaultSelector) -> None:
        client, behind = server.accept()[0], socket.socket(socket.AF_UNIX)
        behind.connect(str(path))
        for one, other in ((client, behind), (behind, client)):
            others[one] = other
            ready.register(one, selectors.EVENT_READ)

    def carry(source: socket.socket, ready: selectors.DefaultSelector) -> None:
        try:
            block = source.recv(1 << 16)
            others[source].sendall(block)
        except OSError:
            block = b""
        if not block:
            for one in (source, others[source]):
                ready.unregister(one)
                others.pop(one).close()

    def forward(server: socket.socket, ended: threading.Event) -> None:
        with selectors.DefaultSelector() as ready:
            ready.register(server, selectors.EVENT_READ)
            while not ended.is_set():
                for key, _ in ready.select(0.05):
                    if key.fileobj is server:
                        connect(server, ready)
                    elif isinstance(key.fileobj, socket.socket) and key.fileobj in others:
                        carry(key.fileobj, ready)
        for one in others:
            one.close()

    with _serving(forward) as port:
        yield port


def certificate(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """A certificate of 127.0.0.1 that only who is given its file trusts, and a server's context."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    address = x509.IPAddress(IPv4Address("127.0.0.1"))
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime(2026, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=36_500))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = folder / "endpoint.pem"
    pem.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + signed.public_bytes(serialization.Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return pem, context


def says(text: bytes) -> Talk:
    """Reads what comes first, answers with ``text`` and hangs up."""

    def talk(connection: socket.socket) -> None:
        connection.recv(65_536)
        connection.sendall(text)

    return talk


def hangs_up(_: socket.socket) -> None:
    """Takes a connection and closes it at once."""


def is_silent(connection: socket.socket) -> None:
    """Reads and says nothing, for longer than the client waits."""
    while connection.recv(65_536):
        pass
