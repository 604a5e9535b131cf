"""All users and locations: read each time, or kept for a while if there are very many."""

from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa

from voiceai_pipeline.web.known_users import JUST_NOW, KEPT, MANY, KnownUsers

UTC = ZoneInfo("UTC")


class Monotonic:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


def add(engine: sa.Engine, users: int, name: str) -> None:
    query = (
        "INSERT INTO users (id, business_name) "
        "SELECT gen_random_uuid(), :name || n FROM generate_series(1, :users) n"
    )
    with engine.begin() as db:
        db.execute(sa.text(query), {"users": users, "name": name})


def add_location(engine: sa.Engine, location_id: str, zone: str) -> None:
    query = (
        "INSERT INTO locations (location_id, name, timezone, first_seen_at, last_seen_at) "
        "VALUES (:id, :id, :zone, now(), now())"
    )
    with engine.begin() as db:
        db.execute(sa.text(query), {"id": location_id, "zone": zone})


@pytest.mark.parametrize(("users", "is_kept"), [(3, False), (MANY + 1, True)])
def test_very_many_are_kept_for_half_a_minute_and_few_are_read_each_time(
    engine: sa.Engine, users: int, is_kept: bool
) -> None:
    monotonic = Monotonic()
    known = KnownUsers(monotonic)
    add(engine, users, "Shop ")
    with engine.begin() as db:
        before = known.read(db, UTC)
    assert len(before.users) == users

    add(engine, 1, "New ")
    add_location(engine, "LocNew", "Europe/Berlin")
    monotonic.now += KEPT - 1
    with engine.begin() as db:
        assert len(known.read(db, UTC).users) == (users if is_kept else users + 1)
        monotonic.now += 1
        later = known.read(db, UTC)
    assert len(later.users) == users + 1
    assert later.zones == {"LocNew": ZoneInfo("Europe/Berlin")}


def test_everyone_is_read_again_for_what_the_kept_ones_lack(engine: sa.Engine) -> None:
    monotonic = Monotonic()
    known = KnownUsers(monotonic)
    add(engine, MANY + 1, "Shop ")
    with engine.begin() as db:
        before = known.read(db, UTC)
    add(engine, 1, "New ")
    with engine.begin() as db:
        assert known.read(db, UTC, besides=before) is before
        monotonic.now += JUST_NOW
        found = known.read(db, UTC, besides=before)
        assert len(found.users) == MANY + 2
        assert known.read(db, UTC) is found
