"""A user as the page shows them: how urgent, in which colour, with which buttons.

Pure: from a connection and the last sync; nothing is read here.
"""

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from voiceai_pipeline.calls.ledger import UserStatus
from voiceai_pipeline.core.connection import Connection, ConnectionState
from voiceai_pipeline.core.failures import FailureClass
from voiceai_pipeline.web import filters

_NOT_CONNECTED: Final = (ConnectionState.NEVER_CONNECTED, ConnectionState.DISCONNECTED)
_FINE: Final = 2


@dataclass(frozen=True)
class Button:
    """Something that can be done to a user.

    Attributes:
        path: the last part of the address that does it.
        asks: it leads to a page that asks first, instead of doing it.
        is_main: what helps most in the state at hand.
        is_usual: often enough wanted to have its place in the list.
    """

    label: str
    path: str
    asks: bool = False
    is_main: bool = False
    is_usual: bool = True


@dataclass(frozen=True)
class Row:
    """A user as the list and their own page show them."""

    connection: Connection
    last_sync: UserStatus | None

    @property
    def user_id(self) -> UUID:
        return self.connection.user.id

    @property
    def name(self) -> str:
        return self.connection.user.name

    @property
    def tone(self) -> str:
        return filters.tone(self.connection)

    @property
    def needs_attention(self) -> bool:
        return self.urgency < _FINE

    @property
    def urgency(self) -> int:
        """Smaller is shown first: what worked and no longer does, then who is not connected."""
        if self.connection.state in _NOT_CONNECTED:
            return 1
        return 0 if self.tone in ("bad", "warn") else _FINE

    @property
    def buttons(self) -> tuple[Button, ...]:
        connection = self.connection
        if connection.state in _NOT_CONNECTED:
            return (Button("Connect", "connect", is_main=True),)
        test = Button("Test", "test")
        disconnect = Button("Disconnect", "disconnect", asks=True)
        if connection.can_sync:
            return (
                Button("Sync now", "sync", is_main=True),
                test,
                Button("Reconnect", "connect", is_usual=False),
                disconnect,
            )
        if self.lacks_choice:
            choose = Button("Choose location", "location", asks=True, is_main=True)
            return (choose, Button("Reconnect", "connect"), disconnect)
        if connection.state is ConnectionState.PAUSED:
            return (
                Button("Test", "test", is_main=True),
                Button("Reconnect", "connect"),
                disconnect,
            )
        return (Button("Reconnect", "connect", is_main=True), test, disconnect)

    @property
    def last_message(self) -> str:
        """How the last sync went, in words; without the fix where the state says it already."""
        message = (self.last_sync.message if self.last_sync else None) or ""
        return message.partition(". Fix: ")[0] if self.connection.obstacle else message

    @property
    def lacks_choice(self) -> bool:
        """An agency has given consent, and nobody has said for which of its locations."""
        connection = self.connection
        is_agency = connection.user_type == "Company"
        return is_agency and connection.obstacle is FailureClass.NO_LOCATION

    def matches(self, wanted: str) -> bool:
        """Whether a search finds the user: by name, location or id."""
        connection = self.connection
        place = (connection.location_name, connection.location_id, str(connection.user.id))
        return any(
            wanted.casefold() in text.casefold() for text in (self.name, *filter(None, place))
        )
