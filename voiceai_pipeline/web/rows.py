"""How the pages show a user: urgency and buttons. The colour is ``template_filters.tone``.

Pure functions of a connection and the last sync; nothing is read here.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final
from uuid import UUID

from voiceai_pipeline.calls.ledger import UserStatus
from voiceai_pipeline.calls.user_syncs import UserSync
from voiceai_pipeline.core.connection import Connection, ConnectionState
from voiceai_pipeline.core.failures import FailureClass
from voiceai_pipeline.web import template_filters

_NOT_CONNECTED: Final = (ConnectionState.NEVER_CONNECTED, ConnectionState.DISCONNECTED)
_PAUSED: Final = 2
_FINE: Final = 3


@dataclass(frozen=True)
class Button:
    """An action for a user.

    Attributes:
        path: the last part of its address.
        is_link: it opens a page that asks first, instead of acting at once.
        is_main: the most useful one in the current state.
        is_listed: shown in the list too, not only on the user's page.
    """

    label: str
    path: str
    is_link: bool = False
    is_main: bool = False
    is_listed: bool = True


_RECONNECT: Final = Button("Reconnect", "connect", is_listed=False)


@dataclass(frozen=True)
class Row:
    """A user in the list or on the user's own page.

    Attributes:
        sync: the sync under way that an operator asked for.
    """

    connection: Connection
    last_sync: UserStatus | None
    sync: UserSync | None = None

    @property
    def user_id(self) -> UUID:
        return self.connection.user.id

    @property
    def name(self) -> str:
        return self.connection.user.name

    @cached_property
    def tone(self) -> str:
        return template_filters.tone(self.connection)

    @property
    def needs_action(self) -> bool:
        return self.urgency < _PAUSED

    @cached_property
    def urgency(self) -> int:
        """Sort key: broken connections first, then users who are not connected, then those whose
        syncs are paused, whatever their connection needs, then the rest."""
        if self.is_paused:
            return _PAUSED
        if self.is_unconnected:
            return 1
        return 0 if self.tone in ("bad", "warn") else _FINE

    @property
    def buttons(self) -> tuple[Button, ...]:
        if not self.is_paused:
            pause = Button("Pause", "pause", is_link=True, is_listed=False)
            return tuple(sorted((*self._buttons, pause), key=lambda one: one.path == "disconnect"))
        # Reading calls is refused while paused, and nothing else is urgent.
        others = (one for one in self._buttons if one.path not in ("sync", "test"))
        resume = Button("Resume", "resume", is_main=True)
        return (resume, *(replace(one, is_main=False) for one in others))

    @property
    def _buttons(self) -> tuple[Button, ...]:
        """The buttons for the state of the connection."""
        connection = self.connection
        token = Button("Enter a token", "private-token", is_link=True, is_listed=False)
        if self.is_unconnected:
            return (Button("Connect", "connect", is_main=True), token)
        test = Button("Test", "test")
        disconnect = Button("Disconnect", "disconnect", is_link=True)
        if connection.obstacle is None:
            return (
                Button("Sync now", "sync", is_main=True),
                test,
                token if connection.is_private else _RECONNECT,
                disconnect,
            )
        if self.needs_location_choice:
            choose = Button("Choose location", "location", is_link=True, is_main=True)
            return (choose, Button("Reconnect", "connect"), disconnect)
        if connection.state is ConnectionState.PAUSED:
            return (
                Button("Test", "test", is_main=True),
                Button("Reconnect", "connect"),
                disconnect,
            )
        if connection.obstacle is FailureClass.PRIVATE_TOKEN_SCOPE:
            return (replace(test, is_main=True), replace(token, is_listed=True), disconnect)
        if connection.is_private:
            enter = replace(token, is_main=True, is_listed=True)
            return (enter, test, _RECONNECT, disconnect)
        return (Button("Reconnect", "connect", is_main=True), test, token, disconnect)

    @property
    def is_unconnected(self) -> bool:
        return self.connection.state in _NOT_CONNECTED

    @property
    def is_paused(self) -> bool:
        """Whether an operator has paused the user's syncs."""
        return self.connection.pause is not None

    @property
    def has_failed(self) -> bool:
        """Whether the last sync failed, none that may fix it is under way, and none is paused."""
        failed = self.last_sync is not None and self.last_sync.status == "failure"
        return failed and self.sync is None and not self.is_paused

    @property
    def last_message(self) -> str:
        """The last sync's message, without its fix if the connection's state already names one."""
        message = (self.last_sync.message if self.last_sync else None) or ""
        return message.partition(". Fix: ")[0] if self.connection.sync_obstacle else message

    @property
    def needs_location_choice(self) -> bool:
        """Consent was given for an agency, and none of its locations has been chosen yet."""
        connection = self.connection
        is_agency = connection.user_type == "Company"
        return is_agency and connection.obstacle is FailureClass.NO_LOCATION

    def matches(self, wanted: str) -> bool:
        """Whether a search by name, location or id finds the user."""
        if not wanted:
            return True
        connection = self.connection
        ids = (connection.location_name, connection.location_id, str(connection.user.id))
        return any(wanted.casefold() in text.casefold() for text in (self.name, *filter(None, ids)))
