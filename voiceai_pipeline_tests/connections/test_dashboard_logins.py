"""Logins of the replaced dashboard: what is accepted, and how its keys are kept."""

import time
from collections.abc import Iterator
from uuid import UUID

import jwt
import pytest

from voiceai_pipeline.connections import dashboard_logins as module
from voiceai_pipeline.connections.dashboard_logins import (
    DashboardLogins,
    LoginError,
    LoginsUnavailableError,
)
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline_tests.support.login_service import AUDIENCE, LoginService
from voiceai_pipeline_tests.support.scripted_server import Reply, Scripted

HARBOR = UUID("00000000-0000-4000-8000-000000000001")


class Hands:
    """A monotonic clock that is turned by hand."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def service() -> Iterator[LoginService]:
    with LoginService() as service:
        yield service


@pytest.fixture
def hands() -> Hands:
    return Hands()


@pytest.fixture
def logins(service: LoginService, hands: Hands) -> DashboardLogins:
    return DashboardLogins(service.jwks_url, AUDIENCE, clock=hands)


def user(logins: DashboardLogins, token: str) -> UUID:
    return logins.user_of(Secret(token))


def test_a_login_is_its_subjects_and_the_keys_are_read_once(
    logins: DashboardLogins, service: LoginService
) -> None:
    assert [user(logins, service.token(HARBOR)) for _ in range(3)] == [HARBOR] * 3
    assert service.looks == 1


def test_a_login_that_is_not_ours_now_or_at_all_is_refused(
    logins: DashboardLogins, service: LoginService
) -> None:
    good = service.token(HARBOR)
    head, claims, signature = good.split(".")
    _, others_claims, _ = service.token(UUID(int=7)).split(".")
    with LoginService() as stranger:
        others = stranger.token(HARBOR)
    refused = {
        "expired": service.token(HARBOR, exp=int(time.time()) - 60),
        "not yet": service.token(HARBOR, nbf=int(time.time()) + 600),
        "of another audience": service.token(HARBOR, aud="another app"),
        "without an audience": service.token(HARBOR, aud=None),
        "without an end": service.token(HARBOR, exp=None),
        "of no user": service.token("harbor"),
        "altered": f"{head}.{others_claims}.{signature}",
        "unsigned": f"{head}.{claims}.",
        "of no algorithm": jwt.encode({"sub": str(HARBOR)}, "", "none", {"kid": "first"}),
        "of another service": others,
        # The public key taken for a shared secret; PyJWT refuses to sign so, an attacker does not.
        "of a shared secret": service.signed_with_the_public_key(claims),
        "no JWT": "a.b.c",
        "deep": "W1tb" * 5000 + ".b.c",
    }
    for name, token in refused.items():
        with pytest.raises(LoginError) as refusal:
            user(logins, token)
        assert str(refusal.value).endswith("."), name
        assert token[:12] not in str(refusal.value)


def test_a_new_key_is_found_at_once_and_a_withdrawn_one_ends_within_minutes(
    logins: DashboardLogins, service: LoginService, hands: Hands
) -> None:
    old = service.token(HARBOR)
    user(logins, old)
    hands.now += module.PAUSE + 1
    service.rotate("second")
    assert user(logins, old) == HARBOR

    assert user(logins, service.token(HARBOR)) == HARBOR
    with pytest.raises(LoginError):
        user(logins, old)
    second = service.token(HARBOR)
    service.rotate("third")
    hands.now += module.KEPT + 1
    with pytest.raises(LoginError):
        user(logins, second)
    assert user(logins, service.token(HARBOR)) == HARBOR


def test_unknown_keys_do_not_make_us_ask_again_and_again(
    logins: DashboardLogins, service: LoginService
) -> None:
    user(logins, service.token(HARBOR))
    service.rotate("second")
    for _ in range(5):
        with pytest.raises(LoginError):
            user(logins, service.token(HARBOR))

    assert service.looks == 1


def test_while_the_service_is_away_known_keys_serve_for_an_hour(
    logins: DashboardLogins, service: LoginService, hands: Hands
) -> None:
    token = service.token(HARBOR)
    user(logins, token)
    service.is_down = True
    hands.now += module.KEPT_IN_NEED - 1
    assert user(logins, token) == HARBOR
    hands.now += 2
    with pytest.raises(LoginsUnavailableError):
        user(logins, token)
    service.is_down = False
    hands.now += module.PAUSE + 1
    assert user(logins, token) == HARBOR


@pytest.mark.parametrize(
    "body",
    [b"<html>", b"[]", b'{"keys": 7}', b"[" * 50_000, b" " * 200_000, b'{"keys": [7, {}]}'],
    ids=["html", "list", "number", "deep", "long", "odd keys"],
)
def test_an_answer_that_is_no_key_set_lets_no_one_in(body: bytes, service: LoginService) -> None:
    with Scripted(Reply(body)) as server, pytest.raises((LoginsUnavailableError, LoginError)):
        user(DashboardLogins(server.url, AUDIENCE), service.token(HARBOR))
