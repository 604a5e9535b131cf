"""Private integration tokens: one for each location, until it is rotated (CONTRACT 14).

A token is derived from the location and the number of its rotations, so the front page can show it.
`world` owns the lock and the file, and passes `changing`.
"""

import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Final

from voiceai_pipeline.sandbox.cast import (
    AGENT_SCOPE,
    CALL_LOG_SCOPE,
    LOCATION_SCOPE,
    SandboxLocation,
)
from voiceai_pipeline.sandbox.oauth import Grant

PREFIX: Final = "pit-"
_ALL: Final = (CALL_LOG_SCOPE, AGENT_SCOPE, LOCATION_SCOPE)
_USER: Final = "UsrSandbox0000000000"


class PrivateTokens:
    """The token of each location, and what it may read."""

    def __init__(
        self,
        locations: Mapping[str, SandboxLocation],
        changing: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._locations = locations
        self._changing = changing
        self._rotations: dict[str, int] = {}
        self._scopes: dict[str, tuple[str, ...]] = {}

    def of(self, location_id: str) -> str:
        """The current token of a location."""
        rotations = self._rotations.get(location_id, 0)
        return f"{PREFIX}{uuid.uuid5(uuid.NAMESPACE_URL, f'{location_id}/{rotations}')}"

    def rotate(self, location_id: str) -> str:
        """Make a new token; the old one is refused from now on."""
        with self._changing():
            self._rotations[location_id] = self._rotations.get(location_id, 0) + 1
        return self.of(location_id)

    def tick(self, location_id: str, scopes: Iterable[str]) -> None:
        """Set the scopes of a location's token, which stays the same."""
        with self._changing():
            self._scopes[location_id] = tuple(scopes)

    def grant_of(self, token: str) -> Grant | None:
        """The grant of a token; None if it is not a location's current token."""
        for location in self._locations.values():
            if self.of(location.id) == token:
                scopes = self._scopes.get(location.id, _ALL)
                return Grant("Location", location.company_id, location.id, _USER, scopes)
        return None

    def as_json(self) -> dict[str, Any]:
        return {"rotations": self._rotations, "scopes": self._scopes}

    def load(self, raw: Mapping[str, Any]) -> None:
        self._rotations = dict(raw.get("rotations", {}))
        self._scopes = {key: tuple(value) for key, value in raw.get("scopes", {}).items()}
