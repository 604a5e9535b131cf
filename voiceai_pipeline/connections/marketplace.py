"""Consents that began in HighLevel's marketplace, or with an app's test link (CONTRACT 15).

They come back with a code and without a state, so nothing shows which user they are for, or that
one of ours asked for them. The code is kept, encrypted, until a logged-in operator names the user.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Final
from uuid import UUID

import sqlalchemy as sa

from voiceai_pipeline.connections import consent_requests
from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.connections.consent import Consent
from voiceai_pipeline.connections.consent_errors import ConsentError, FinishedError
from voiceai_pipeline.connections.queries import UnknownUserError
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.connection import Connection
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.database.engine import read_clock

_CODE: Final = "connect_requests.code"

_LONGEST: Final = 2_000
"""The most characters of a code: HighLevel's have a few dozen."""


class Marketplace:
    """Keeps the consents that wait for an operator.

    Args:
        consent: finishes them.
        now: replaces the database's clock where time is simulated; aware UTC.
    """

    def __init__(
        self,
        engine: sa.Engine,
        vault: TokenVault,
        consent: Consent,
        *,
        now: Callable[[], datetime] | None = None,
    ) -> None:
        self._engine = engine
        self._vault = vault
        self._consent = consent
        self._now = now

    def hold(self, code: Secret, address: str | None) -> str:
        """Keep a consent that began in HighLevel's marketplace. Its code is not spent.

        Args:
            address: the sender's address; None: an operator's browser.

        Returns:
            The key with which a logged-in operator assigns it to a user (``assign``).

        Raises:
            FinishedError: the code was assigned before.
            ConsentError: it is too long to be a code.
        """
        if len(code.reveal()) > _LONGEST:
            raise ConsentError("This is not a code from HighLevel. Nothing was changed.")
        key = consent_requests.key_of(code)
        with self._engine.begin() as db:
            now = read_clock(db, self._now)
            request = consent_requests.find_key(db, key)
            if request is None:
                sealed = self._vault.encrypt(code, _CODE, _owner(key))
                consent_requests.hold(db, key, sealed, address, now)
        if request is not None and request.used_at is not None:
            raise FinishedError(self._consent.ended(request))
        return key

    def held(self) -> list[consent_requests.ConnectRequest]:
        """The consents from the marketplace that wait for an operator, in the order in which to
        show them."""
        with self._engine.begin() as db:
            return consent_requests.held(db, read_clock(db, self._now))

    def assign(self, key: str, user_id: UUID) -> Connection:
        """Connect a user with a consent that began in HighLevel's marketplace.

        Args:
            key: as returned by ``hold``.

        Raises:
            FinishedError: it was assigned before.
            ConsentError: it is unknown or has waited too long.
            UnknownUserError, ChooseLocationError, PipelineError: as ``connect``.
        """
        with self._engine.begin() as db:
            if connections.one(db, user_id) is None:
                raise UnknownUserError(f"no user {user_id}")
            request = consent_requests.find_key(db, key)
            assigned = request is not None and consent_requests.assign(
                db, key, user_id, read_clock(db, self._now)
            )
        if request is not None and request.used_at is not None:
            raise FinishedError(self._consent.ended(request))
        if request is None or request.sealed_code is None or not assigned:
            raise ConsentError(
                "This consent has waited too long: HighLevel's codes last ten minutes. Nothing was "
                "changed; install the app again, or press Connect."
            )
        code = self._vault.decrypt(request.sealed_code, _CODE, _owner(key))
        return self._consent.conclude(key, user_id, code, None)


def _owner(key: str) -> UUID:
    """The id that a held code is encrypted for, in place of a user's."""
    return UUID(bytes=bytes.fromhex(key)[:16])
