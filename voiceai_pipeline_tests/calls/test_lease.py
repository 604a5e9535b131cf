"""A lease in memory: when it is lost, and when its worker is silent or blocked."""

import pytest

from voiceai_pipeline.calls.lease import Lease, LeaseLostError


def test_a_worker_without_a_sign_of_life_is_silent_and_one_whose_lease_expired_stops() -> None:
    now = [0.0]
    lease = Lease(10.0, lambda: now[0])
    now[0] = 9.0
    lease.check()
    assert not lease.is_silent(5)
    lease.extend(30.0)
    now[0] = 15.0
    assert lease.is_silent(5)
    now[0] = 30.0
    with pytest.raises(LeaseLostError):
        lease.check()


def test_a_worker_is_blocked_only_until_its_response_arrives() -> None:
    now = [0.0]
    lease = Lease(10.0, lambda: now[0])
    now[0] = 5.0
    assert not lease.is_blocked(1)
    with lease.requesting():
        now[0] = 6.0
        assert not lease.is_blocked(1)
        now[0] = 6.1
        assert lease.is_blocked(1)
    now[0] = 9.0
    assert not lease.is_blocked(1)
    with pytest.raises(KeyError), lease.requesting():
        raise KeyError
    assert not lease.is_blocked(-1)
