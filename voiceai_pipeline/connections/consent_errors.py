"""How a consent can end: the word for success, and the errors that say why it did not."""

from typing import Final
from uuid import UUID

from voiceai_pipeline.connections.consent_requests import ConnectRequest
from voiceai_pipeline.core.connection import Location

CONNECTED: Final = "connected"
"""The outcome of a successful consent; any other outcome is a sentence."""

NO_APP_VERSION: Final = (
    "If HighLevel shows noAppVersionIdFound, the link names no version of the app, or one that is "
    "still a draft: set HIGHLEVEL_APP_VERSION_ID to the version_id of the app's install link, or "
    "submit the version in the marketplace under Manage, Versions."
)
"""The one error of HighLevel's authorize page that we can cause, and both causes (CONTRACT 16)."""


class ConsentError(ValueError):
    """The callback cannot finish a consent. Nothing was changed; the text says what happened and
    what to do."""


NO_APP = (
    "No app is configured: HIGHLEVEL_CLIENT_ID is not set. For a location of your own, use a "
    "private integration token: Enter a token on the user's page, or voiceai-pipeline connect USER "
    "--private-token. For other locations, make an app: docs/highlevel-app.md."
)


class FinishedError(ConsentError):
    """The consent was finished before, so this request did nothing.

    Attributes:
        user_id: whose consent it was; None if it came from the marketplace and was not assigned.
        outcome: how it ended: ``CONNECTED`` or a sentence; None while that is not known.
    """

    def __init__(self, request: ConnectRequest) -> None:
        at = f", at {request.used_at:%H:%M} UTC" if request.used_at else ""
        said = {
            None: "and its result is not known yet: reload this page in a minute",
            CONNECTED: "and the user was connected",
        }.get(request.outcome, f"and ended so: {(request.outcome or '').rstrip('.')}")
        super().__init__(
            f"This consent was finished already{at}, {said}. An address works once: this second "
            "request changed nothing."
        )
        self.user_id = request.user_id
        self.outcome = request.outcome


class ChooseLocationError(Exception):
    """An agency's connection covers several locations, and none of them was selected.

    Attributes:
        locations: those it covers.
        user_id: whose connection it is.
    """

    def __init__(self, user_id: UUID, locations: list[Location]) -> None:
        names = ", ".join(f"{one.name or 'unnamed'} ({one.location_id})" for one in locations)
        super().__init__(f"Choose one of the agency's locations with --location: {names}.")
        self.locations = locations
        self.user_id = user_id
