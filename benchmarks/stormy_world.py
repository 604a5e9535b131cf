"""A faulty HighLevel and its users: a share of all requests fails, in one of all the ways that the
sandbox knows, and calls come and go while they are read. The seed makes it repeatable.

The pipeline is not here, but in ``soak.py``.
"""

import random
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from voiceai_pipeline.sandbox.cast import DemoUser, Envelope, SandboxLocation, make_location
from voiceai_pipeline.sandbox.faults import CALL_LOGS, KINDS, TOKEN_PATH, VARIANTS, Fault
from voiceai_pipeline.sandbox.world import World

LOSING: Final = ("reset", "lost_token_response", "stall", "truncated_json", "gzip_lie")
"""Faults after which a refresh token is spent and its successor is lost."""

OF_THE_API: Final = tuple(
    kind for kind in KINDS if kind not in ("lost_token_response", "bad_client")
)
OF_TOKENS: Final = tuple(
    kind for kind in KINDS if kind not in ("unauthorized", "forbidden_location", "churn")
)
"""The token endpoint says nothing about access tokens and locations."""


class StormyWorld(World):
    """A HighLevel in which a share of all requests fails.

    Which requests fail depends on the seed and, per location and path, on the number of earlier
    requests. The order of threads does not matter.

    Attributes:
        share: the share of requests that fail; 0 for none.
        asked: requests by path.
        injected: faults by kind.
        lost: per location, exchanges whose answer was lost since the last consent.
        refused: locations to which a scope or the location itself was denied.
        removed, added: calls that vanished or arrived while they were read, since ``still``.
        oldest: no call before this changes.
        settled_before: older calls are not re-read unless the total shows a change.
        touched: locations at which such an old call has changed.
    """

    def __init__(self, seed: int, **options: Any) -> None:
        super().__init__(seed, **options)
        self.share = 0.0
        self.asked: Counter[str] = Counter()
        self.injected: Counter[str] = Counter()
        self.lost: Counter[str] = Counter()
        self.refused: set[str] = set()
        self.removed: defaultdict[str, set[str]] = defaultdict(set)
        self.added: defaultdict[str, set[str]] = defaultdict(set)
        self.gone: set[tuple[str, str]] = set()
        self.oldest = datetime.min.replace(tzinfo=UTC)
        self.settled_before = datetime.min.replace(tzinfo=UTC)
        self.touched: set[str] = set()
        self._nth: Counter[tuple[str, str]] = Counter()

    def still(self) -> None:
        self.removed.clear()
        self.added.clear()

    def vanish(self, location_id: str, call_id: str) -> None:
        self.calls.remove(location_id, call_id)
        self.removed[location_id].add(call_id)
        self.gone.add((location_id, call_id))

    def arrive(self, location_id: str, at: datetime) -> None:
        self.added[location_id].add(self.calls.add(location_id, at)["id"])

    def change_calls(self, chance: random.Random, window: timedelta) -> None:
        """Correct a call, remove one or list one late, in one location of twenty.

        Mostly in the trailing ``window``, which is re-read; sometimes before it, where only the
        total shows it.
        """
        locations = sorted(self.locations)
        for location_id in chance.sample(locations, max(1, len(locations) // 20)):
            at = self.clock() - window * chance.random()
            first, last = max(at, self.settled_before), at + timedelta(hours=8)
            around = self.calls.between(location_id, first, min(last, self.clock()))
            what = chance.choice(("change", "vanish", "arrive", "old"))
            if what == "arrive":
                self.arrive(location_id, first)
            elif what == "old":
                self._change_something_old(chance, location_id)
            elif around and what == "vanish":
                self.vanish(location_id, chance.choice(around)["id"])
            elif around:
                call_id = chance.choice(around)["id"]
                self.calls.change(location_id, call_id, summary=f"Corrected {chance.random()}")

    def _change_something_old(self, chance: random.Random, location_id: str) -> None:
        old = self.calls.between(location_id, self.oldest, self.settled_before)
        silent = self.envelope(self.locations[location_id]) == "no_total"
        if not old or silent or location_id in self.touched:
            return
        self.touched.add(location_id)
        if chance.random() < 0.5:
            self.vanish(location_id, chance.choice(old)["id"])
        else:
            span = self.settled_before - self.oldest
            self.arrive(location_id, self.oldest + span * chance.random())

    def fire_faults(
        self, location_ids: set[str], path: str, window: tuple[float, float] | None
    ) -> list[Fault]:
        with self.locked():
            self.asked[path] += 1
            fired = super().fire_faults(location_ids, path, window)
            key = " ".join(sorted(location_ids)), path
            self._nth[key] += 1
            chance = random.Random(f"{self.seed}/{key}/{self._nth[key]}")  # noqa: S311
            if not fired and self.share and chance.random() < self.share:
                fired = self._something(chance, location_ids, path, window)
            for fault in fired:
                self.injected[fault.kind] += 1
                if path == TOKEN_PATH and fault.kind in LOSING:
                    self.lost.update(location_ids)
                if fault.kind == "forbidden_location" or (
                    fault.kind == "unauthorized" and fault.variant in ("scope", "authclass")
                ):
                    self.refused |= location_ids
        return [fault for fault in fired if fault.kind != "churn"]

    def _something(
        self,
        chance: random.Random,
        location_ids: set[str],
        path: str,
        window: tuple[float, float] | None,
    ) -> list[Fault]:
        kind: Any = chance.choice(OF_TOKENS if path == TOKEN_PATH else OF_THE_API)
        variant: Any = chance.choice(VARIANTS)
        if kind == "churn" and (path != CALL_LOGS or window is None):
            return []
        if kind == "churn" and window is not None and not self._churn(chance, location_ids, window):
            return []
        return [Fault(kind, seconds=60 if kind == "stall" else 0.01, variant=variant)]

    def _churn(
        self, chance: random.Random, location_ids: set[str], window: tuple[float, float]
    ) -> bool:
        """Let a call vanish and one arrive before the answer; returns whether anything changed. A
        location's settled calls change only once: a second change might cancel the first in the
        total (``calls/reconciliation.py``)."""
        first, last = (datetime.fromtimestamp(ms / 1000, UTC) for ms in window)
        first, last = max(first, self.oldest), min(last, self.clock())
        (location_id,) = (one for one in location_ids if one in self.locations)
        there = self.calls.between(location_id, first, last)
        settled = first < self.settled_before
        if not there or (settled and location_id in self.touched):
            return False
        if settled:
            if self.envelope(self.locations[location_id]) == "no_total":
                return False
            self.touched.add(location_id)
        self.vanish(location_id, chance.choice(there)["id"])
        if not settled:
            self.arrive(location_id, first + (last - first) * chance.random())
        return True


def cast(users: int, seed: int) -> tuple[tuple[DemoUser, ...], tuple[SandboxLocation, ...]]:
    """Users with a location each; one user in twenty shares one, one in thirty connects through an
    agency, and some locations answer in the undocumented shapes."""
    chance = random.Random(seed)  # noqa: S311
    zones = ("UTC", "America/New_York", "Europe/Berlin", "Australia/Lord_Howe", "Pacific/Auckland")
    locations: list[SandboxLocation] = []
    members: list[DemoUser] = []
    for n in range(1, users + 1):
        if n % 20 == 0:
            location = chance.choice([one for one in locations if not one.name.endswith("Branch")])
        else:
            envelope: Envelope = chance.choices(("spec", "wild", "no_total"), (17, 2, 1))[0]
            location = make_location(
                f"Shop {n} Branch" if n % 30 == 7 else f"Shop {n}",
                n,
                "shop",
                chance.choice(zones),
                chance.randrange(1, 16),
                envelope=envelope,
            )
            locations.append(location)
        members.append(
            DemoUser(
                str(UUID(int=0x4000_8000_0000_0000_0000 + n)),
                "Kim",
                "Doe",
                f"User {n}",
                location.id,
                location.company_id,
                installs_as="Company" if n % 30 == 7 else "Location",
            )
        )
    return tuple(members), tuple(locations)
