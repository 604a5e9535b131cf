"""The users of the sandbox."""

import itertools

from voiceai_pipeline.sandbox.cast import DEMO_USERS


def test_the_demo_has_twelve_distinct_users() -> None:
    assert len({user.id for user in DEMO_USERS}) == len(DEMO_USERS) == 12
    shared = [a for a, b in itertools.combinations(DEMO_USERS, 2) if a.location_id == b.location_id]
    assert len(shared) == 1
