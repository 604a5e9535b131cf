"""Which calls a location has right now: those generated up to now, with later edits.

`calls` generates them. `world` owns the lock and the file, and passes `changing` and `reading`.
"""

import datetime as dt
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from voiceai_pipeline.sandbox.calls import (
    DAY_MS,
    Call,
    body_of,
    day_of_ms,
    day_start_ms,
    iso,
    outline_of_day,
    to_ms,
)
from voiceai_pipeline.sandbox.cast import SandboxLocation
from voiceai_pipeline.sandbox.faults import Fault


@dataclass
class _Edits:
    """Changes to one location's generated calls."""

    removed: set[str] = field(default_factory=set)
    added: dict[str, dict[str, Any]] = field(default_factory=dict)
    changed: dict[str, dict[str, Any]] = field(default_factory=dict)
    ever_added: int = 0


class CallBook:
    """Every call that the API can return now."""

    def __init__(
        self,
        seed: int,
        locations: Mapping[str, SandboxLocation],
        history_start: dt.date,
        now: Callable[[], dt.datetime],
        changing: Callable[[], AbstractContextManager[None]],
        reading: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self.history_start_ms = day_start_ms(history_start)
        self._seed = seed
        self._locations = locations
        self._now = now
        self._changing = changing
        self._reading = reading
        self._edits: dict[str, _Edits] = {}
        self._drawn: dict[tuple[str, int], tuple[Call, ...]] = {}

    def between(
        self, location_id: str, start: dt.datetime | None = None, end: dt.datetime | None = None
    ) -> list[dict[str, Any]]:
        """The oracle: every call the API would list now, start <= createdAt < end, oldest first."""
        location = self._locations[location_id]
        first = self.history_start_ms if start is None else to_ms(start)
        last = to_ms(self._now()) if end is None else to_ms(end) - 1
        return [self.body(location, call) for call in self.outlines(location, first, last)]

    def outlines(self, location: SandboxLocation, start_ms: int, end_ms: int) -> list[Call]:
        """Visible calls with start <= createdAt <= end, oldest first."""
        start_ms = max(start_ms, self.history_start_ms)
        end_ms = min(end_ms, to_ms(self._now()))
        found: list[Call] = []
        for number in range(start_ms // DAY_MS, end_ms // DAY_MS + 1):
            calls = self._drawn_on(location, number)
            if start_ms <= number * DAY_MS and (number + 1) * DAY_MS <= end_ms:
                found += calls
            else:
                found += [call for call in calls if start_ms <= call.created_ms <= end_ms]
        with self._reading():
            edits = self._edits.get(location.id)
            if edits is not None:
                added = map(_outline_of, edits.added.values())
                found = [call for call in found if call.id not in edits.removed]
                found += [call for call in added if start_ms <= call.created_ms <= end_ms]
                found.sort(key=lambda call: (call.created_ms, call.id))
        return found

    def _drawn_on(self, location: SandboxLocation, number: int) -> tuple[Call, ...]:
        # Keyed by id: hashing a whole location for each of a thousand days would take most of the
        # time of a list without dates.
        key = (location.id, number)
        if key not in self._drawn:
            day = day_of_ms(number * DAY_MS)
            self._drawn[key] = outline_of_day(self._seed, location, day)
        return self._drawn[key]

    def body(self, location: SandboxLocation, call: Call) -> dict[str, Any]:
        """A visible call as the API returns it now."""
        with self._reading():
            edits = self._edits.get(location.id, _Edits())
            added = edits.added.get(call.id)
            changed = edits.changed.get(call.id, {})
        drawn = added or body_of(self._seed, location, call, to_ms(self._now()))
        return {**drawn, **changed}

    def find(self, location: SandboxLocation, call_id: str) -> Call | None:
        """A visible call by its id, whose first eight hex digits are the second it was created."""
        with self._reading():
            added = self._edits.get(location.id, _Edits()).added.get(call_id)
        if added is not None:
            moment = _outline_of(added).created_ms
        else:
            try:
                moment = int(call_id[:8], 16) * 1000
            except ValueError:
                return None
        around = self.outlines(location, moment, moment + 999)
        return next((call for call in around if call.id == call_id), None)

    def add(
        self, location_id: str, created_at: dt.datetime | None = None, **fields: Any
    ) -> dict[str, Any]:
        """Add a call that the seed does not draw, by default created now; `fields` override."""
        location = self._locations[location_id]
        moment = to_ms(self._now() if created_at is None else created_at)
        with self._changing():
            edits = self._edits.setdefault(location_id, _Edits())
            edits.ever_added += 1
            body: dict[str, Any] = {
                "id": f"{moment // 1000:08x}{0xADD:08x}{edits.ever_added:08x}",
                "agentId": location.agents[0].id,
                "isAgentDeleted": False,
                "fromNumber": "+15550100042",
                "createdAt": iso(moment),
                "duration": 42,
                "trialCall": False,
                "executedCallActions": [],
                "summary": "A call added by hand.",
                "transcript": "bot:Hello\nhuman:Hello",
                **fields,
            }
            edits.added[body["id"]] = body
            return body

    def remove(self, location_id: str, call_id: str) -> None:
        """Remove a call: it is neither listed nor found any more."""
        with self._changing():
            edits = self._edits.setdefault(location_id, _Edits())
            if edits.added.pop(call_id, None) is None:
                edits.removed.add(call_id)

    def change(self, location_id: str, call_id: str, **fields: Any) -> None:
        """Overwrite fields of a call, as a late summary or a correction does."""
        with self._changing():
            edits = self._edits.setdefault(location_id, _Edits())
            edits.changed.setdefault(call_id, {}).update(fields)

    def churn(self, fault: Fault, location: SandboxLocation, start_ms: int, end_ms: int) -> None:
        """Remove and add calls as a churn rule says. A number of calls to remove means the oldest
        in the requested window."""
        gone: list[str] | tuple[str, ...]
        if isinstance(fault.remove, int):
            there = self.outlines(location, start_ms, end_ms)
            gone = [call.id for call in there[: fault.remove]]
        else:
            gone = fault.remove
        for call_id in gone:
            self.remove(location.id, call_id)
        for _ in range(fault.add):
            self.add(location.id, fault.add_at)

    def as_json(self) -> dict[str, Any]:
        return {
            location_id: {
                "removed": sorted(edits.removed),
                "added": edits.added,
                "changed": edits.changed,
                "ever_added": edits.ever_added,
            }
            for location_id, edits in self._edits.items()
        }

    def load(self, state: Mapping[str, Any]) -> None:
        self._edits = {
            location_id: _Edits(
                set(raw["removed"]), raw["added"], raw["changed"], raw["ever_added"]
            )
            for location_id, raw in state.items()
        }


def _outline_of(body: Mapping[str, Any]) -> Call:
    moment = to_ms(dt.datetime.fromisoformat(body["createdAt"]))
    return Call(
        id=body["id"],
        created_ms=moment,
        ready_ms=moment,
        agent_id=body.get("agentId", ""),
        agent_deleted=body["isAgentDeleted"],
        trial=body["trialCall"],
        contact_id=body.get("contactId", ""),
        duration=body["duration"],
        action_types=tuple(action["actionType"] for action in body["executedCallActions"]),
    )
