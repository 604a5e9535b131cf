"""A shared location is read with the first credentials that work."""

from uuid import UUID

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from voiceai_pipeline.connections.shared_location import AllRefusedError, read_with_any
from voiceai_pipeline.core.connection import Connection, ConnectionState, User
from voiceai_pipeline.core.failures import PROVIDER_FAILURES, FailureClass, PipelineError
from voiceai_pipeline.highlevel.errors import Endpoint, HighLevelError, meaning

ADA, BEN = (Connection(User(UUID(int=n), f"user {n}"), ConnectionState.CONNECTED) for n in (1, 2))


class Requests:
    """A request that fails for some users, and records the users it was made for."""

    def __init__(self, failures: dict[Connection, FailureClass]) -> None:
        self.failures = failures
        self.asked: list[Connection] = []

    def __call__(self, user: Connection) -> str:
        self.asked.append(user)
        if user in self.failures:
            raise PipelineError(self.failures[user], user.user.name)
        return f"read as {user.user.name}"


def test_the_next_user_is_tried_only_after_a_credential_failure() -> None:
    refused: dict[UUID, PipelineError] = {}
    request = Requests({ADA: FailureClass.REFRESH_REJECTED})
    assert read_with_any([ADA, BEN], request, refused) == "read as user 2"
    assert {user: error.failure for user, error in refused.items()} == {
        ADA.user.id: FailureClass.REFRESH_REJECTED
    }
    request = Requests({ADA: FailureClass.PROVIDER_ERROR})
    with pytest.raises(PipelineError) as raised:
        read_with_any([ADA, BEN], request)
    assert raised.value.failure is FailureClass.PROVIDER_ERROR
    assert request.asked == [ADA]


def test_a_user_who_was_refused_before_is_skipped() -> None:
    request = Requests({})
    refused = {ADA.user.id: PipelineError(FailureClass.SCOPE_MISSING)}
    assert read_with_any([ADA, BEN], request, refused) == "read as user 2"
    assert request.asked == [BEN]


def test_a_location_that_refuses_every_user_fails_with_the_last_reason() -> None:
    request = Requests({ADA: FailureClass.REFRESH_REJECTED, BEN: FailureClass.WRONG_LOCATION})
    with pytest.raises(AllRefusedError) as raised:
        read_with_any([ADA, BEN], request)
    assert (raised.value.failure, raised.value.detail) == (FailureClass.WRONG_LOCATION, "user 2")
    with pytest.raises(AllRefusedError) as raised:
        read_with_any([], request)
    assert raised.value.failure is FailureClass.NO_CONNECTION


@given(status=st.sampled_from([401, 403]), wording=st.text(max_size=200))
def test_a_401_or_403_of_any_wording_lets_the_next_user_be_asked(status: int, wording: str) -> None:
    error = HighLevelError(
        meaning(Endpoint.API, status, wording), method="GET", path="/calls", status=status
    )
    assume(error.failure not in PROVIDER_FAILURES | {FailureClass.LOCATION_PAUSED})
    refused: dict[UUID, PipelineError] = {}

    def request(user: Connection) -> str:
        if user == ADA:
            raise error
        return "read"

    assert read_with_any([ADA, BEN], request, refused) == "read"
    assert refused == {ADA.user.id: error}


def test_an_unknown_refusal_of_every_user_stays_a_failure_of_the_location() -> None:
    error = HighLevelError(FailureClass.UNKNOWN_ANSWER, method="GET", path="/calls", status=403)

    def request(_user: Connection) -> str:
        raise error

    with pytest.raises(HighLevelError) as raised:
        read_with_any([ADA, BEN], request)
    assert raised.value is error
