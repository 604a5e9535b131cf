"""Security headers of every response, and the host names that are answered."""

import socket
from urllib.parse import urlsplit

import requests

from voiceai_pipeline.core.settings import PageSettings
from voiceai_pipeline.web.guard import allowed_hosts
from voiceai_pipeline_tests.support.installation import Installation, Open


def test_every_response_has_the_headers_errors_included(
    installation: Installation,
) -> None:
    answers = [
        requests.get(installation.url + path, timeout=60, headers=headers, allow_redirects=False)
        for path, headers in (
            ("/", {}),
            ("/nothing", {}),
            ("/health", {}),
            ("/static/page.css", {}),
            ("/static/nothing", {}),
            ("/functions/v1/oauth-test", {}),
            ("/oauth/callback", {}),
            ("/", {"Host": "evil.test"}),
        )
    ]

    for answer in answers:
        policy = answer.headers["Content-Security-Policy"].split("; ")
        ours = ["script-src 'self'", "connect-src 'self'"]
        assert [one for one in policy if one not in ours] == [
            "default-src 'none'",
            "style-src 'self'",
            "img-src 'self' data:",
            "form-action 'self'",
            "frame-ancestors 'none'",
            "base-uri 'none'",
        ]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert answer.headers["Referrer-Policy"] == "same-origin"
        assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert "camera=()" in answer.headers["Permissions-Policy"]
        assert answer.headers["Cache-Control"] == "no-store"
        assert "Strict-Transport-Security" not in answer.headers
        assert "server" not in answer.headers


def test_over_https_browsers_must_keep_using_https(open_page: Open) -> None:
    with open_page(VOICEAI_PAGE_URL="https://calls.example.test") as installation:
        answer = requests.get(f"{installation.url}/health", timeout=60)

    assert answer.headers["Strict-Transport-Security"] == "max-age=31536000"


def test_an_unknown_host_name_is_not_answered(open_page: Open) -> None:
    """DNS rebinding: the scripts of that site could read every response."""
    with open_page(VOICEAI_PAGE_URL="https://calls.example.test") as installation:
        port = installation.url.rpartition(":")[2]

        def status(host: str) -> int:
            answer = requests.get(f"{installation.url}/health", headers={"Host": host}, timeout=60)
            return answer.status_code

        for host in ("127.0.0.1", f"localhost:{port}", f"[::1]:{port}", "calls.example.test"):
            assert status(host) == 200
        for host in ("evil.test", "127.0.0.1.evil.test", "calls.example.test.evil.test", "[::2]"):
            assert status(host) == 400
        # One of ours with something behind it, which would be in Dagster's policy.
        for rest in (", evil.test", ":evil.test", ":1; script-src *", ":1@evil.test", ":", " x"):
            assert status(f"127.0.0.1{rest}") == 400
            assert status(f"[::1]{rest}") == 400


def test_a_request_that_says_twice_how_long_it_is_is_refused_with_all_that_follows(
    installation: Installation,
) -> None:
    address = urlsplit(installation.url)
    request = (
        f"POST /login HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Length: 60\r\n"
        "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        f"GET /health HTTP/1.1\r\nHost: {address.netloc}\r\n\r\n"
    )
    with socket.create_connection((address.hostname, address.port), timeout=60) as client:
        client.sendall(request.encode())
        answers = b"".join(iter(lambda: client.recv(65536), b""))
    assert answers.startswith(b"HTTP/1.1 400 ")
    assert b"says twice how long it is" in answers
    assert answers.count(b"HTTP/1.1 ") == 1


def test_the_bound_address_is_one_of_the_host_names() -> None:
    page = PageSettings("fd00::7", 8791, "http://[fd00::7]:8791", "http://127.0.0.1:3000")

    assert "[fd00::7]" in allowed_hosts(page)
